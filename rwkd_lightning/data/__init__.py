"""Tasks, splits, corruption probes, batching and the data module."""
