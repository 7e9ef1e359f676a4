"""The staged run of topic models: documents, embeddings, teacher, distillation, evaluation, export, report."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from rwkd_lightning.cache.disk import check_room
from rwkd_lightning.cache.store import Store, digest, digests
from rwkd_lightning.meta import Restriction
from rwkd_lightning.run import inputs
from rwkd_lightning.run.build import (
    check_interval,
    check_settings,
    create,
    loop_of,
    meta_of,
    optimizer_of,
    schedule_of,
    terms_of,
    trainer_of,
    weighting_of,
)
from rwkd_lightning.run.callbacks import check_monitors
from rwkd_lightning.run.distil import clear, distil
from rwkd_lightning.run.identity import device_kind
from rwkd_lightning.run.inputs import Inputs
from rwkd_lightning.run.outputs import write_json, write_weights
from rwkd_lightning.run.processes import is_first, processes
from rwkd_lightning.run.result_table import table
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.systems.text.models import find
from rwkd_lightning.systems.topics import teacher as stages
from rwkd_lightning.systems.topics.corpus import Corpus, split
from rwkd_lightning.systems.topics.corruption import FLAG, check_share, swap_teacher
from rwkd_lightning.systems.topics.datamodule import TopicDataModule, check_batches, check_meta_batch
from rwkd_lightning.systems.topics.embeddings import embeddings
from rwkd_lightning.systems.topics.encoder import encoder_digest
from rwkd_lightning.systems.topics.evaluate import evaluate, found_by, write_topics
from rwkd_lightning.systems.topics.metrics import TOP_WORDS
from rwkd_lightning.systems.topics.model import Shape, TopicModel, load
from rwkd_lightning.systems.topics.module import TeacherWords, TopicDistillationModule
from rwkd_lightning.terms import Term
from rwkd_lightning.training.compatibility import check_parts, check_reach
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import Weighting

log = logging.getLogger(__name__)


def carry_out(config: DictConfig, folder: Path, stop: Stop, force: bool) -> dict[str, Any]:
    """All stages, one after the other."""
    start = time.perf_counter()
    lightning.seed_everything(config.seed, workers=True, verbose=False)  # the meta-learner is initialised here
    weighting, terms, trainer_options = weighting_of(config), terms_of(config), trainer_of(config)
    weighting.check(tuple(term.name for term in terms), False)
    check_settings(config, weighting)
    check_monitors(config, [TopicDistillationModule.MONITOR])
    folder.mkdir(parents=True, exist_ok=True)
    if is_first():
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
    corpus, parts = documents_of(config)
    log.info("%s: %d documents, %d words; %s", corpus.name, len(corpus), len(corpus.vocabulary),
             ", ".join(f"{name} {len(rows)}" for name, rows in parts.items()))
    store = Store(Path(config.cache_dir).expanduser(), builds=is_first())
    device = torch.device("cuda" if device_kind(config.trainer.accelerator) == "cuda" else "cpu")
    check_early(config, corpus, len(parts["train"]), processes(trainer_options), terms, weighting)
    made_of = inputs_of(config, corpus, parts)
    if is_first() and not force:
        inputs.check(folder, made_of)
    theirs, ours = (embeddings(corpus.texts, corpus.fingerprint(), config.pair[who].encoder, store, device)
                    for who in ("teacher", "student"))
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    student = TopicModel(stages.shape_of(config, "student", corpus, ours))
    check_room(folder, 12 * sum(p.numel() * p.element_size() for p in student.parameters()), "runs_dir")
    drawn = torch.get_rng_state()
    teacher = stages.teacher_of(config, corpus, parts, theirs, store, trainer_options, stop)
    states = swap_teacher(stages.states(teacher, corpus, theirs, store, device), parts["train"], config.data.teacher_noise,
                          config.seed)
    made_of = {**made_of, "models": {**made_of["models"], "trained teacher": {"sha256": digest(digests(teacher.folder))}}}
    if is_first():
        if force:
            clear(folder, "topics.json", "topics.html", "documents.parquet")
        inputs.check(folder, made_of)
        inputs.write(folder, made_of)
    torch.set_rng_state(drawn)

    loaders = TopicDataModule(
        corpus, parts, ours, states, batch_size=config.data.batch_size, eval_batch_size=config.data.eval_batch_size,
        meta_batch_size=config.meta.batch_size, seed=config.seed, num_workers=config.data.num_workers)
    network = load(teacher.folder)
    stages.warn_of_sharing(network, corpus.vocabulary)
    weighting.prepare({"labels": loaders.train_labels, **loaders.rows("train").extras})
    module = TopicDistillationModule(
        student, terms, weighting, optimizer_of(config), loaders.train_size, schedule=schedule_of(config),
        meta=meta_of(config, weighting, loaders.meta_stream),
        teacher=TeacherWords(network, config.pair.teacher.normalised), **loop_of(config))
    fitted = distil(config, folder, module, loaders, trainer_options, stop, force, module.MONITOR)
    if not is_first():
        return {}
    result = evaluate(config, loaders, theirs, student, network, teacher, fitted, module, store)
    result["cost"]["student_bytes"] = write_topics(folder, config, result, loaders, student, network)
    columns = write_weights(folder / "weights.parquet", module.ledger.cpu(), loaders)
    if config.data.teacher_noise:
        result["probes"] = {FLAG: found_by(columns, [t for t in config.terms if t in config.task.meta_terms.soft])}
    result["cost"]["total_seconds"] = time.perf_counter() - start
    write_json(folder / "metrics.json", result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    print(f"\n{table(result, str(folder))}")
    return result


def documents_of(config: DictConfig) -> tuple[Corpus, dict[str, np.ndarray]]:
    """The corpus, and the rows of each of its parts."""
    corpus: Corpus = create(config.task.load, Corpus)
    return corpus, split(corpus, config.data.meta_fraction, config.data.test_fraction, config.data.split_seed)


def inputs_of(config: DictConfig, corpus: Corpus | None = None, parts: dict[str, np.ndarray] | None = None) -> Inputs:
    """The documents and encoders that the config names, as they are now; ``corpus`` and ``parts`` where they are known."""
    if corpus is None or parts is None:
        corpus, parts = documents_of(config)
    sha256 = corpus.fingerprint()
    return inputs.inputs({name: (len(rows), digest([sha256, rows.tolist()])) for name, rows in parts.items()},
                         {who: encoder_digest(find(config.pair[who].encoder), config.pair[who].encoder)
                          for who in ("teacher", "student")})


def check_early(config: DictConfig, corpus: Corpus, documents: int, together: int, terms: list[Term],
                weighting: Weighting) -> None:
    """Raise UserError for what would be found after the embeddings and the teacher, which may take long."""
    if len(corpus.vocabulary) < TOP_WORDS:
        raise UserError(f"corpus {corpus.name!r}: its vocabulary has {len(corpus.vocabulary)} words, and {TOP_WORDS} are shown "
                        "of each topic; give more text, or, unless the words are cut already, lower task.load.min_documents or "
                        "raise task.load.max_share")
    check_share(config.data.teacher_noise, documents)
    check_interval(config, documents)
    check_batches(documents, config.data.batch_size, processes=together)
    check_meta_batch(config.meta.batch_size, together)
    check_batches(documents, config.pair.teacher.batch_size, "pair.teacher.batch_size")
    student = TopicModel(Shape(len(corpus.vocabulary), config.topics, 1, config.pair.student.layers,
                               config.pair.student.bag_of_words))  # the width of the embeddings does not matter here
    check_reach(terms, weighting, create(config.meta.theta, Restriction), student)
    check_parts(student, config.trainer.accumulate)
