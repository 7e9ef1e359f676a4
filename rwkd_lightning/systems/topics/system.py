"""Topic models, as a run drives them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from rwkd_lightning.cache.store import digest, digests
from rwkd_lightning.export.shipped import Shipment
from rwkd_lightning.meta import Restriction
from rwkd_lightning.run import inputs
from rwkd_lightning.run.build import check_interval, create, optimizer_of, schedule_of
from rwkd_lightning.run.inputs import Inputs
from rwkd_lightning.run.processes import processes
from rwkd_lightning.run.system import Evaluation, Run, System, Teacher
from rwkd_lightning.systems.topics import teacher as stages
from rwkd_lightning.systems.topics.corpus import Corpus, split
from rwkd_lightning.systems.topics.corruption import FLAG, check_share, swap_teacher
from rwkd_lightning.systems.topics.datamodule import TopicDataModule, check_batches, check_meta_batch
from rwkd_lightning.systems.topics.embeddings import embeddings
from rwkd_lightning.systems.topics.encoder import encoder_digest
from rwkd_lightning.systems.topics.evaluate import evaluate, found_by, write_topics
from rwkd_lightning.systems.topics.metrics import TOP_WORDS
from rwkd_lightning.systems.topics.model import OUTPUTS, Shape, TopicModel, load
from rwkd_lightning.systems.topics.module import MONITOR, TeacherWords, TopicDistillationModule
from rwkd_lightning.terms import Term
from rwkd_lightning.training.compatibility import check_outputs, check_parts, check_reach
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import find
from rwkd_lightning.weighting import Weighting

log = logging.getLogger(__name__)


class TopicSystem(System):
    """A contextual topic model, distilled into a smaller one (Adhya and Sanyal 2023)."""

    name = "topics"
    provides = frozenset({"words"})
    files = ("topics.json", "topics.html", "documents.parquet")
    corpus: Corpus
    parts: dict[str, np.ndarray]
    embeddings: dict[str, Tensor]
    """Of all documents, ``(N, E)``, by teacher and student."""
    states: dict[str, Tensor]
    network: TopicModel
    """The teacher."""
    batches: TopicDataModule

    @property
    def monitor(self) -> str:
        return MONITOR

    def read(self) -> None:
        self.corpus, self.parts = documents_of(self.config)

    def inputs(self) -> Inputs:
        sha256 = self.corpus.fingerprint()
        return inputs.inputs(
            {name: (len(rows), digest([sha256, rows.tolist()])) for name, rows in self.parts.items()},
            {
                who: encoder_digest(find(self.config.pair[who].encoder), self.config.pair[who].encoder)
                for who in ("teacher", "student")
            },
        )

    def prepare(self, run: Run, terms: Sequence[Term], weighting: Weighting) -> TopicModel:
        log.info(
            "%s: %d documents, %d words; %s",
            self.corpus.name,
            len(self.corpus),
            len(self.corpus.vocabulary),
            ", ".join(f"{name} {len(rows)}" for name, rows in self.parts.items()),
        )
        with torch.random.fork_rng(devices=[]):
            check_early(self.config, self.corpus, len(self.parts["train"]), processes(run.options), terms, weighting)
        self.embeddings = {
            who: embeddings(
                self.corpus.texts, self.corpus.fingerprint(), self.config.pair[who].encoder, run.store, run.device
            )
            for who in ("teacher", "student")
        }
        return TopicModel(stages.shape_of(self.config, "student", self.corpus, self.embeddings["student"]))

    def teacher(self, run: Run) -> tuple[Teacher, Any]:
        theirs = self.embeddings["teacher"]
        given = stages.teacher_of(self.config, self.corpus, self.parts, theirs, run)
        states = stages.states(given, self.corpus, theirs, run.store, run.device)
        self.states = swap_teacher(states, self.parts["train"], self.config.data.teacher_noise, self.config.seed)
        self.folder = given.folder
        return given, digests(given.folder)

    def loaders(self, run: Run, student: nn.Module, terms: Sequence[Term]) -> TopicDataModule:
        data = self.config.data
        self.batches = TopicDataModule(
            self.corpus,
            self.parts,
            self.embeddings["student"],
            self.states,
            batch_size=data.batch_size,
            eval_batch_size=data.eval_batch_size,
            meta_batch_size=self.config.meta.batch_size,
            seed=self.config.seed,
            num_workers=data.num_workers,
        )
        self.network = load(self.folder)
        stages.warn_of_sharing(self.network, self.corpus.vocabulary)
        return self.batches

    def module(
        self, student: nn.Module, terms: Sequence[Term], weighting: Weighting, **options: Any
    ) -> DistillationModule:
        return TopicDistillationModule(
            student,
            terms,
            weighting,
            optimizer_of(self.config),
            schedule=schedule_of(self.config),
            teacher=TeacherWords(self.network, self.config.pair.teacher.normalised),
            **options,
        )

    def evaluate(self, run: Run, student: nn.Module, device: torch.device) -> Evaluation:
        return evaluate(
            self.config,
            self.batches,
            self.embeddings["teacher"],
            as_topic_model(student),
            self.network,
            run.store,
            device,
        )

    def export(self, folder: Path, student: nn.Module, result: Mapping[str, Any]) -> int:
        return write_topics(folder, self.config, result, self.batches, as_topic_model(student), self.network)

    def shipment(self, folder: Path) -> Shipment:
        raise UserError(
            f"topic models are not exported; {folder / 'student'} is whole, and its topics of new documents are had by "
            f"`python -m rwkd_lightning.systems.topics.infer {folder / 'student'} FILE`"
        )

    def findings(self, columns: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        if not self.config.data.teacher_noise:
            return {}
        return {FLAG: found_by(columns, [t for t in self.config.terms if t in self.config.task.meta_terms.soft])}

    def lines(self, metrics: Mapping[str, Any]) -> list[str]:
        topics = [
            f"{k:3d} {topic['share']:6.1%}  {' '.join(topic['words'])}"
            for k, topic in enumerate(metrics["topics"]["student"])
        ]
        return ["", "topics of the student, with their share of the documents", *topics]


def as_topic_model(student: nn.Module) -> TopicModel:
    """The student as what this system has made it."""
    assert isinstance(student, TopicModel)
    return student


def documents_of(config: DictConfig) -> tuple[Corpus, dict[str, np.ndarray]]:
    """The corpus, and the rows of each of its parts."""
    corpus: Corpus = create(config, "task.load", Corpus)
    return corpus, split(corpus, config.data.meta_fraction, config.data.test_fraction, config.data.split_seed)


def check_early(
    config: DictConfig, corpus: Corpus, documents: int, together: int, terms: Sequence[Term], weighting: Weighting
) -> None:
    """Raise UserError for what would be found after the embeddings and the teacher, which may take long."""
    if len(corpus.vocabulary) < TOP_WORDS:
        raise UserError(
            f"corpus {corpus.name!r}: its vocabulary has {len(corpus.vocabulary)} words, and {TOP_WORDS} are shown "
            "of each topic; give more text, or, unless the words are cut already, lower task.load.min_documents or "
            "raise task.load.max_share"
        )
    check_share(config.data.teacher_noise, documents)
    check_interval(config, documents)
    check_batches(documents, config.data.batch_size, processes=together)
    check_meta_batch(config.meta.batch_size, together)
    check_batches(documents, config.pair.teacher.batch_size, "pair.teacher.batch_size")
    student = TopicModel(
        Shape(
            len(corpus.vocabulary), config.task.topics, 1, config.pair.student.layers, config.pair.student.bag_of_words
        )
    )  # the width of the embeddings does not matter here
    check_outputs(terms, OUTPUTS)
    check_reach(terms, weighting, create(config, "meta.theta", Restriction), student)
    check_parts(student, config.trainer.accumulate)
