"""TGeo-KD: a network sets each sample's share of the teacher by the geometry of three predictions (Hu et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rwkd_lightning.terms.base import at_least_float32
from rwkd_lightning.utils.constants import constant
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step
from rwkd_lightning.weighting.columns import Columns, only
from rwkd_lightning.weighting.meta_learned import MetaLearned, in_full_precision


class TrilateralGeometry(MetaLearned):
    """(1 − α_i, α_i) with α_i = sigmoid(g_φ([S, T, G, T̄, (T̄−S)², (G−S)², (T−S)², (T−G)², (T̄−G)²])).

    S and T are the student's and the teacher's class probabilities (temperature 1), G the one-hot label, T̄ the mean of
    T over the training samples of the sample's class; squares are elementwise, so the 9 features take 9·C columns,
    detached. For a row without a label G is 0 and T̄ the mean over all samples, as it is for a class without samples.
    g_φ is an MLP 9C-32-16-1 with LeakyReLU, trained by the same bi-level step as RW-KD's (the released code computes α
    without a graph, so its network stays as initialised). The last layer starts at zero: α_i = ½ until the first meta
    step.

    C is read off the training set, so ``prepare``, or a checkpoint that is loaded, makes the network. It leaves the
    global generator where it was, so that the student is trained as under any other method.

    Hu et al., Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation, ICLR 2024,
    https://arxiv.org/abs/2312.15112, section 3.

    Args:
        lr: Adam's rate for φ; as RW-KD's, so that the two differ by network and features alone.
        entropy: τ of ``MetaLearned``; 0 is the plain form.
        output: the output of student and teacher that probabilities are computed from.

    Raises:
        UserError: if lr or entropy is out of range; by ``check`` for a missing label or teacher term; by ``prepare``
            without the teacher's output; by ``forward`` and ``own_optimizer`` before ``prepare``.
    """

    reads_influence = False
    needs = frozenset({"classes"})
    instead = "`RWKD()` or `MetaWeightNet()`"
    means: Tensor

    def __init__(self, lr: float = 3e-3, entropy: float = 0.0, output: str = "logits") -> None:
        super().__init__(lr, entropy)
        self.output = output
        self.network: nn.Module | None = None
        self.register_load_state_dict_pre_hook(self.build_as_saved)  # type: ignore[no-untyped-call]

    def check(self, terms: Columns) -> None:
        only(terms, ("label", "teacher"), "tgeo")

    def prepare(self, training_set: Mapping[str, Tensor]) -> None:
        """Make the network and T̄: ``(C + 1, C)``, one row per class and one for no class, last, where label −1 finds
        it. Rows of which the teacher has said nothing do not count.
        """
        if f"teacher_{self.output}" not in training_set:
            raise UserError(
                "tgeo averages the teacher's outputs over the training set, and there are none; compute "
                f"teacher_{self.output} first, or use `RWKD()`"
            )
        teacher = at_least_float32(training_set[f"teacher_{self.output}"]).softmax(1)
        labels = training_set["labels"].to(teacher.device)
        known = training_set.get(f"teacher_{self.output}_known")
        if known is not None:
            teacher, labels = teacher[known], labels[known]
        rows = [labels == c for c in range(teacher.shape[1])]
        everywhere = teacher.mean(0)
        means = torch.stack([*(teacher[row].mean(0) if bool(row.any()) else everywhere for row in rows), everywhere])
        self.build(means)

    def build(self, means: Tensor) -> None:
        """Make the network for T̄ ``(C + 1, C)``."""
        self.register_buffer("means", means)
        with torch.random.fork_rng(devices=[]):
            last = nn.Linear(16, 1)
            self.network = nn.Sequential(
                nn.Linear(9 * means.shape[1], 32), nn.LeakyReLU(), nn.Linear(32, 16), nn.LeakyReLU(), last
            )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    @staticmethod
    def build_as_saved(method: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
        """Make the network before a checkpoint is loaded into it, where the training set was not seen."""
        if isinstance(method, TrilateralGeometry) and method.network is None and f"{prefix}means" in state:
            method.build(torch.empty_like(state[f"{prefix}means"]))

    @torch.no_grad()
    def features(self, step: Step) -> Tensor:
        """``(B, 9·C)``."""
        student = at_least_float32(step.outputs[self.output].detach()).softmax(1)
        teacher = at_least_float32(step.batch[f"teacher_{self.output}"]).softmax(1)
        labels = step.batch["labels"]
        classes = student.shape[1]
        each = constant(tuple(range(classes)), labels.dtype, labels.device)
        truth = (labels[:, None] == each).to(student.dtype)  # −1: all zero
        mean = self.means[labels].to(student.dtype)
        pairs = ((mean, student), (truth, student), (teacher, student), (teacher, truth), (mean, truth))
        return torch.cat([student, teacher, truth, mean, *((a - b) ** 2 for a, b in pairs)], 1)

    def forward(self, step: Step) -> Tensor:
        alpha = torch.sigmoid(in_full_precision(self.prepared(), self.features(step))[:, 0]).to(step.losses.dtype)
        shares = {"label": 1 - alpha, "teacher": alpha}
        by_column = {k: share for role, share in shares.items() for k in step.columns(role)}
        return torch.stack([by_column.get(k, torch.zeros_like(alpha)) for k in range(len(step.terms))], 1)

    def own_optimizer(self) -> torch.optim.Optimizer:
        self.prepared()
        return super().own_optimizer()

    def prepared(self) -> nn.Module:
        """The network, if the training set was seen."""
        if self.network is None:
            raise UserError("tgeo has not seen the training set; call its prepare(...) before training")
        return self.network

    def __repr__(self) -> str:
        return f"tgeo(lr={self.lr:g}, entropy={self.entropy:g})"
