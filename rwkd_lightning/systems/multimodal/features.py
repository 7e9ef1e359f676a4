"""The inputs of the meta-network: those of a classification, and what is known of each modality alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkd_lightning.systems.multimodal.fusion import IMAGE, SUFFIX, TEXT
from rwkd_lightning.terms import BernoulliKL, DistillationKL
from rwkd_lightning.terms.base import at_least_float32
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import ClassificationFeatures
from rwkd_lightning.weighting.base import Step
from rwkd_lightning.weighting.features.standard import minus_entry


class ModalityFeatures(nn.Module):
    """`ClassificationFeatures` of the whole input, and of each modality log1p of KD and of the teacher's
    cross-entropy, and the teacher's entropy: ``(B, 8 + 3·m)``.

    Of several labels per row they are means over labels, of yes and no each. For a row without the modality the three
    are 0, and for one without a label the cross-entropy.

    Args:
        terms: of the run; the modalities are those that a term's name ends with.
        temperature: T of KD.
    """

    def __init__(self, terms: Sequence[str], temperature: float = 2.0) -> None:
        super().__init__()
        self.whole = ClassificationFeatures(temperature)
        self.kinds = [kind for kind in (TEXT, IMAGE) if any(term.endswith(SUFFIX[kind]) for term in terms)]
        self.width = self.whole.width + 3 * len(self.kinds)
        self.divergences = nn.ModuleDict({kind: self.of(DistillationKL, kind, temperature) for kind in self.kinds})
        self.bernoulli = nn.ModuleDict({kind: self.of(BernoulliKL, kind, temperature) for kind in self.kinds})

    @staticmethod
    def of(kind: type[DistillationKL], modality: str, temperature: float) -> DistillationKL:
        """A divergence of one modality's logits."""
        return kind(temperature, output=f"logits{SUFFIX[modality]}", mask=f"has_{modality}")

    @torch.no_grad()
    def forward(self, step: Step) -> Tensor:
        columns = [self.whole(step)]
        several = step.batch["labels"].ndim > 1
        for kind in self.kinds:
            output = f"logits{SUFFIX[kind]}"
            if output not in step.outputs:
                raise UserError(
                    f"meta_features reads the student's {output}, which it does not give; add a term that reads it "
                    f"(terms=[...,kd{SUFFIX[kind]}])"
                )
            divergence = (self.bernoulli if several else self.divergences)[kind](step.outputs, step.batch)
            teacher = at_least_float32(step.batch[f"teacher_{output}"])
            error, entropy = of_labels(teacher, step) if several else of_classes(teacher, step)
            there = step.batch[f"has_{kind}"][:, None]
            columns.append(torch.where(there, torch.stack([divergence.log1p(), error.log1p(), entropy], 1), 0.0))
        return torch.cat(columns, 1)


def of_classes(teacher: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """The cross-entropy and the entropy of logits ``(B, C)``, ``(B,)`` each."""
    logs = teacher.log_softmax(1)
    return minus_entry(logs, step.batch["labels"]), torch.special.entr(logs.exp()).sum(1)


def of_labels(teacher: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """As `of_classes`, of several labels."""
    labels = step.batch["labels"].to(teacher.dtype)
    losses = F.binary_cross_entropy_with_logits(teacher, labels.clamp_min(0), reduction="none").mean(1)
    p = teacher.sigmoid()
    entropy = (torch.special.entr(p) + torch.special.entr(1 - p)).mean(1)
    return torch.where((labels >= 0).all(1), losses, 0.0), entropy
