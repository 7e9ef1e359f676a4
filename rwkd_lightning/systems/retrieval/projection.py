"""The meta step over the student's last map alone, on all held-out queries and their candidates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rwkd_lightning.bilevel import RandomState
from rwkd_lightning.bilevel.engine import Outputs, Parameters
from rwkd_lightning.meta.restriction import Batch, MetaStream, Restriction, View, to_device, without_dropout
from rwkd_lightning.systems.retrieval.encoder import unit
from rwkd_lightning.systems.retrieval.pairs import Pairs
from rwkd_lightning.systems.retrieval.student import BiEncoder
from rwkd_lightning.utils.errors import UserError

TOGETHER = 64
"""Held-out rows of a pass that fills the bank."""
TARGETS = ("index", "labels", "known", "mined", "teacher_logits")


class Projection(Restriction):
    """θ = W of z = W h/‖W h‖. The states h before it are known from the training pass, those of all held-out rows are
    kept in a bank and refreshed a few a step, so a meta step costs two small products.

    The candidates of a held-out query are the documents of all held-out rows, its own negatives among them.
    """

    needs_pass = False

    def __init__(self) -> None:
        super().__init__()
        self.bank: Bank | None = None

    def check(self, student: nn.Module) -> None:
        if not isinstance(student, BiEncoder):
            raise UserError(
                f"Projection() is for a student with one vector a text, not a {type(student).__name__}; use "
                "`theta=All()`"
            )

    def build(self, student: nn.Module, stream: MetaStream) -> None:
        assert isinstance(student, BiEncoder)
        pairs: Pairs = getattr(stream, "dataset")  # noqa: B009 - of the data module's streams
        self.bank = Bank(pairs.batch(range(len(pairs)), [0] * len(pairs)), student.projection.in_features)

    def reaches(self, student: nn.Module, output: str) -> bool:
        return output in ("logits", "query_vectors", "document_vectors")

    def view(
        self,
        student: nn.Module,
        batch: Batch,
        outputs: Callable[[], Outputs],
        randomness: RandomState,
        stream: MetaStream,
        step: int,
    ) -> View:
        assert isinstance(student, BiEncoder) and self.bank is not None
        weight = student.projection.weight.detach()
        device, temperature = weight.device, student.temperature
        self.bank.to(device)
        if not self.bank.filled:
            for held in stream.all(TOGETHER):
                self.bank.refresh(student, to_device(held, device))
        else:
            self.bank.refresh(student, to_device(stream[step], device))
        queries, documents, targets = self.bank.queries, self.bank.documents, self.bank.targets
        features = outputs()["features"].detach()
        rows = len(batch["index"])

        def answers(parameters: Parameters, queries: Tensor, documents: Tensor, labels: Tensor) -> Outputs:
            with torch.autocast(device.type, enabled=False):
                z = unit(queries.to(weight.dtype) @ parameters["weight"].T)
                y = unit(documents.to(weight.dtype) @ parameters["weight"].T)
                return {"logits": z @ y.T / temperature, "query_vectors": z, "document_vectors": y[labels]}

        return View(
            {"weight": weight},
            lambda p: answers(p, features[:rows], features[rows:], batch["labels"]),
            lambda p: (answers(p, queries, documents, targets["labels"]), targets),
        )

    def __repr__(self) -> str:
        return "projection"


class Bank(nn.Module):
    """States of M held-out queries and of all their documents, in a checkpoint with the rest; their targets are read
    again.

    Args:
        whole: all held-out rows as one batch.
        width: H.
    """

    queries: Tensor
    documents: Tensor
    seen: Tensor
    places: Tensor

    def __init__(self, whole: Batch, width: int) -> None:
        super().__init__()
        rows, numbers = len(whole["index"]), whole["documents"]
        places = torch.zeros(int(numbers.max()) + 1, dtype=torch.long)
        places[numbers] = torch.arange(len(numbers))
        self.register_buffer("queries", torch.zeros(rows, width))
        self.register_buffer("documents", torch.zeros(len(numbers), width))
        self.register_buffer("seen", torch.zeros(rows, dtype=torch.bool))
        self.register_buffer("places", places, persistent=False)
        self.names = [name for name in TARGETS if name in whole]
        for name in self.names:
            self.register_buffer(f"target_{name}", whole[name], persistent=False)
        self.full = False
        self.register_load_state_dict_post_hook(Bank.forget)  # type: ignore[no-untyped-call]

    @property
    def targets(self) -> dict[str, Tensor]:
        """What the meta loss reads, ``(M, ...)`` each."""
        return {name: getattr(self, f"target_{name}") for name in self.names}

    def forget(self, *_: object) -> None:
        """Rows were loaded: which, ``seen`` says."""
        self.full = False

    @property
    def filled(self) -> bool:
        """Whether every row was written at least once."""
        self.full = self.full or bool(self.seen.all())
        return self.full

    @torch.no_grad()
    def refresh(self, student: BiEncoder, batch: Batch) -> None:
        """Write the states of a held-out batch's queries and documents, taken without dropout."""
        with without_dropout(student):
            features = student(batch)["features"]
        rows = len(batch["index"])
        self.queries[batch["index"]] = features[:rows].to(self.queries.dtype)
        self.documents[self.places[batch["documents"]]] = features[rows:].to(self.documents.dtype)
        if not self.full:
            self.seen[batch["index"]] = True
