"""Deep supervision: the labels teach each of the student's layers (Wang et al., MHKD, 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from rwkd_lightning.systems.text.terms.of_layers import OfLayers, cross_entropies


class LayerCrossEntropy(OfLayers):
    """The mean over the student's layers j of −log softmax(s_j)[y] ``(B,)``, s_j the logits of a head on layer j.

    Wang et al., Multi-head Knowledge Distillation for Model Compression, 2020, https://arxiv.org/abs/2012.02911. Its
    heads are its own, not those of ``layer_kd``.

    Args:
        student_layers, pool, part: as of `OfLayers`.
        name, output: as of ``Term``.
    """

    name = "layer_ce"
    needs = frozenset({"classes"})

    def __init__(
        self,
        student_layers: str | Sequence[int] = "inner",
        pool: str = "cls",
        part: int | None = None,
        name: str | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__(student_layers, pool, part, name, output)

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        found = cross_entropies(self.own(outputs, batch), batch["labels"]).mean(1)
        return found.masked_fill(~self.valid(batch), 0.0)

    def valid(self, batch: Mapping[str, Tensor]) -> Tensor:
        return batch["labels"] >= 0
