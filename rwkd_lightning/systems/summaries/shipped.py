"""A finished summariser, asked for the summaries of new documents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkd_lightning.export import shipped
from rwkd_lightning.export.shipped import FILE, Columns, Shipped
from rwkd_lightning.systems.summaries.decode import decoded
from rwkd_lightning.systems.summaries.loading import load_summariser, load_summary_tokenizer
from rwkd_lightning.systems.summaries.texts import encoded, padded
from rwkd_lightning.utils.errors import UserError


class Written(nn.Module):
    """An encoder-decoder as a network whose outputs are the tokens that it writes."""

    def __init__(self, network: Any, length: int, pad: int) -> None:
        super().__init__()
        self.network, self.length, self.pad = network, length, pad

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The tokens ``(B, length)`` in float32, searched for as the folder's ``generation_config.json`` says."""
        ids = self.network.generate(input_ids=input_ids, attention_mask=attention_mask)[:, : self.length]
        return F.pad(ids, (0, self.length - ids.shape[1]), value=self.pad).float()


class SummaryModel(Shipped):
    """A summariser with its tokenizer; a row of outputs is the tokens of a summary.

    Args:
        folder: as ``save_pretrained`` writes it.
        described: ``document``, the name of the column, and ``document_length`` and ``summary_length``, in tokens.
    """

    output = "tokens"
    inputs = ("input_ids", "attention_mask")
    example = "a text"

    def __init__(self, folder: Path, described: Mapping[str, Any]) -> None:
        super().__init__(folder, described)
        try:
            self.columns = [str(described["document"])]
            self.lengths = int(described["document_length"]), int(described["summary_length"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder / FILE} lacks document, document_length or summary_length; repeat the run with force=true"
            ) from error
        self.tokenizer = load_summary_tokenizer(str(folder))
        self.summariser = load_summariser(str(folder))

    def network(self) -> nn.Module:
        longest = self.lengths[1] + 1  # with the token that begins
        return Written(self.summariser.network, longest, self.tokenizer.pad_token_id).eval()

    def batch(self, columns: Columns) -> dict[str, Tensor]:
        rows = encoded(columns[0], self.tokenizer, self.lengths[0])
        mask = [torch.ones(len(ids), dtype=torch.long).numpy() for ids in rows]
        return {"input_ids": padded(rows, self.tokenizer.pad_token_id), "attention_mask": padded(mask, 0)}

    def answers(self, outputs: Tensor, columns: Columns) -> dict[str, list[Any]]:
        return {"predicted_summary": decoded(self.tokenizer, outputs.long())}

    def copy(self, folder: Path) -> None:
        raise UserError(f"summarisers are not exported; {self.folder} is whole, and from_pretrained loads it")


def describe(folder: Path, document: str, document_length: int, summary_length: int) -> None:
    """Write ``shipped.json`` of a summariser."""
    shipped.describe(
        folder, SummaryModel, document=document, document_length=document_length, summary_length=summary_length
    )
