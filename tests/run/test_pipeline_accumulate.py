"""``trainer.accumulate`` through ``train.py``'s own run: parts of ``data.batch_size`` rows, steps of all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.models import Classifier
from tests.run.test_pipeline_run import finished


@pytest.mark.parametrize(("weighting", "precision"), [("kd", "32-true"), ("rwkd", "64-true"), ("rwkd", "bf16-mixed")])
def test_parts_of_the_batch_size(
    weighting: str, precision: str, warm: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: batches of which each part is a fraction of data.batch_size, or steps that are counted by the part."""
    loaded, seen = [], []
    loader, forward = DistillationDataModule.train_dataloader, Classifier.forward

    def counted(self: Classifier, batch: dict) -> dict:  # type: ignore[type-arg]
        if self.training and "labels" in batch:
            seen.append(len(batch["labels"]))
        return forward(self, batch)

    monkeypatch.setattr(
        DistillationDataModule, "train_dataloader", lambda self: loaded.append(self.batch_size) or loader(self)
    )
    monkeypatch.setattr(Classifier, "forward", counted)
    result = finished(
        warm,
        tmp_path / "a",
        f"weighting={weighting}",
        "data.batch_size=4",
        "trainer.accumulate=4",
        f"trainer.precision={precision}",
    )
    assert result["cost"]["steps"] == 8 and loaded[-1] == 16
    assert seen[-8 * 4 :] == [4] * 32
