"""Dense retrieval, as a run drives it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rwkd_lightning.cache.store import digest
from rwkd_lightning.export.shipped import Shipment
from rwkd_lightning.meta import Restriction
from rwkd_lightning.meta.head import Head
from rwkd_lightning.run import inputs
from rwkd_lightning.run.build import check_interval, create, optimizer_of, schedule_of
from rwkd_lightning.run.inputs import Inputs
from rwkd_lightning.run.outputs import area_under_roc, differs, whole
from rwkd_lightning.run.processes import processes
from rwkd_lightning.run.result_table import columns as aligned
from rwkd_lightning.run.result_table import number
from rwkd_lightning.run.system import Evaluation, Run, System, Teacher
from rwkd_lightning.systems.retrieval import teacher as stages
from rwkd_lightning.systems.retrieval.collection import TEST, TRAIN, Collection, tell
from rwkd_lightning.systems.retrieval.datamodule import RetrievalDataModule
from rwkd_lightning.systems.retrieval.encoder import load_transformer
from rwkd_lightning.systems.retrieval.evaluate import Found, meta_score, score_student, score_table, unseen
from rwkd_lightning.systems.retrieval.late_folder import read_teacher, teacher_digest
from rwkd_lightning.systems.retrieval.metrics import NAMES, rankings
from rwkd_lightning.systems.retrieval.mining import (
    BY_TEACHER,
    BY_WORDS,
    NONE,
    is_run,
    negatives_by,
    scores_by_student,
    scores_by_words,
)
from rwkd_lightning.systems.retrieval.schema import RELEVANCE
from rwkd_lightning.systems.retrieval.sentence_folder import student_digest, student_of, write_student
from rwkd_lightning.systems.retrieval.student import BiEncoder
from rwkd_lightning.systems.retrieval.terms import MarginMSE, TeacherVectors
from rwkd_lightning.systems.retrieval.tokens import Texts
from rwkd_lightning.systems.retrieval.trec import write_run
from rwkd_lightning.systems.retrieval.validation import MONITOR, CandidateRank
from rwkd_lightning.systems.retrieval.vectors import write_part, write_summary
from rwkd_lightning.systems.text.models.loading import load_tokenizer
from rwkd_lightning.systems.text.system import fingerprints
from rwkd_lightning.terms import AnnealedMSE, Term
from rwkd_lightning.training.compatibility import check_outputs, check_reach
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import Weighting

log = logging.getLogger(__name__)
TIMED = 5
"""Batches with which the speed at inference is measured."""
OUTPUTS = ("logits", "query_vectors", "document_vectors")
"""Of the student."""
FLAGS = {"label_flipped": "label", "teacher_corrupted": "teacher"}
"""What may be corrupted, and the role of the terms that then lie."""


class RetrievalSystem(System):
    """A student of one vector a text, distilled from a late-interaction teacher that scores all documents of a batch
    (Lin, Yang and Lin, RepL4NLP 2021); a row is a query with one of its relevant documents.
    """

    name = "retrieval"
    provides = frozenset({"probabilities", "candidates"})
    monitor = MONITOR
    files = ("index", "run.test.trec")
    less_memory = "lower data.batch_size or data.document_length"
    collection: Collection
    by_words: dict[str, np.ndarray]
    """BM25's scores by split."""
    of_teacher: dict[str, np.ndarray]
    """The negatives that the teacher is trained with."""
    negatives: dict[str, np.ndarray]
    """Those of the student."""
    baselines: dict[str, dict[str, dict[str, float]]]
    batches: RetrievalDataModule
    tokenizer: Any
    taught: Teacher
    scores: dict[str, Tensor]
    found: Found
    terms: Sequence[Term]

    def read(self) -> None:
        data = self.config.data
        read = create(self.config, "task.load", Collection)
        self.collection = read.held_out(data.meta_fraction, data.validation_fraction, data.split_seed)
        stages.check_table(self.collection)
        check_interval(self.config, len(self.collection.splits[TRAIN].pairs))

    def inputs(self) -> Inputs:
        documents = self.collection.fingerprint()
        splits = {
            name: (len(queries), digest([documents, queries.fingerprint()]))
            for name, queries in self.collection.splits.items()
        }
        paths = {"teacher": self.config.pair.teacher.path, "student": self.config.pair.student.path}
        miners = {
            f"student that mines for the {who}": student_digest(student_of(kind))
            for who, kind in (("student", self.config.data.negatives), ("teacher", self.config.pair.teacher.negatives))
            if is_run(kind)
        }
        return inputs.inputs(splits, {**fingerprints(paths), **miners})

    def prepare(self, run: Run, terms: Sequence[Term], weighting: Weighting) -> BiEncoder:
        config, self.terms = self.config, terms
        tell(self.collection)
        check_loop(config, run, terms)
        spec = config.pair.student
        start = config.pair.teacher.path if spec.path == "teacher" else spec.path
        self.tokenizer = load_tokenizer(start)
        student = BiEncoder(load_transformer(start, spec.layers), spec.width, spec.temperature)
        with torch.random.fork_rng(devices=[]):
            check_lengths(config, student, self.tokenizer)
            check_outputs(terms, OUTPUTS, {"logits", "query_vectors"})
            theta = create(config, "meta.theta", Restriction)
            if weighting.needs_influence and isinstance(theta, Head):
                raise UserError(
                    f"meta={theta!r} differentiates by a classifier's head, and a student of vectors has none; use "
                    "meta=projection, or meta=all"
                )
            check_reach(terms, weighting, theta, student)
            self.by_words = scores_by_words(self.collection)
            self.of_teacher = self.mined(self.config.pair.teacher.negatives, run)
            if config.data.negatives == BY_WORDS:  # too few are found now
                self.mined(BY_WORDS, run)
        tables = {name: torch.from_numpy(table) for name, table in self.by_words.items()}
        self.baselines = {"BM25": score_table(self.collection, tables)}
        return student

    def mined(
        self, kind: str, run: Run, scores: Mapping[str, Tensor] | None = None, margin: float | None = None
    ) -> dict[str, np.ndarray]:
        """Negatives of this kind, by split; ``scores`` are the teacher's, once there is one."""
        if kind == NONE:
            return {}
        if kind == BY_WORDS:
            tables = self.by_words
        elif kind == BY_TEACHER:
            assert scores is not None
            tables = {name: table.numpy() for name, table in scores.items()}
        else:
            tables = scores_by_student(kind, self.collection, self.config.data.eval_batch_size, run.device)
        return negatives_by(tables, self.collection, self.config.data.negative_depth, scores, margin)

    def teacher(self, run: Run) -> tuple[Teacher, Any]:
        self.taught = stages.teacher_of(self.config, self.collection, self.of_teacher, run)
        self.scores = stages.scores(self.config, self.taught, self.collection, run.store, run.device)
        data = self.config.data
        self.negatives = self.mined(data.negatives, run, self.scores, data.negative_margin)
        return self.taught, teacher_digest(self.taught.folder)

    def student(self, run: Run, terms: Sequence[Term]) -> BiEncoder | None:
        spec = self.config.pair.student
        if spec.path != "teacher":
            return None
        self.tokenizer = load_tokenizer(str(self.taught.folder))
        return BiEncoder(load_transformer(str(self.taught.folder), spec.layers), spec.width, spec.temperature)

    def loaders(self, run: Run, student: nn.Module, terms: Sequence[Term]) -> RetrievalDataModule:
        data, temperature = self.config.data, self.config.pair.teacher.temperature
        self.batches = RetrievalDataModule(
            self.collection,
            self.tokenizer,
            query_length=data.query_length,
            document_length=data.document_length,
            batch_size=data.batch_size,
            eval_batch_size=data.eval_batch_size,
            meta_batch_size=self.config.meta.batch_size,
            seed=self.config.seed,
            num_workers=data.num_workers,
            negatives=self.negatives,
            each=data.negatives_each,
            meta_each=data.meta_negatives,
            scores={name: table / temperature for name, table in self.scores.items()},
            label_noise=data.label_noise,
            teacher_noise=data.teacher_noise,
            means=self.means(run, student),
            by_relevance=data.weight == RELEVANCE,
        )
        self.batches.documents.tell("documents")
        self.batches.queries[TRAIN].tell("training queries")
        self.baselines["zero-shot"] = self.zero_shot(run.device)
        return self.batches

    def means(self, run: Run, student: nn.Module) -> dict[str, Tensor]:
        """What the terms over vectors read of the teacher; nothing where there is no such term."""
        inside = [term for term in self.terms if isinstance(term, TeacherVectors)]
        if not inside:
            return {}
        network, _ = read_teacher(self.taught.folder)
        for term in inside:
            term.connect(student, network)
        return stages.means(self.config, self.taught, self.collection, run.store, run.device)

    def zero_shot(self, device: torch.device) -> dict[str, dict[str, float]]:
        """The scores of the whole model that the student is made of, before any training."""
        spec = self.config.pair.student
        path = self.config.pair.teacher.path if spec.path == "teacher" else spec.path
        with torch.random.fork_rng(devices=[]):
            untrained = BiEncoder(load_transformer(path))
        return score_student(untrained, self.batches, device, "zero-shot").scores

    def module(
        self, student: nn.Module, terms: Sequence[Term], weighting: Weighting, **options: Any
    ) -> DistillationModule:
        return DistillationModule(
            student,
            terms,
            weighting,
            optimizer_of(self.config),
            schedule=schedule_of(self.config),
            validation=CandidateRank(),
            **options,
        )

    def evaluate(self, run: Run, student: nn.Module, device: torch.device) -> Evaluation:
        own = as_bi_encoder(student)
        self.found = score_student(own, self.batches, device, "student")
        network, tokenizer = read_teacher(self.taught.folder)
        theirs = RetrievalDataModule(
            self.collection,
            tokenizer,
            query_length=self.config.data.query_length,
            document_length=self.config.data.document_length,
            meta_batch_size=self.config.meta.batch_size,
            seed=self.config.seed,
            negatives=self.negatives,
            meta_each=self.config.data.meta_negatives,
        )
        pairs = [(theirs.meta_stream[step], self.batches.meta_stream[step]) for step in range(TIMED)]
        ranked = rankings(self.scores[TEST].numpy(), self.collection.ids)
        tokens = sum(map(len, theirs.documents.ids))
        return Evaluation(
            self.collection.name,
            NAMES[0],
            meta_score(own, self.batches, device),
            {"student": self.found.scores, "teacher": score_table(self.collection, self.scores)},
            network,
            pairs,
            {
                "teacher_folder": str(self.taught.folder),
                "baselines": self.baselines,
                "unseen": {
                    "student": unseen(self.collection, self.found.ranked),
                    "teacher": unseen(self.collection, ranked),
                },
                "index": {
                    "documents": len(self.collection.ids),
                    "student_bytes": 2 * self.found.vectors.numel(),
                    "teacher_bytes": 2 * tokens * network.width,
                    "query_seconds": self.found.query_seconds,
                },
            },
            self.found.rows,
        )

    def export(self, folder: Path, student: nn.Module, result: Mapping[str, Any]) -> int:
        data, queries = self.config.data, self.collection.splits[TEST]
        size = write_student(
            folder / "student", as_bi_encoder(student), self.tokenizer, data.query_length, data.document_length
        )
        with whole(folder / "index") as part:
            write_part(part, 0, self.collection.ids, self.found.vectors)
            made_of = {"student": student_digest(folder / "student"), "corpus": self.collection.fingerprint()}
            write_summary(part, {**made_of, "parts": 1, "documents": len(self.collection.ids)})
        write_run(
            folder / "run.test.trec", queries.ids, self.collection.ids, self.found.ranked.tolist(), self.found.cosines
        )
        return size

    def shipment(self, folder: Path) -> Shipment:
        raise UserError(
            f"retrieval models are not exported to ONNX; {folder / 'student'} is whole, and SentenceTransformer('...') "
            "loads it"
        )

    def columns(self) -> dict[str, Tensor]:
        """``loss_teacher``: −log of the share that the teacher gives a row's document among all documents but those
        that are relevant to its query, too.
        """
        rows = self.batches.rows(TRAIN)
        table = self.batches.scores[TRAIN]
        found = torch.empty(len(rows))
        for place, (query, document) in enumerate(zip(rows.taught, rows.documents, strict=True)):
            scores = table[query].clone()
            scores[list(rows.relevant[rows.queries[place]] - {int(document)})] = -torch.inf
            found[place] = -scores.log_softmax(0)[int(document)]
        return {"loss_teacher": found}

    def words(self, rows: Sequence[int]) -> list[dict[str, str]]:
        pairs, queries = self.batches.rows(TRAIN), self.collection.splits[TRAIN]
        return [
            {
                "query": queries.texts[pairs.queries[row]],
                "document": f"{self.collection.ids[d]} {self.collection.texts[d]}"[:160],
            }
            for row in rows
            for d in [pairs.documents[row]]
        ]

    def findings(self, columns: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        return found_by(columns, self.terms)

    def lines(self, metrics: Mapping[str, Any]) -> list[str]:
        index, alone = metrics["index"], metrics["unseen"]
        rows: list[tuple[str, ...]] = [("on test, without training", *NAMES)]
        rows += [
            (name, *(number(found[TEST][metric]) for metric in NAMES)) for name, found in metrics["baselines"].items()
        ]
        if alone["student"]["queries"]:
            count = alone["student"]["queries"]
            rows.append((f"{count} queries of documents unseen in training:", *[""] * len(NAMES)))
            rows += [(who, *(number(alone[who][metric]) for metric in NAMES)) for who in ("teacher", "student")]
        return [
            "",
            *aligned(rows),
            "",
            f"index of {index['documents']} documents: {index['student_bytes'] / 2**20:.1f} MiB; the teacher's token "
            f"vectors: {index['teacher_bytes'] / 2**20:.1f} MiB; {1000 * index['query_seconds']:.1f} ms a query",
        ]


def as_bi_encoder(student: nn.Module) -> BiEncoder:
    """The student as what this system has made it."""
    assert isinstance(student, BiEncoder)
    return student


def check_loop(config: Any, run: Run, terms: Sequence[Term]) -> None:
    """Raise UserError for settings under which a row would be compared with other documents than its batch's."""
    if config.trainer.accumulate > 1:
        raise UserError(
            f"trainer.accumulate={config.trainer.accumulate}: a query is compared with the documents of its batch, and "
            "a part of it has fewer; use trainer.accumulate=1 and a smaller data.batch_size"
        )
    if (together := processes(run.options)) > 1:
        raise UserError(
            f"trainer.devices makes {together} processes: a query is compared with the documents of its batch, and "
            "they are not gathered from other processes yet; use trainer.devices=1"
        )
    data = config.data
    for key in ("negatives_each", "meta_negatives"):
        if data.negatives != NONE and data[key] > data.negative_depth:
            raise UserError(
                f"data.{key}={data[key]} asks for more negatives than data.negative_depth={data.negative_depth} keeps; "
                f"give data.negative_depth={data[key]}"
            )
    if config.pair.teacher.negatives == BY_TEACHER:
        raise UserError(
            "pair.teacher.negatives=teacher: there are no negatives of the teacher's own before it is trained; use "
            "pair.teacher.negatives=bm25"
        )
    for term in terms:
        if isinstance(term, MarginMSE) and config.data.negatives == NONE:
            raise UserError(
                f"terms: {term.name!r} compares margins to mined negatives, and with data.negatives=none there are no "
                "mined negatives; use data.negatives=bm25"
            )
        if isinstance(term, AnnealedMSE):
            raise UserError(
                f"terms: {term.name!r} takes the teacher's scores for the student's, and they are on another scale "
                "here; use weighting=kd"
            )


def check_lengths(config: Any, student: BiEncoder, tokenizer: Any) -> None:
    """Raise UserError if the model cannot take texts of its tokenizer, or not of these lengths."""
    for what in ("query", "document"):
        length = config.data[f"{what}_length"]
        texts = Texts([" ".join(["a"] * length)], tokenizer, length, what)
        try:
            with torch.no_grad():
                student.eval().vectors(texts.batch([0]), what)
        except (IndexError, RuntimeError) as error:
            raise UserError(
                f"data.{what}_length={length}: the model {config.pair.student.path!r} cannot read so many tokens "
                f"({' '.join(str(error).split())[:100]}); give fewer"
            ) from error
        finally:
            student.train()


def found_by(columns: Mapping[str, Tensor], terms: Sequence[Term]) -> dict[str, dict[str, float]]:
    """Areas under the ROC curve with which weights and influence find each kind of corrupted row, 1 being all: labels
    among the rows with a sound teacher, and the other way round.
    """
    found: dict[str, dict[str, float]] = {}
    flags = {flag: columns[flag] for flag in FLAGS if flag in columns}
    for flag, role in FLAGS.items():
        others = [value for name, value in flags.items() if name != flag]
        if flag not in flags or not bool(flags[flag].any()):
            continue
        for term in [term for term in terms if term.role == role]:
            for kind, column in (("weight", f"w_{term.name}"), ("influence", f"influence_{term.name}")):
                if column not in columns:
                    continue
                values = columns[column]
                kept = values.isfinite() & ~torch.stack(others).any(0) if others else values.isfinite()
                if differs(values[kept]) and bool(flags[flag][kept].any()):
                    area = area_under_roc(-values[kept], flags[flag][kept])
                    found.setdefault(flag, {})[f"{kind} {term.name}"] = area
    return found
