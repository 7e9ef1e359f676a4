"""Tasks, splits, batching and the data module."""
