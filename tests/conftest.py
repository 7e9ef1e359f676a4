"""What holds for all tests, and for the processes that they start."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # those about unreachable hubs would wait for retries
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two tests run at a time
