"""The command line of ``train.py``: help, spelling of overrides, values, and the folder of a run."""
