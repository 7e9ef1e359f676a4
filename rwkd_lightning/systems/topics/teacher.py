"""Stages 1 and 2 of topic models: embeddings, the teacher, its states of every document; each computed once."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from rwkd_lightning.cache.store import Store, digests, tensors
from rwkd_lightning.meta.restriction import to_device
from rwkd_lightning.run.identity import VERSION, keyed, only
from rwkd_lightning.run.system import Run, Teacher
from rwkd_lightning.run.train_once import Fit, train_once
from rwkd_lightning.systems.topics.corpus import Corpus
from rwkd_lightning.systems.topics.datamodule import TopicDataModule
from rwkd_lightning.systems.topics.metrics import diversity, top_words
from rwkd_lightning.systems.topics.model import Shape, TopicModel, load, save
from rwkd_lightning.systems.topics.module import TopicDistillationModule
from rwkd_lightning.systems.topics.terms import PriorKL, Reconstruction
from rwkd_lightning.training.optim import adam
from rwkd_lightning.weighting import LabelsOnly

log = logging.getLogger(__name__)
FEWEST_DISTINCT = 0.5
"""Share of distinct words among a teacher's top words below which a run says so."""
TOPIC_TEACHER = (
    "task.topics",
    *(
        f"pair.teacher.{key}"
        for key in ("epochs", "lr", "betas", "batch_size", "seed", "precision", "layers", "bag_of_words")
    ),
    "trainer.deterministic",
)
"""Keys of the config that a teacher depends on, beside the content of its documents and of their embeddings."""
STATES = ("teacher_mu", "teacher_log_var", "teacher_theta")


def shape_of(config: DictConfig, who: str, corpus: Corpus, embeddings: Tensor) -> Shape:
    """The shape that ``pair.teacher`` or ``pair.student`` asks for, for this corpus."""
    spec = config.pair[who]
    return Shape(len(corpus.vocabulary), config.task.topics, embeddings.shape[1], spec.layers, spec.bag_of_words)


def teacher_of(
    config: DictConfig, corpus: Corpus, parts: dict[str, np.ndarray], embeddings: Tensor, run: Run
) -> Teacher:
    """The teacher for this corpus: from the cache, or trained now by its negative ELBO on the training documents."""
    settings = only(config, TOPIC_TEACHER)
    return train_once(
        run,
        "topic_teacher",
        key_of(config, corpus, parts, embeddings),
        lambda folder, fit: train(settings, corpus, parts, embeddings, folder, fit),
        about=f"{corpus.name}: {config.task.topics} topics",
        needed_bytes=60 * len(corpus.vocabulary) * (embeddings.shape[1] + config.task.topics),
    )


def key_of(config: DictConfig, corpus: Corpus, parts: dict[str, np.ndarray], embeddings: Tensor) -> dict[str, Any]:
    """Everything that the bytes of a trained teacher depend on."""
    return {
        "corpus": corpus.fingerprint(),
        "train": rows_digest(parts["train"]),
        "embeddings": rows_digest(embeddings.numpy()),
        "settings": keyed(config, TOPIC_TEACHER),
    }


def train(
    settings: DictConfig, corpus: Corpus, parts: dict[str, np.ndarray], embeddings: Tensor, folder: Path, fit: Fit
) -> None:
    """Train a teacher and write it to ``folder``.

    Args:
        settings: the keys of ``TOPIC_TEACHER``; nothing else of a run's config reaches the teacher.
    """
    spec = settings.pair.teacher
    lightning.seed_everything(spec.seed, workers=True, verbose=False)
    teacher = TopicModel(shape_of(settings, "teacher", corpus, embeddings))
    loaders = TopicDataModule(corpus, parts, embeddings, batch_size=spec.batch_size, seed=spec.seed)
    module = TopicDistillationModule(
        teacher,
        [PriorKL(), Reconstruction()],
        LabelsOnly(),
        functools.partial(adam, lr=spec.lr, betas=tuple(spec.betas)),
        loaders.train_size,
        clip=None,
    )
    fit(module, loaders, {"max_epochs": spec.epochs, "max_steps": -1, "precision": spec.precision})
    save(teacher, folder)


def warn_of_sharing(network: TopicModel, vocabulary: Sequence[str]) -> None:
    """Say before the distillation that a teacher's topics are largely the same: its student takes that on."""
    distinct = diversity(top_words(network.beta.detach().cpu(), vocabulary))
    if distinct < FEWEST_DISTINCT:
        log.warning(
            "of the teacher's top words only %.0f %% are distinct: its topics are largely the same, and a student of w2"
            " or full follows it; fewer hidden layers than pair.teacher.layers=%d or another pair.teacher.seed may give"
            " a better one, and task.distillation=soft_ce depends on it less",
            100 * distinct,
            network.shape.layers,
        )


def rows_digest(values: np.ndarray) -> str:
    """SHA-256 of an array's bytes."""
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def states(
    teacher: Teacher, corpus: Corpus, embeddings: Tensor, store: Store, device: torch.device
) -> dict[str, Tensor]:
    """``teacher_mu``, ``teacher_log_var`` and ``teacher_theta`` ``(N, K)`` of all documents: from the cache, or
    computed now.
    """
    # the teacher's files alone do not say it: another held-out document leaves them as they are
    key = {
        "version": VERSION,
        "device": device.type,
        "teacher": digests(teacher.folder),
        "corpus": corpus.fingerprint(),
        "embeddings": rows_digest(embeddings.numpy()),
    }

    def build(folder: Path) -> None:
        loaders = TopicDataModule(corpus, {"train": np.arange(len(corpus))}, embeddings, batch_size=len(corpus))
        mu, log_var, theta = latent(load(teacher.folder), loaders, "train", device)
        save_file(dict(zip(STATES, (mu, log_var, theta), strict=True)), folder / "states.safetensors")

    kept = store.get("topic_states", key, build, about=f"{corpus.name}: what a teacher makes of its documents")
    return tensors(kept / "states.safetensors", {name: (len(corpus), None) for name in STATES})


@torch.inference_mode()
def latent(
    model: TopicModel, loaders: TopicDataModule, part: str, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """μ, log σ² and the mean θ ``(N, K)`` of the documents of a part, in their order."""
    model.eval().to(device)
    found: dict[int, Tensor] = {}
    for batch in loaders.dataloader(part):
        mu, log_var = model.encode(to_device(batch, device))
        found.update(zip(batch["index"].tolist(), torch.stack([mu.cpu(), log_var.cpu()], 1), strict=True))
    mu, log_var = torch.stack([found[place] for place in range(len(found))]).unbind(1)
    return mu.contiguous(), log_var.contiguous(), model.mixture(mu, log_var)
