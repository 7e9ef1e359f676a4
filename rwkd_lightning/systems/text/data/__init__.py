"""Labelled texts: tasks, splits, tokens, loaders."""
