"""Errors, paths, model files and processes: what every other package may use."""
