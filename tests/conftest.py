"""What holds for all tests, and for the processes that they start."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # those about unreachable hubs would wait for retries
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two tests run at a time

# warnings of our own code are errors in other processes too; this variable takes no patterns, so every module is named
ROOT = Path(__file__).parents[1]
MODULES = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sorted((ROOT / "rwkd_lightning").rglob("*.py"))]
os.environ["PYTHONWARNINGS"] = ",".join(f"error:::{name.removesuffix('.__init__')}" for name in ["__main__", *MODULES])
