"""Stage 4 of topic models: scores of student and teacher, and the files that a run leaves of its topics."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from rwkd_lightning.cache.store import Store, digest
from rwkd_lightning.run.outputs import area_under_roc, differs, whole, without_nan
from rwkd_lightning.run.system import Evaluation
from rwkd_lightning.systems.topics.corruption import FLAG
from rwkd_lightning.systems.topics.datamodule import TopicDataModule
from rwkd_lightning.systems.topics.metrics import clustering, coherence, diversity, perplexity, sizes, top_words
from rwkd_lightning.systems.topics.model import TopicModel, save
from rwkd_lightning.systems.topics.module import MONITOR, log_likelihoods
from rwkd_lightning.systems.topics.page import TopicPage, write_page
from rwkd_lightning.systems.topics.teacher import latent
from rwkd_lightning.utils.model_files import size

EXAMPLES = 3
"""Documents shown of each topic."""


def evaluate(
    config: DictConfig,
    loaders: TopicDataModule,
    teacher_embeddings: Tensor,
    student: TopicModel,
    network: TopicModel,
    store: Store,
    device: torch.device,
) -> Evaluation:
    """Scores of both on the training and the test documents, the student's on the meta split, and the topics."""
    corpus = loaders.corpus
    parts = {name: documents.chosen for name, documents in loaders.documents.items()}
    theirs = TopicDataModule(
        corpus,
        parts,
        teacher_embeddings,
        batch_size=loaders.batch_size,
        eval_batch_size=loaders.eval_batch_size,
        meta_batch_size=loaders.meta_batch_size,
        seed=loaders.seed,
    )
    reference = [corpus.words[row] for row in parts["train"]]
    scores: dict[str, dict[str, Any]] = {"student": {}, "teacher": {}}
    topics: dict[str, list[dict[str, Any]]] = {}
    kept = functools.partial(kept_coherence, store, corpus.name)
    for who, model, data, cohere in (("student", student, loaders, coherence), ("teacher", network, theirs, kept)):
        by_beta = top_words(model.beta.detach().cpu(), corpus.vocabulary)  # as in the literature
        words = top_words(model.topic_words().cpu(), corpus.vocabulary)  # as the decoder has them
        published, found = cohere(by_beta, reference), cohere(words, reference)
        scores[who]["train"] = {
            "npmi": published["npmi"],
            "c_v": published["c_v"],
            "diversity": diversity(by_beta),
            "decoder_npmi": found["npmi"],
            "decoder_c_v": found["c_v"],
            "decoder_diversity": diversity(words),
        }
        for part in ("train", "test"):
            if len(parts[part]):
                theta = latent(model, data, part, device)[2]
                scores[who].setdefault(part, {}).update(of_part(model, data, part, theta, device))
                if part == "train":
                    columns = zip(
                        words,
                        sizes(theta).tolist(),
                        found["npmi_per_topic"],
                        found["c_v_per_topic"],
                        by_beta,
                        strict=True,
                    )
                    names = ("words", "share", "npmi", "c_v", "words_by_beta")
                    topics[who] = [dict(zip(names, topic, strict=True)) for topic in columns]
    held_out = of_part(student, loaders, "meta", latent(student, loaders, "meta", device)[2], device)["perplexity"]
    batches = [(theirs.meta_stream[step], loaders.meta_stream[step]) for step in range(5)]
    more = {
        "corpus": corpus.name,
        "distillation": config.task.distillation,
        "normalised": config.pair.teacher.normalised,
        "topics": topics,
    }
    title, meta = f"topics ({corpus.name}, {config.task.topics})", {MONITOR: -math.log(held_out)}
    return Evaluation(title, "npmi", meta, scores, network, batches, more)  # timed without the sentence encoders


