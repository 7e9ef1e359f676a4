"""A document's topics are its own: alone, twice, in any order, beside any others."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rwkd_lightning.cache.store import Store, digests
from rwkd_lightning.run.system import Teacher
from rwkd_lightning.systems.topics.corpus import Corpus
from rwkd_lightning.systems.topics.datamodule import TopicDataModule
from rwkd_lightning.systems.topics.evaluate import of_part
from rwkd_lightning.systems.topics.infer import Student, main
from rwkd_lightning.systems.topics.model import Shape, TopicModel, points, save
from rwkd_lightning.systems.topics.octis import load_octis
from rwkd_lightning.systems.topics.teacher import STATES, latent, rows_digest, states
from rwkd_lightning.utils.errors import UserError

CPU = torch.device("cpu")
TEXTS = [
    "w1 w2",
    "w3",
    "w4 w5 w6 w7 w1 w9 w2",
    *(f"w{i % 16} w{i * 5 % 16} w{i // 3 % 16}" for i in range(40)),
    "",
    "w1 w2",
]
CLOSE = {"rtol": 0.0, "atol": 1e-5}


def gaussians(topics: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(topics)
    mu, log_var = torch.randn(2, 20, topics, generator=draw, dtype=torch.float64)
    return 1.5 * mu, log_var


@pytest.mark.parametrize("topics", [2, 5, 40])
def test_a_mixture_is_the_mean_of_the_posterior(topics: int) -> None:
    """Prevents: shares that are off by a tenth, as the mean of ten draws is; any that a better sample would not
    give.
    """
    mu, log_var = gaussians(topics)
    draw, reference = torch.Generator().manual_seed(77), torch.zeros_like(mu)
    for _ in range(100):  # 40,000 draws of its own for each document
        noise = torch.randn(400, *mu.shape, generator=draw, dtype=torch.float64)
        reference += (mu + log_var.exp().sqrt() * noise).softmax(2).mean(0) / 100
    model = TopicModel(Shape(9, topics, 4, 0, False))
    state = torch.get_rng_state()
    for dtype in (torch.float64, torch.float32):
        found = model.mixture(mu.to(dtype), log_var.to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found.sum(1), torch.ones(20, dtype=dtype), rtol=0, atol=1e-6)
        error = (found - reference).abs()
        assert error.max() < 0.008 and error.mean() < 0.001
    assert torch.equal(torch.get_rng_state(), state)  # the training's own draws go on as if nobody had looked


def test_the_points_are_those_of_a_standard_normal() -> None:
    """Prevents: shares that lean to one topic because the common points do; other points in a second process or
    call.
    """
    found = points(30)
    assert found.mean(0).abs().max() < 0.02
    torch.testing.assert_close(torch.cov(found.T), torch.eye(30, dtype=torch.float64), rtol=0, atol=0.15)
    points.cache_clear()
    torch.manual_seed(123)
    assert torch.equal(points(30), found) and not points(30).is_inference()


def test_new_documents_do_not_depend_on_each_other(shipped: Path) -> None:
    """Prevents: another topic for the second copy of a document, or for one beside a longer one."""
    student = Student(shipped)
    together = student.shares(TEXTS)
    assert together.argmax(1).unique().numel() > 1 and together.std(0).min() > 0.01
    torch.testing.assert_close(torch.cat([student.shares([text]) for text in TEXTS]), together, **CLOSE)
    torch.testing.assert_close(student.shares(TEXTS[::-1]).flip(0), together, **CLOSE)
    torch.testing.assert_close(student.shares(["w3 w4 " * 50, *TEXTS, "w5"])[1:-1], together, **CLOSE)
    assert (student.shares(TEXTS[:1] * 200) - together[0]).abs().max() <= 1e-5
    assert student.shares([]).shape == (0, 3)
    with pytest.raises(UserError, match="shares of the text 'w1 w2'; give a list of texts"):
        student.shares("w1 w2")


def test_the_command_gives_equal_lines_equal_rows(shipped: Path, tmp_path: Path) -> None:
    """Prevents: one document with two topics in one file."""

    def rows(lines: list[str]) -> list[list[str]]:
        (tmp_path / "new.txt").write_text("\n".join(lines) + "\n")
        main([str(shipped), str(tmp_path / "new.txt"), "--to", str(tmp_path / "new.csv")])
        with (tmp_path / "new.csv").open() as file:
            return [row[1:] for row in list(csv.reader(file))[1:]]

    found = rows(["w1 w2"] * 6 + ["w3 w4 w5 w6 w7 w8 w9"])
    assert len(found) == 7 and all(row == found[0] for row in found[:6])
    assert rows(["w1 w2"]) == found[:1]


@pytest.fixture
def documents(octis: Path) -> tuple[Corpus, Tensor, TopicModel]:
    """90 documents, embeddings of theirs and a teacher that reads both."""
    corpus = load_octis(octis)
    embedded = torch.randn(90, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    model = TopicModel(Shape(18, 4, 8, 1, True)).train()
    with torch.no_grad():
        for _ in range(40):
            model({"embeddings": embedded, "counts": torch.from_numpy(corpus.counts.toarray())})
    return corpus, embedded, model.eval()


def kept(store: Store, model: TopicModel) -> Teacher:
    return Teacher(store.get("topic_teacher", {}, lambda folder: save(model, folder)), 0)


def permuted(corpus: Corpus, order: np.ndarray) -> Corpus:
    assert corpus.labels is not None
    return replace(
        corpus,
        texts=[corpus.texts[i] for i in order],
        words=[corpus.words[i] for i in order],
        counts=corpus.counts[order],
        labels=corpus.labels[order],
    )


def test_states_and_scores_do_not_depend_on_order_and_batch(
    documents: tuple[Corpus, Tensor, TopicModel], tmp_path: Path
) -> None:
    """Prevents: a teacher that says otherwise of a document at another place; a purity that the order of a file
    decides.
    """
    corpus, embedded, model = documents
    order = np.random.default_rng(3).permutation(90)
    store = Store(tmp_path)
    teacher = kept(store, model)
    first = states(teacher, corpus, embedded, store, CPU)
    second = states(teacher, permuted(corpus, order), embedded[order], store, CPU)
    for name in STATES:
        torch.testing.assert_close(second[name], first[name][order], **CLOSE)
    scores = []
    for rows, size in ((np.arange(90), 256), (order, 7)):
        parts = {"train": np.arange(90), "test": np.arange(30)}
        data = TopicDataModule(permuted(corpus, rows), parts, embedded[rows], eval_batch_size=size)
        theta = latent(model, data, "train", CPU)[2]
        torch.testing.assert_close(theta, first["teacher_theta"][rows], **CLOSE)
        torch.testing.assert_close(latent(model, data, "test", CPU)[2], theta[:30], **CLOSE)
        scores.append(of_part(model, data, "train", theta, CPU))
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)


def test_states_of_other_documents_or_of_before_are_not_taken(
    documents: tuple[Corpus, Tensor, TopicModel], tmp_path: Path
) -> None:
    """Prevents: what the teacher made of a document that has been changed since, as the teacher's files alone do not
    tell it; the ten draws of an older cache.
    """
    corpus, embedded, model = documents
    store = Store(tmp_path)
    teacher = kept(store, model)
    before = {"teacher": digests(teacher.folder)}
    store.get("topic_states", before, lambda folder: (folder / "states.safetensors").write_bytes(b"older"))
    first = states(teacher, corpus, embedded, store, CPU)["teacher_theta"]
    words = [["boat"] * 9, *corpus.words[1:]]
    counts = corpus.counts.tolil()
    counts[0] = 0
    counts[0, corpus.vocabulary.index("boat")] = 9
    changed = states(teacher, replace(corpus, words=words, counts=counts.tocsr()), embedded, store, CPU)[
        "teacher_theta"
    ]
    assert (changed[0] - first[0]).abs().max() > 1e-3
    torch.testing.assert_close(changed[1:], first[1:], **CLOSE)
    other = embedded.roll(1, 0)
    moved = states(teacher, corpus, other, store, CPU)["teacher_theta"]
    assert rows_digest(other.numpy()) != rows_digest(embedded.numpy()) and (moved - first).abs().max() > 1e-3
