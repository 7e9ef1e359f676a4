"""The staged run behind ``train.py``; the only part that reads Hydra's configs."""
