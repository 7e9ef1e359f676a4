"""Batches of candidates, MaxSim and the loss terms, against loops and sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rwkd_lightning.systems.retrieval.beir import load_beir
from rwkd_lightning.systems.retrieval.collection import Collection, Queries
from rwkd_lightning.systems.retrieval.datamodule import RetrievalDataModule
from rwkd_lightning.systems.retrieval.encoder import unit
from rwkd_lightning.systems.retrieval.features import CandidateFeatures
from rwkd_lightning.systems.retrieval.late_interaction import LateInteraction, begin_at_main_directions, maxsim
from rwkd_lightning.systems.retrieval.student import BiEncoder
from rwkd_lightning.systems.retrieval.terms import Contrastive, MarginMSE, Reverse
from rwkd_lightning.systems.retrieval.tokens import Texts
from rwkd_lightning.systems.retrieval.validation import reciprocal_ranks
from rwkd_lightning.systems.text.models.loading import load_tokenizer
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step


def collection(relevant: list[dict[int, float]], texts: list[str], queries: list[str]) -> Collection:
    """The same queries in train and meta."""
    asked = Queries([f"q{i}" for i in range(len(queries))], queries, relevant)
    return Collection("small", [f"d{i}" for i in range(len(texts))], texts, {"train": asked, "meta": asked})


@pytest.fixture(scope="module")
def made(beir: Path, transformer: Path) -> RetrievalDataModule:
    """The tiny collection with mined negatives and a teacher's scores."""
    whole = load_beir(str(beir)).held_out(0.2, 0.1, 0)
    mined = {
        name: np.stack([[d for d in range(60) if d not in g][:8] for g in whole.splits[name].relevant])
        for name in ("train", "meta")
    }
    scores = {name: torch.randn(len(whole.splits[name]), 60) for name in ("train", "meta")}
    tokenizer = load_tokenizer(str(transformer))
    return RetrievalDataModule(
        whole, tokenizer, query_length=12, document_length=16, negatives=mined, scores=scores, batch_size=16
    )


def test_a_batch_is_what_the_collection_says(made: RetrievalDataModule) -> None:
    """Prevents: columns, masks or teacher's scores of other documents than those that are read."""
    queries = made.collection.splits["train"]
    rows = made.rows("train")
    for batch in made.train_dataloader():
        documents = batch["documents"].tolist()
        assert documents == sorted(set(documents))
        for place, row in enumerate(batch["index"].tolist()):
            query, own = queries.pairs[row]
            assert documents[batch["labels"][place]] == own
            relevant = set(queries.relevant[query])
            known = {d for d, flag in zip(documents, batch["known"][place].tolist(), strict=True) if flag}
            assert known == (relevant - {own}) & set(documents)
            mined = [d for d, flag in zip(documents, batch["mined"][place].tolist(), strict=True) if flag]
            assert len(mined) == 1 and mined[0] in set(rows.negatives[query]) - relevant
            torch.testing.assert_close(batch["teacher_logits"][place], made.scores["train"][query][documents])
        assert batch["document_ids"].shape[0] == len(documents)


def test_negatives_are_drawn_anew_at_each_visit_and_again_at_a_resume(made: RetrievalDataModule) -> None:
    """Prevents: the same negative in all epochs, and other ones after a resume."""
    loader = made.train_dataloader()
    epochs = []
    for epoch in (0, 1, 1):
        loader.batch_sampler.sampler.set_epoch(epoch)
        loader.batch_sampler.sampler.go_to(epoch, 0)
        epochs.append({int(i): row.tolist() for b in loader for i, row in zip(b["index"], b["mined"], strict=True)})
    assert epochs[0] != epochs[1] and epochs[1] == epochs[2]
    assert sorted(epochs[0]) == list(range(made.train_size))


def test_equal_documents_are_one_column_and_equal_queries_one_query(transformer: Path) -> None:
    """Prevents: a relevant document that counts as a wrong one under another identifier."""
    tokenizer = load_tokenizer(str(transformer))
    small = collection([{0: 1.0}, {1: 1.0}, {2: 1.0}], ["w1 w2", "w3", "w1 w2", ""], ["s1", "s1", "s2"])
    batch = (
        RetrievalDataModule(small, tokenizer, query_length=8, document_length=8).rows("train").batch([0, 1, 2], [0] * 3)
    )
    assert batch["documents"].tolist() == [0, 1]
    assert batch["labels"].tolist() == [0, 1, 0]
    assert batch["known"].tolist() == [[False, True], [True, False], [False, False]]