def kept_coherence(
    store: Store, name: str, topics: Sequence[Sequence[str]], documents: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """`coherence`, from the cache or computed now, which takes minutes."""
    key = {"topics": topics, "documents": digest(documents), "gensim": metadata.version("gensim")}

    def build(folder: Path) -> None:
        (folder / "coherence.json").write_text(
            json.dumps(coherence(topics, documents))
        )  # with NaN for a topic without words

    folder = store.get("topic_coherence", key, build, about=f"{name}: coherence of a teacher's topics")
    found: dict[str, Any] = json.loads((folder / "coherence.json").read_text())
    return found


def of_part(
    model: TopicModel, data: TopicDataModule, part: str, theta: Tensor, device: torch.device
) -> dict[str, float]:
    """Perplexity, and where there are labels purity and NMI, of the documents of a part."""
    documents = data.rows(part)
    likelihoods = torch.empty(len(documents))
    words = torch.from_numpy(documents.counts.sum(1)).ravel()
    model.to(device)
    for batch in data.dataloader(part):
        at = batch["index"]
        likelihoods[at] = log_likelihoods(model, {"counts": batch["counts"].to(device)}, theta[at].to(device)).cpu()
    found = {"perplexity": perplexity(likelihoods, words)}
    if data.corpus.labels is not None:
        found |= clustering(documents.labels.tolist(), theta)
    return found


def found_by(columns: Mapping[str, Tensor], terms: Iterable[str]) -> dict[str, float]:
    """How well weight, influence and loss find documents with another one's teacher: areas under the ROC curve.

    1 finds them all, 0.5 is chance; what is the same for all documents is left out, and so are documents without the
    figure.
    """
    scores = {
        f"{kind} of {term}": sign * columns[f"{column}_{term}"]
        for term in terms
        for kind, column, sign in (("weight", "w", -1), ("influence", "influence", -1), ("loss", "loss", 1))
    }
    known = {name: score.isfinite() for name, score in scores.items() if differs(score)}
    return {name: area_under_roc(scores[name][rows], columns[FLAG][rows]) for name, rows in known.items()}


def write_topics(
    folder: Path,
    config: DictConfig,
    result: Mapping[str, Any],
    loaders: TopicDataModule,
    student: TopicModel,
    network: TopicModel,
) -> int:
    """Write the student, ``topics.json``, ``documents.parquet`` and ``topics.html``; returns the student's bytes."""
    corpus = loaders.corpus
    with whole(folder / "student") as part:
        save(student, part)
        (part / "vocabulary.txt").write_text("".join(f"{word}\n" for word in corpus.vocabulary), encoding="utf-8")
        (part / "encoder.json").write_text(json.dumps({"encoder": config.pair.student.encoder}) + "\n")
    (folder / "topics.json").write_text(
        json.dumps(without_nan(result["topics"]), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        encoding="utf-8",
    )
    shares = write_documents(folder / "documents.parquet", loaders, student)
    texts = [corpus.texts[row] for row in loaders.rows("train").chosen]
    best = shares["train"].topk(min(EXAMPLES, len(texts)), dim=0).indices.T
    page = TopicPage(
        vocabulary=list(corpus.vocabulary),
        beta_student=student.topic_words().cpu().numpy(),
        beta_teacher=network.topic_words().cpu().numpy(),
        sizes=[topic["share"] for topic in result["topics"]["student"]],
        npmi=[topic["npmi"] for topic in result["topics"]["student"]],
        examples=[[(texts[int(i)], float(shares["train"][i, k])) for i in rows] for k, rows in enumerate(best)],
        title=f"{corpus.name}: {config.task.topics} topics, {config.weighting_name}, seed {config.seed}",
        scores={
            f"{part} {name}": (value, result["student"][part][name])
            for part, values in result["teacher"].items()
            for name, value in values.items()
        },
    )
    write_page(folder / "topics.html", page)
    return size(folder / "student")


def write_documents(path: Path, loaders: TopicDataModule, student: TopicModel) -> dict[str, Tensor]:
    """Write ``documents.parquet``: idx, part, label, largest topic, the share of each topic; returns the shares."""
    import pyarrow
    import pyarrow.parquet

    tables, shares = [], {}
    device = next(student.parameters()).device
    for name, documents in loaders.documents.items():
        if not len(documents):
            continue
        theta = shares[name] = latent(student, loaders, name, device)[2]
        tables.append(
            pyarrow.table(
                {
                    "idx": documents.idx.numpy(),
                    "part": pyarrow.repeat(name, len(documents)),
                    "label": documents.labels.numpy(),
                    "topic": theta.argmax(1).numpy(),
                    **{f"topic_{k}": theta[:, k].numpy() for k in range(theta.shape[1])},
                }
            )
        )
    part = path.with_name(f".{path.name}.part")
    pyarrow.parquet.write_table(pyarrow.concat_tables(tables), part)
    os.replace(part, path)
    return shares
