"""What holds for all tests, and for the processes that they start."""

import os
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # those about unreachable hubs would wait for retries
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two tests run at a time

# warnings of our own code are errors in other processes too; this variable takes no patterns, so every module is named
ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sorted((ROOT / "rwkd_lightning").rglob("*.py"))
]
os.environ["PYTHONWARNINGS"] = ",".join(f"error:::{name.removesuffix('.__init__')}" for name in ["__main__", *MODULES])


@pytest.fixture
def last(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """The last checkpoint of each finished training of a student, by the name of its folder."""
    from rwkd_lightning.run import distil as stages
    from rwkd_lightning.run.checkpoints import AtomicCheckpointIO, newest

    found: dict[str, dict[str, Any]] = {}
    real = stages.fit

    def fit(module: Any, data: Any, folder: Path, *rest: Any, **options: Any) -> Any:
        fitted = real(module, data, folder, *rest, **options)
        path = newest(folder / "checkpoints")
        assert path is not None
        found[folder.name] = AtomicCheckpointIO().load_checkpoint(path)
        return fitted

    monkeypatch.setattr(stages, "fit", fit)
    return found