def test_a_doubled_document_changes_no_loss(transformer: Path) -> None:
    """Prevents: a loss that grows with copies in the corpus."""
    tokenizer, terms = load_tokenizer(str(transformer)), (Contrastive(), Reverse())
    torch.manual_seed(0)
    found = []
    for texts, relevant in (
        (["w1 w2", "w3", "w4"], [{0: 1.0}, {1: 1.0}, {2: 1.0}]),
        (["w1 w2", "w3", "w4", "w3"], [{0: 1.0}, {3: 1.0}, {2: 1.0}]),
    ):
        small = collection(relevant, texts, ["s1", "s2", "s3"])
        data = RetrievalDataModule(small, tokenizer, query_length=8, document_length=8)
        batch = data.rows("train").batch([0, 1, 2], [0] * 3)
        logits = {"logits": torch.arange(9.0).reshape(3, 3).sin()}
        found.append([term(logits, batch) for term in terms])
    torch.testing.assert_close(found[0], found[1])


def test_maxsim_is_the_loop_and_sentence_transformers() -> None:
    """Prevents: padding that wins over negative similarities."""
    util = pytest.importorskip("sentence_transformers.util")
    theirs = getattr(util, "maxsim", None)  # from version 6

    g = torch.Generator().manual_seed(0)
    q, d = unit(torch.randn(3, 5, 8, generator=g).double()), unit(torch.randn(4, 7, 8, generator=g).double())
    qm = torch.arange(5) < torch.tensor([[5], [2], [3]])
    dm = torch.arange(7) < torch.tensor([[7], [1], [4], [2]])
    loop = torch.tensor(
        [
            [32 * torch.stack([(t @ d[u][dm[u]].T).max() for t in q[b][qm[b]]]).mean() for u in range(4)]
            for b in range(3)
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(maxsim(q, qm, d, dm), loop)
    for b in range(3 if theirs is not None else 0):  # a sum over the tokens
        with_mask = theirs(q[b : b + 1, qm[b]].float(), d.float(), b_mask=dm)
        torch.testing.assert_close(with_mask.double() * 32 / qm[b].sum(), loop[b : b + 1], atol=1e-4, rtol=1e-4)
    longer = F.pad(d, (0, 0, 0, 4), value=3.0)
    torch.testing.assert_close(maxsim(q, qm, longer, F.pad(dm, (0, 4))), loop)
    empty = torch.zeros_like(dm)
    assert maxsim(q, qm, d, empty).eq(-32).all()


def test_the_teachers_map_begins_at_the_main_directions(network: Any, made: RetrievalDataModule) -> None:
    """Prevents: a map that begins as noise, and loses what the transformer knows."""
    teacher = LateInteraction(network(), 8).double()
    batches = [made.meta_stream[step] for step in range(3)]
    begin_at_main_directions(teacher, batches)
    tokens = torch.cat(
        [unit(s)[m.bool()] for b in batches for s, m in (teacher.states(b, "query"), teacher.states(b, "document"))]
    )
    w = teacher.projection.weight
    torch.testing.assert_close(w @ w.T, torch.eye(8, dtype=torch.float64))
    kept = (tokens @ w.T).square().sum() / tokens.square().sum()
    best = torch.linalg.svdvals(tokens.detach()).square()
    torch.testing.assert_close(kept, best[:8].sum() / best.sum())


def test_the_terms_are_those_of_sentence_transformers(made: RetrievalDataModule) -> None:
    """Prevents: another loss under a known name."""
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")  # from version 6

    g = torch.Generator().manual_seed(1)
    z, y = unit(torch.randn(4, 6, generator=g)), unit(torch.randn(8, 6, generator=g))
    own, mined = torch.arange(4), torch.zeros(4, 8, dtype=torch.bool)
    mined[own, own + 4] = True
    batch = {"index": own, "labels": own, "known": torch.zeros(4, 8, dtype=torch.bool), "mined": mined}
    scores = 20 * z @ y.T
    model: Any = torch.nn.Identity()
    ranking = losses.MultipleNegativesRankingLoss(model, scale=20.0)
    theirs = ranking.compute_loss_from_embeddings([z, y[:4], y[4:]], None)
    torch.testing.assert_close(Contrastive()({"logits": scores}, batch).mean(), theirs)
    teacher = torch.randn(4, 8, generator=g)
    margins = (scores[own, own] - scores[own, own + 4]) - 0.5 * (teacher[own, own] - teacher[own, own + 4])
    found = MarginMSE(0.5)({"logits": scores}, {**batch, "teacher_logits": teacher})
    torch.testing.assert_close(found, margins.square())
    torch.testing.assert_close(
        Reverse()({"logits": scores}, batch), F.cross_entropy(scores[:, :4].T, own, reduction="none")
    )


def test_known_documents_count_neither_for_nor_against(made: RetrievalDataModule) -> None:
    """Prevents: relevant documents of the batch that a query is driven away from."""
    scores = torch.tensor([[1.0, 5.0, 0.0], [0.0, 2.0, 1.0]], requires_grad=True)
    known = torch.tensor([[False, True, False], [False, False, False]])
    batch = {"index": torch.arange(2), "labels": torch.tensor([0, 1]), "known": known}
    losses = Contrastive()({"logits": scores}, batch)
    torch.testing.assert_close(losses[0], F.cross_entropy(scores[:1, [0, 2]], torch.tensor([0])))
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    assert gradient[0, 1] == 0
    torch.testing.assert_close(reciprocal_ranks(scores, batch), torch.ones(2))
    reverse = Reverse()({"logits": scores}, batch)
    torch.testing.assert_close(reverse[1], torch.tensor(0.0))  # query 0 knows document 1, too


def test_rows_without_a_mined_negative_have_no_margin() -> None:
    """Prevents: a loss of 0 that counts as a perfect row."""
    mined = torch.tensor([[False, True], [False, False]])
    batch = {
        "index": torch.arange(2),
        "labels": torch.tensor([0, 1]),
        "mined": mined,
        "teacher_logits": torch.ones(2, 2),
    }
    assert MarginMSE().valid(batch).tolist() == [True, False]
    assert MarginMSE()({"logits": torch.ones(2, 2)}, batch).tolist() == [0.0, 0.0]
    with pytest.raises(UserError, match="scale is 0"):
        MarginMSE(0)


def test_features_do_not_grow_with_the_number_of_candidates() -> None:
    """Prevents: a meta-network that reads the size of a batch."""
    for size in (4, 64):
        logits = torch.zeros(2, size)
        batch = {"labels": torch.zeros(2, dtype=torch.long), "teacher_logits": logits, "index": torch.arange(2)}
        step = Step(
            torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool), ["contrastive", "kd"], {"logits": logits}, batch
        )
        torch.testing.assert_close(CandidateFeatures()(step)[:, 5:7], torch.ones(2, 2))


def test_texts_are_padded_and_cut(transformer: Path) -> None:
    """Prevents: an empty text that breaks a batch, and a length that the model cannot take."""
    tokenizer = load_tokenizer(str(transformer))
    texts = Texts(["", "w1 " * 20, "w2"], tokenizer, 8, "document")
    batch = texts.batch([0, 1, 2])
    assert batch["document_mask"].sum(1).tolist() == [2, 8, 3] and texts.cut == 1
    order = [place for places, _ in texts.batches(2) for place in places]
    assert order == [1, 2, 0]
    with pytest.raises(UserError, match=r"data.document_length is 64; give 4 to 32 tokens"):
        Texts(["w1"], tokenizer, 64, "document")


def test_an_empty_document_has_finite_vectors(network: Any, transformer: Path) -> None:
    """Prevents: NaN in the index, which one empty document would spread to every ranking."""
    student = BiEncoder(network()).double()
    texts = Texts([""], load_tokenizer(str(transformer)), 8, "document")
    assert student.vectors(texts.batch([0]), "document").isfinite().all()
