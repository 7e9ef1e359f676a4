"""The standard inputs of the meta-network: detached, of one width for any number of classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkd_lightning.terms.base import at_least_float32
from rwkd_lightning.terms.bernoulli_kd import BernoulliKL
from rwkd_lightning.terms.kd import DistillationKL
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step


class ClassificationFeatures(nn.Module):
    """log1p of CE_s, KD and CE_t, then p_s[y], p_t[y], H(p_s), H(p_t), ⟨p_s, p_t⟩: ``(B, 8)``.

    CE_t is the teacher's own cross-entropy. For a row without a label (−1) the four that read it are 0. Where rows have
    several labels, ``(B, C)``, they are ``MultiLabelFeatures``.

    Args:
        temperature: T of KD = T²·KL(q^T ‖ p^T).
        output: the output of student and teacher that it reads.
    """

    width = 8

    def __init__(self, temperature: float = 2.0, output: str = "logits") -> None:
        super().__init__()
        self.kd = DistillationKL(temperature, output=output)
        self.several = MultiLabelFeatures(temperature, output)
        self.output = output

    @torch.no_grad()
    def forward(self, step: Step) -> Tensor:
        if step.batch["labels"].ndim > 1:
            features: Tensor = self.several(step)
            return features
        student = at_least_float32(step.outputs[self.output])
        teacher = at_least_float32(step.batch[f"teacher_{self.output}"])
        logs = torch.cat([student, teacher.to(student.dtype)]).log_softmax(1)  # (2·B, C): both in one pass
        p, labels = logs.exp(), step.batch["labels"].repeat(2)
        of_student, of_teacher = minus_entry(logs, labels).chunk(2)
        divergence = step.loss_of(self.kd).to(p.dtype)
        losses = torch.cat([of_student, divergence, of_teacher]).log1p()
        agreement = p.view(2, len(student), -1).prod(0).sum(1)
        entropies = torch.special.entr(p).sum(1)
        return torch.cat([losses, -minus_entry(p, labels), entropies, agreement]).view(self.width, -1).T


def minus_entry(x: Tensor, labels: Tensor) -> Tensor:
    """−x_i[y_i] ``(B,)`` of ``(B, C)``; 0 where the label is −1."""
    return F.nll_loss(x, labels, ignore_index=-1, reduction="none")


class RegressionFeatures(nn.Module):
    """log1p of (s − y)², (s − t)², (t − y)² and the sign of (s − y)(t − y): ``(B, 4)``.

    For a row without a label (NaN) the three that read it are 0.

    Args:
        output: the output of student and teacher that it reads.
    """

    width = 4

    def __init__(self, output: str = "logits") -> None:
        super().__init__()
        self.output = output

    @torch.no_grad()
    def forward(self, step: Step) -> Tensor:
        s = at_least_float32(step.outputs[self.output].detach())[:, 0]
        t = at_least_float32(step.batch[f"teacher_{self.output}"])[:, 0]
        y = step.batch["labels"].to(s.dtype)
        squares = [torch.log1p(F.mse_loss(a, b, reduction="none")) for a, b in ((s, y), (s, t), (t, y))]
        features = torch.stack([*squares, torch.sign((s - y) * (t - y))], 1)
        by_label = torch.tensor([True, False, True, True], device=s.device)
        return torch.where(y.isnan()[:, None] & by_label, 0.0, features)


class MultiLabelFeatures(nn.Module):
    """log1p of BCE_s, KD and BCE_t, then means over labels of p_s(y), p_t(y), H(p_s), H(p_t), ⟨p_s, p_t⟩: ``(B, 8)``.

    As ``ClassificationFeatures``, each label being a yes or no of its own: p(y) is the probability of the answer that
    the row has, ⟨p_s, p_t⟩ = p_s·p_t + (1 − p_s)(1 − p_t). For a row without labels (−1) the four that read them are 0.

    Args:
        temperature: T of KD, ``terms.BernoulliKL``.
        output: the output of student and teacher that it reads.
    """

    width = 8

    def __init__(self, temperature: float = 2.0, output: str = "logits") -> None:
        super().__init__()
        self.kd = BernoulliKL(temperature, output=output)
        self.output = output

    @torch.no_grad()
    def forward(self, step: Step) -> Tensor:
        s = at_least_float32(step.outputs[self.output].detach())
        t = at_least_float32(step.batch[f"teacher_{self.output}"])
        labels = step.batch["labels"].to(s.dtype)
        known, sign = (labels >= 0).all(1), 2 * labels.clamp_min(0) - 1
        p_s, p_t = s.sigmoid(), t.sigmoid()
        log_s, log_t = F.logsigmoid(sign * s), F.logsigmoid(sign * t)
        by_label = [
            torch.where(known, x, 0.0)
            for x in (
                torch.log1p(-log_s.mean(1)),
                torch.log1p(-log_t.mean(1)),
                log_s.exp().mean(1),
                log_t.exp().mean(1),
            )
        ]
        entropies = [-(p * F.logsigmoid(x) + (1 - p) * F.logsigmoid(-x)).mean(1) for p, x in ((p_s, s), (p_t, t))]
        agreement = (p_s * p_t + (1 - p_s) * (1 - p_t)).mean(1)
        divergence = torch.log1p(self.kd(step.outputs, step.batch))
        return torch.stack([by_label[0], divergence, *by_label[1:], *entropies, agreement], 1)


def standard_features(
    regression: bool | None, temperature: float = 2.0, output: str = "logits"
) -> ClassificationFeatures | RegressionFeatures:
    """The features for the kind of task; UserError for one that is neither of classes nor of a number."""
    if regression is None:
        raise UserError(
            "meta_features: the standard ones read probabilities of classes or predicted numbers, and this task has "
            "neither; leave meta_features at the task's own"
        )
    return RegressionFeatures(output) if regression else ClassificationFeatures(temperature, output)
