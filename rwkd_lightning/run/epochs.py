"""The weights and losses of every training row after each epoch: ``epochs/01.parquet``, ``epochs/02.parquet``, ..."""

from __future__ import annotations

import os
from pathlib import Path

import lightning
import pyarrow
import pyarrow.parquet
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from rwkd_lightning.training.module import DistillationModule

EPOCHS = "epochs"


class Epochs(Callback):
    """Writes weights and losses of the training rows, in their order, at the end of every epoch.

    An epoch visits a row once, so these are of that visit; ``visits`` tells rows that an epoch cut short has left out.
    The file of an epoch that is trained again, after an interruption, is the same.

    Args:
        folder: gets the files, 4 bytes per row, term and column.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, DistillationModule):
            return
        columns = {
            name: pyarrow.array(values.numpy(), from_pandas=True)
            for name, values in pl_module.ledger.columns().items()
            if not name.startswith("influence_")
        }
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{trainer.current_epoch + 1:02}.parquet"
        part = path.with_name(f".{path.name}.part")
        pyarrow.parquet.write_table(pyarrow.table(columns), part)
        os.replace(part, path)


def of_epochs(folder: Path, column: str) -> list[Tensor]:
    """A column ``(N,)`` of each epoch, float64 with NaN for what there is not; of the epochs that have it."""
    import torch

    found = []
    for path in sorted((folder / EPOCHS).glob("*.parquet"), key=lambda path: int(path.stem)):
        table = pyarrow.parquet.read_table(path)
        if column in table.column_names:
            found.append(torch.from_numpy(table[column].to_numpy().astype("float64")))
    return found
