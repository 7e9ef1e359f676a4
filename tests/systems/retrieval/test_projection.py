"""The meta step over a student's last map, and over all of it, against the double backward in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from rwkd_lightning.bilevel import Jvp, RandomState, Unrolled
from rwkd_lightning.meta import All, MetaStep, Restriction
from rwkd_lightning.systems.retrieval.beir import load_beir
from rwkd_lightning.systems.retrieval.datamodule import RetrievalDataModule
from rwkd_lightning.systems.retrieval.projection import Projection
from rwkd_lightning.systems.retrieval.student import BiEncoder
from rwkd_lightning.systems.retrieval.terms import Contrastive, MarginMSE, Reverse
from rwkd_lightning.systems.text.models.loading import load_tokenizer
from rwkd_lightning.terms import DistillationKL, stack
from rwkd_lightning.utils.errors import UserError

TERMS = [Contrastive(), DistillationKL(1.0), MarginMSE(0.3), Reverse()]


@pytest.fixture(scope="module")
def data(beir: Path, transformer: Path) -> RetrievalDataModule:
    whole = load_beir(str(beir)).held_out(0.2, 0.1, 0)
    mined = {
        name: np.stack([[d for d in range(60) if d not in g][:8] for g in whole.splits[name].relevant])
        for name in ("train", "meta")
    }
    g = torch.Generator().manual_seed(0)
    scores = {n: torch.randn(len(whole.splits[n]), 60, generator=g).double() for n in ("train", "meta")}
    return RetrievalDataModule(
        whole,
        load_tokenizer(str(transformer)),
        query_length=12,
        document_length=16,
        negatives=mined,
        scores=scores,
        meta_batch_size=4,
    )


def student_of(network: Any) -> BiEncoder:
    torch.manual_seed(1)
    student = BiEncoder(network(), 16, temperature=0.5).double().eval()
    torch.nn.init.normal_(student.projection.weight, std=0.3)
    return student


def influence(theta: Restriction, engine: Any, student: BiEncoder, data: RetrievalDataModule, terms: Any) -> Tensor:
    batch = data.rows("train").batch(range(8), [0] * 8)
    meta = MetaStep(engine, theta, [Contrastive()], data.meta_stream)
    meta.build(student)
    return meta.influence(
        student,
        batch,
        lambda: student(batch),
        lambda outputs: stack(terms, outputs, batch),
        torch.ones(8, len(terms)).double(),
        RandomState.capture(torch.device("cpu")),
    )


def reference(names: list[str], student: BiEncoder, data: RetrievalDataModule, held_out: Any) -> Tensor:
    """⟨v, ∇l_ik⟩ by a backward for each row and term."""
    batch = data.rows("train").batch(range(8), [0] * 8)
    theta = {n: p for n, p in student.named_parameters() if n in names}
    v = torch.autograd.grad(
        Contrastive()(functional_call(student, theta, (held_out,)), held_out).mean(), list(theta.values())
    )
    losses = stack(TERMS, student(batch), batch)
    found = torch.zeros_like(losses)
    for row in range(8):
        for k in range(len(TERMS)):
            g = torch.autograd.grad(losses[row, k], list(theta.values()), retain_graph=True)
            found[row, k] = sum((a * b).sum() for a, b in zip(v, g, strict=True))
    return found.detach()


def test_the_projections_influence_is_the_double_backwards(network: Any, data: RetrievalDataModule) -> None:
    """Prevents: weights learned from other documents than the held-out queries' own, or along another map."""
    student, pairs = student_of(network), data.rows("meta")
    held_out = pairs.batch(range(len(pairs)), [0] * len(pairs))
    truth = reference(["projection.weight"], student, data, held_out)
    for engine in (Jvp(), Unrolled()):
        found = influence(Projection(), engine, student, data, TERMS)
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-7)  # the bank is kept in float32


def test_all_of_a_student_has_influence_through_shared_documents(network: Any, data: RetrievalDataModule) -> None:
    """Prevents: a row's influence without what it does to the documents of other rows."""
    student = student_of(network)
    names = [n for n, p in student.named_parameters() if p.requires_grad]
    assert not any("pooler" in name for name in names)
    truth = reference(names, student, data, data.meta_stream[0])
    found = influence(All(), Jvp(), student, data, TERMS)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-10)


def test_the_bank_is_refreshed_and_kept(network: Any, data: RetrievalDataModule) -> None:
    """Prevents: states of a student of long ago, and a bank that a checkpoint loses."""
    student, theta = student_of(network), Projection()
    pairs = data.rows("meta")
    influence(theta, Jvp(), student, data, TERMS)
    bank = theta.bank
    assert bank is not None and bank.filled
    before = bank.queries.clone()
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.add_(0.01)
    batch = data.meta_stream[1]
    bank.refresh(student, batch)
    moved = (bank.queries != before).any(1).nonzero().flatten()
    assert sorted(moved.tolist()) == sorted(set(batch["index"].tolist()))
    again = Projection()
    again.build(student, data.meta_stream)
    again.load_state_dict(theta.state_dict())
    assert again.bank is not None and again.bank.filled
    torch.testing.assert_close(again.bank.queries, bank.queries)
    assert len(bank.documents) == len(pairs.batch(range(len(pairs)), [0] * len(pairs))["documents"])


def test_other_students_are_refused() -> None:
    """Prevents: a map of another meaning that is taken for W."""
    with pytest.raises(UserError, match=r"Projection.*one vector a text, not a Linear"):
        Projection().check(torch.nn.Linear(2, 2))
