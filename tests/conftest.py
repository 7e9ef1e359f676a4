"""For all tests, and for the runs of train.py that they start."""

import os
from pathlib import Path

# no test asks a hub for anything; without this, those about unreachable hubs would wait for retries
os.environ["HF_HUB_OFFLINE"] = "1"

# warnings of our own code are errors in other processes too; this variable takes no patterns, so every module is named
ROOT = Path(__file__).parents[1]
MODULES = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sorted((ROOT / "rwkd_lightning").rglob("*.py"))]
os.environ["PYTHONWARNINGS"] = ",".join(f"error:::{name.removesuffix('.__init__')}" for name in ["__main__", *MODULES])
