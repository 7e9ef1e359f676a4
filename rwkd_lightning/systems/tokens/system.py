"""Token classification, as a run drives it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkd_lightning.audit.rows import Audited
from rwkd_lightning.export.shipped import Shipment
from rwkd_lightning.meta import Restriction
from rwkd_lightning.run import inputs
from rwkd_lightning.run.build import check_interval, create, optimizer_of, schedule_of
from rwkd_lightning.run.inputs import Inputs
from rwkd_lightning.run.processes import is_first
from rwkd_lightning.run.system import Evaluation, Run, System, Teacher
from rwkd_lightning.systems.text.export import corruption_scores, try_writing, write_student
from rwkd_lightning.systems.text.system import fingerprints
from rwkd_lightning.systems.tokens import teacher as stages
from rwkd_lightning.systems.tokens.audit import audited
from rwkd_lightning.systems.tokens.bank import with_words
from rwkd_lightning.systems.tokens.data import TokenData
from rwkd_lightning.systems.tokens.datamodule import TokenDataModule
from rwkd_lightning.systems.tokens.evaluate import WordScores, counted, monitor_of, names_of, score, score_names
from rwkd_lightning.systems.tokens.loading import TOKEN, check_tagger, load_tagger, load_word_tokenizer
from rwkd_lightning.systems.tokens.shipped import describe, shipment
from rwkd_lightning.systems.tokens.tagger import Tagger
from rwkd_lightning.terms import Term
from rwkd_lightning.training.compatibility import check_outputs, check_parts, check_reach
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import fingerprint
from rwkd_lightning.weighting import Weighting

log = logging.getLogger(__name__)
TIMED = 5
"""Batches with which the speed at inference is measured."""


class TokenSystem(System):
    """A Hugging Face token classifier, distilled from another one through its cached logits; a row is a sentence."""

    name = "tokens"
    provides = frozenset({"classes"})
    less_memory = "lower data.max_length"
    data: TokenData
    batches: TokenDataModule
    tokenizer: Any
    taught: Teacher
    logits: dict[str, Tensor]

    @property
    def monitor(self) -> str:
        return monitor_of(self.data)

    @property
    def monitors(self) -> list[str]:
        return score_names(self.data)

    def read(self) -> None:
        self.data = create(self.config, "task.load", TokenData)
        check_interval(self.config, len(self.data.splits["train"]))
        stages.check_teacher(self.config)

    def inputs(self) -> Inputs:
        splits = {name: (len(split), split.fingerprint()) for name, split in self.data.splits.items()}
        paths = {"teacher": self.config.pair.teacher.path, "student": self.config.pair.student.path}
        return inputs.inputs(splits, fingerprints(paths))

    def prepare(self, run: Run, terms: Sequence[Term], weighting: Weighting) -> Tagger:
        config = self.config
        if "classes" in weighting.needs:
            raise UserError(
                f"weighting={weighting!r} reads one class per row, and a sentence has a tag for each word; use "
                f"{weighting.instead}"
            )
        path = config.pair.student.path
        start = config.pair.teacher.path if path == "teacher" else path
        student = load_tagger(
            start,
            self.data.tags,
            config.pair.student.layers,
            new_head=config.pair.student.new_head or path == "teacher",
        )
        self.tokenizer = load_word_tokenizer(start)
        with torch.random.fork_rng(devices=[]):
            check_tagger(student, self.tokenizer, config.data.max_length, path)
            check_outputs(terms, ("logits",))
            check_reach(terms, weighting, create(config, "meta.theta", Restriction), student)
            check_parts(student, config.trainer.accumulate)
            self.check_finished_teacher()
            if is_first():
                try_writing(run.folder, student, self.tokenizer, f"pair.student.path={path}", TOKEN)
        return student

    def check_finished_teacher(self) -> None:
        """Refuse a finished teacher that does not fit, before its logits are computed."""
        spec = self.config.pair.teacher
        if spec.epochs == 0:
            network = load_tagger(spec.path, self.data.tags, trained=True, names=spec.labels)
            check_tagger(network, load_word_tokenizer(spec.path), self.config.data.max_length, spec.path)

    def teacher(self, run: Run) -> tuple[Teacher, Any]:
        self.taught = stages.teacher_of(self.config, self.data, run)
        self.logits = stages.logits(self.config, self.taught, self.data, run.store, run.device)
        return self.taught, fingerprint(self.taught.folder)

    def student(self, run: Run, terms: Sequence[Term]) -> Tagger | None:
        if self.config.pair.student.path != "teacher":
            return None
        spec, path = self.config.pair.student, str(self.taught.folder)
        self.tokenizer = load_word_tokenizer(path)
        return load_tagger(path, self.data.tags, spec.layers, new_head=spec.new_head)

    def loaders(self, run: Run, student: nn.Module, terms: Sequence[Term]) -> TokenDataModule:
        data = self.config.data
        self.batches = TokenDataModule(
            self.data,
            self.tokenizer,
            max_length=data.max_length,
            batch_size=data.batch_size * self.config.trainer.accumulate,  # of a step; the module cuts it into parts
            eval_batch_size=data.eval_batch_size,
            meta_batch_size=self.config.meta.batch_size,
            seed=self.config.seed,
            num_workers=data.num_workers,
            label_noise=data.label_noise,
            teacher_noise=data.teacher_noise,
            teacher=self.logits,
        )
        return self.batches

    def module(
        self, student: nn.Module, terms: Sequence[Term], weighting: Weighting, **options: Any
    ) -> DistillationModule:
        options["meta"] = with_words(options["meta"])
        return DistillationModule(
            student,
            terms,
            weighting,
            optimizer_of(self.config),
            schedule=schedule_of(self.config),
            validation=WordScores(self.data),
            **options,
        )

    def evaluate(self, run: Run, student: nn.Module, device: torch.device) -> Evaluation:
        scores: dict[str, dict[str, Any]] = {"student": {}, "teacher": {}}
        rows = {}
        for split in ("validation", "test", "meta"):
            truth = self.data.named(split)
            said = {
                "student": stages.word_logits(student, self.batches, split, device, "student"),
                "teacher": self.logits[split].float(),
            }
            for who, logits in said.items():
                scores[who][split] = score(self.data, truth, names_of(self.data, split, logits))
            if split != "meta":
                rows[split] = counted(self.data, split, names_of(self.data, split, said["student"]))
        del scores["teacher"]["meta"]
        meta = {self.monitor: scores["student"].pop("meta")[self.monitor]}
        network = stages.load(self.taught, self.data)
        theirs = stages.loaders_of(
            self.config, self.taught, self.data, seed=self.config.seed, meta_batch_size=self.config.meta.batch_size
        ).meta_stream
        pairs = [(theirs[step], self.batches.meta_stream[step]) for step in range(TIMED)]
        return Evaluation(self.name, self.monitor, meta, scores, network, pairs, rows=rows)

    def export(self, folder: Path, student: nn.Module, result: Mapping[str, Any]) -> int:
        return write_student(folder / "student", student, self.tokenizer, lambda part: describe(part, self.config))

    def shipment(self, folder: Path) -> Shipment:
        return shipment(self.config, self.data, folder)

    def audit(self, run: Run, table: Mapping[str, Sequence[Any]], folds: int) -> Audited:
        return audited(self.config, self.data, run, table, folds)

    def columns(self) -> dict[str, Tensor]:
        """``loss_teacher_ce``: the teacher's own cross-entropy, the mean over the words that are read."""
        rows = self.batches.rows("train")
        taught = rows.extras["taught"]
        labels = rows.labels.masked_fill(~taught, -1)
        losses = F.cross_entropy(
            rows.extras["teacher_logits"].float().movedim(-1, 1), labels, ignore_index=-1, reduction="none"
        )
        return {"loss_teacher_ce": losses.sum(1) / taught.sum(1)}

    def words(self, rows: Sequence[int]) -> list[dict[str, str]]:
        split, labels = self.data.splits["train"], self.batches.train_labels
        return [
            {
                "sentence": " ".join(split.tokens[row]),
                "tags": " ".join(self.data.tags[number] for number in labels[row].tolist() if number >= 0),
            }
            for row in rows
        ]

    def findings(self, columns: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        return corruption_scores(columns) if self.config.data.label_noise or self.config.data.teacher_noise else {}
