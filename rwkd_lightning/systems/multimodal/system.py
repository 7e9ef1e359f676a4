"""Text and picture, as a run drives it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.cache.store import digest
from rwkd_lightning.meta import HeadWithBank, Restriction
from rwkd_lightning.run import inputs
from rwkd_lightning.run.build import check_interval, create, optimizer_of, schedule_of
from rwkd_lightning.run.inputs import Inputs
from rwkd_lightning.run.outputs import area_under_roc, differs, whole
from rwkd_lightning.run.result_table import columns as aligned
from rwkd_lightning.run.result_table import number
from rwkd_lightning.run.system import Evaluation, Run, System, Teacher
from rwkd_lightning.systems.multimodal import teacher as stages
from rwkd_lightning.systems.multimodal.bank import HeadOverModalities, over_modalities
from rwkd_lightning.systems.multimodal.collection import META, SCORED, TRAIN, Collection, tell
from rwkd_lightning.systems.multimodal.corruption import Swaps, swaps_of
from rwkd_lightning.systems.multimodal.datamodule import FLAGS, MultimodalDataModule
from rwkd_lightning.systems.multimodal.encoders.features import LITE0, encoder_digest, features_of
from rwkd_lightning.systems.multimodal.evaluate import alone, labels_of, rows_of, scores, warning
from rwkd_lightning.systems.multimodal.fusion import BOTH, PASSES, SUFFIX, Fusion
from rwkd_lightning.systems.multimodal.loading import load_network, write_network
from rwkd_lightning.systems.multimodal.page import PAGE, page_of
from rwkd_lightning.systems.multimodal.saliency import ModalityOracle
from rwkd_lightning.systems.multimodal.shipped import describe
from rwkd_lightning.systems.text.export import label_loss
from rwkd_lightning.systems.text.metrics import metrics, score
from rwkd_lightning.systems.text.models.loading import load_tokenizer
from rwkd_lightning.systems.text.system import fingerprints
from rwkd_lightning.terms import Term
from rwkd_lightning.training.compatibility import check_outputs, check_parts, check_reach
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import fingerprint, size
from rwkd_lightning.weighting import Weighting

log = logging.getLogger(__name__)
TIMED = 5
"""Batches with which the speed at inference is measured."""
NOISES = ("label_noise", "teacher_noise", "text_noise", "image_noise")


class MultimodalSystem(System):
    """A student of text and picture, distilled from a teacher's answers to both and to each alone (Jin et al., MSD,
    Findings of EMNLP 2021); the pictures' features are those of a frozen encoder.
    """

    files = (PAGE,)
    less_memory = "lower data.max_length or pair.encoder.grid"
    data: Collection
    features: Tensor
    seen: dict[str, Any]
    """What changes with the features."""
    swaps: Swaps
    tokenizer: Any
    taught: Teacher
    answers: dict[str, Tensor]
    batches: MultimodalDataModule

    @property
    def name(self) -> str:
        return self.data.name

    @property
    def provides(self) -> set[str]:
        return {"labels"} if self.config.task.multilabel else {"classes"}

    @property
    def monitor(self) -> str:
        return self.data.task.monitor

    @property
    def monitors(self) -> list[str]:
        return [self.monitor, *self.data.task.metrics]

    def read(self) -> None:
        data = self.config.data
        collection = create(self.config, "task.load", Collection)
        if collection.several != self.config.task.multilabel:
            has = "several labels" if collection.several else "one label"
            raise UserError(
                f"the rows of {collection.name} have {has} each; set data.several={str(collection.several).lower()}"
            )
        if collection.several and data.label_noise:
            raise UserError("data.label_noise flips the class of a row, and these have several; set data.label_noise=0")
        self.data = collection.held_out(data.meta_fraction, data.split_seed)
        self.swaps = swaps_of(self.data.splits[TRAIN], data.text_noise, data.image_noise, self.config.seed)
        check_interval(self.config, len(self.data.splits[TRAIN]))

    def inputs(self) -> Inputs:
        spec = self.config.pair
        pictures = self.data.pictures.fingerprint()
        splits = {
            name: (len(rows), digest([self.data.fingerprint(name), pictures]))
            for name, rows in self.data.splits.items()
        }
        paths = {"teacher": spec.teacher.path, "student": spec.student.path}
        if spec.encoder.path != LITE0:
            paths["encoder"] = spec.encoder.path
        found = fingerprints(paths)
        if spec.encoder.path == LITE0:
            found["encoder"] = {"sha256": encoder_digest(LITE0)}
        self.seen = {
            "pictures": pictures,
            "encoder": found["encoder"],
            "size": spec.encoder.size,
            "grid": spec.encoder.grid,
        }
        return inputs.inputs(splits, found)

    def prepare(self, run: Run, terms: Sequence[Term], weighting: Weighting) -> Fusion:
        config = self.config
        tell(self.data)
        encoder = config.pair.encoder
        with torch.random.fork_rng(devices=[]):  # an encoder that is made now draws numbers, one in the cache does not
            self.features = features_of(
                self.data.pictures, encoder.path, encoder.size, encoder.grid, run.store, run.device, self.name
            )
        path = config.pair.student.path
        start = config.pair.teacher.path if path == "teacher" else path
        student = self.made(start, config.pair.student.layers, terms)
        with torch.random.fork_rng(devices=[]):
            check_outputs(terms, student.head_outputs)
            theta = create(config, "meta.theta", Restriction)
            if type(theta) is HeadWithBank:
                theta = HeadOverModalities.of(theta, student.passes)
            check_reach(terms, weighting, theta, student)
            check_parts(student, config.trainer.accumulate)
            if isinstance(weighting, ModalityOracle) and not any(config.data[name] for name in NOISES):
                raise UserError(
                    "modality_oracle knows what is corrupted, and nothing is; set data.text_noise or data.image_noise"
                )
        return student

    def made(self, path: str, layers: Sequence[int] | None, terms: Sequence[Term]) -> Fusion:
        """A student of the model at ``path``, which makes the passes that the terms read."""
        spec = self.config.pair.student
        self.tokenizer = load_tokenizer(path)
        network = load_network(
            path, self.data.classes, self.features.shape[2], layers, self.features, self.data.several
        )
        read = {name for term in terms for name in term.reads}
        passes = [kind for kind in PASSES if f"logits{SUFFIX[kind]}" in read and kind != BOTH]
        first = spec.modalities
        return Fusion(network, self.tokenizer.sep_token_id, (first, *passes) if first == BOTH else (first,))

    def teacher(self, run: Run) -> tuple[Teacher, Any]:
        self.taught = stages.teacher_of(self.config, self.data, self.features, self.seen, run)
        self.answers = stages.answers(
            self.config, self.taught, self.data, self.features, self.swaps, self.seen, run.store, run.device
        )
        told = warning(self.data, alone(self.data, self.answers))
        if told:
            log.warning("%s", told)
        return self.taught, fingerprint(self.taught.folder)

    def student(self, run: Run, terms: Sequence[Term]) -> Fusion | None:
        if self.config.pair.student.path != "teacher":
            return None
        return self.made(str(self.taught.folder), self.config.pair.student.layers, terms)

    def loaders(self, run: Run, student: nn.Module, terms: Sequence[Term]) -> MultimodalDataModule:
        data = self.config.data
        self.batches = MultimodalDataModule(
            self.data,
            self.features,
            self.tokenizer,
            max_length=data.max_length,
            batch_size=data.batch_size * self.config.trainer.accumulate,  # of a step; the module cuts it into parts
            eval_batch_size=data.eval_batch_size,
            meta_batch_size=self.config.meta.batch_size,
            seed=self.config.seed,
            num_workers=data.num_workers,
            label_noise=data.label_noise,
            teacher_noise=data.teacher_noise,
            swaps=self.swaps,
            teacher=self.answers,
        )
        return self.batches

    def module(
        self, student: nn.Module, terms: Sequence[Term], weighting: Weighting, **options: Any
    ) -> DistillationModule:
        options["meta"] = over_modalities(options["meta"], as_fusion(student))
        return DistillationModule(
            student,
            terms,
            weighting,
            optimizer_of(self.config),
            schedule=schedule_of(self.config),
            metrics=metrics(self.data.task),
            **options,
        )

    def evaluate(self, run: Run, student: nn.Module, device: torch.device) -> Evaluation:
        own = as_fusion(student)
        kind = own.passes[0]
        place = PASSES.index(kind)
        whole_student = Fusion(own.network, own.separator)
        said = {
            name: stages.answers_of(whole_student, self.batches, name, device, "student", "32-true")
            for name in (META, *SCORED)
        }
        network, tokenizer = stages.load(self.taught, self.data, self.features.shape[2])
        theirs = MultimodalDataModule(
            self.data,
            self.features,
            tokenizer,
            max_length=self.config.data.max_length,
            seed=self.config.seed,
            meta_batch_size=self.config.meta.batch_size,
        ).meta_stream
        network.passes, own.passes = (BOTH,), (kind,)  # what is timed is one answer
        pairs = [(theirs[step], self.batches.meta_stream[step]) for step in range(TIMED)]
        held_out = score(self.data.task, said[META][:, place], labels_of(self.data, META))
        return Evaluation(
            self.name,
            self.monitor,
            {self.monitor: held_out[self.monitor]},
            {"student": scores(self.data, said, place), "teacher": scores(self.data, self.answers)},
            network,
            pairs,
            {"alone": {"teacher": alone(self.data, self.answers), "student": alone(self.data, said)}},
            rows_of(self.data, {name: x[:, [place]] for name, x in said.items()}),
        )

    def export(self, folder: Path, student: nn.Module, result: Mapping[str, Any]) -> int:
        own = as_fusion(student)
        with whole(folder / "student") as part:
            write_network(part, own.network, self.tokenizer)
            describe(part, self.config)
        return size(folder / "student")

    def columns(self) -> dict[str, Tensor]:
        """``loss_teacher_ce``, and of each modality alone: the teacher's own cross-entropy, NaN without a label."""
        rows = self.batches.rows(TRAIN)
        unknown = (rows.labels if rows.labels.ndim == 1 else rows.labels[:, 0]) < 0
        return {
            f"loss_teacher_ce{SUFFIX[kind]}": label_loss(
                rows.extras[f"teacher_logits{SUFFIX[kind]}"], rows.labels
            ).masked_fill(unknown, torch.nan)
            for kind in PASSES
        }

    def words(self, rows: Sequence[int]) -> list[dict[str, str]]:
        seen, labels = self.batches.examples(TRAIN), self.batches.train_labels
        return [{"text": seen.texts[row], "label": self.named(labels[row])} for row in rows]

    def named(self, label: Tensor) -> str:
        """A label in words."""
        if label.ndim:
            return ", ".join(name for name, there in zip(self.data.classes, label.tolist(), strict=True) if there > 0)
        return self.data.classes[int(label)] if int(label) >= 0 else ""

    def pages(self, columns: Mapping[str, Tensor]) -> dict[str, str]:
        extras, labels = self.batches.rows(TRAIN).extras, self.batches.train_labels
        page = page_of(
            self.batches.examples(TRAIN),
            self.data.pictures,
            {suffix: extras[f"teacher_logits{suffix}"] for suffix in SUFFIX.values()},
            lambda row: self.named(labels[row]),
            columns,
            self.data.classes,
            self.data.note,
        )
        return {PAGE: page}

    def findings(self, columns: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        return found_by(columns)

    def lines(self, metrics: Mapping[str, Any]) -> list[str]:
        name = self.monitor
        rows: list[tuple[str, ...]] = [("on test, seen", "both", "the text alone", "the picture alone")]
        rows += [(who, *(number(found[kind][name]) for kind in PASSES)) for who, found in metrics["alone"].items()]
        return ["", *aligned(rows)]


def found_by(columns: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """How well weights, influences and the teacher's losses find what was corrupted on purpose: areas under the ROC
    curve, among rows that are sound in all other respects.
    """
    terms = {"label_flipped": "ce", "teacher_corrupted": "kd", "text_swapped": "kd_text", "image_swapped": "kd_image"}
    losses = {"text_swapped": "loss_teacher_ce_text", "image_swapped": "loss_teacher_ce_image"}
    found: dict[str, dict[str, float]] = {}
    for flag in FLAGS:
        others = torch.stack([columns[name].bool() for name in FLAGS if name != flag]).any(0)
        trusted = {"weight": f"w_{terms[flag]}", "influence": f"influence_{terms[flag]}"}
        suspicion = {n: -columns[c] for n, c in trusted.items() if c in columns and differs(columns[c])}
        loss = losses.get(flag, "loss_teacher_ce")
        suspicion[loss] = columns[loss]
        rows = ~others & (columns["visits"] > 0)
        for column in suspicion.values():
            rows = rows & column.isfinite()
        positives = columns[flag][rows].bool()
        if bool(positives.any()) and not bool(positives.all()):
            found[flag] = {name: area_under_roc(column[rows], positives) for name, column in suspicion.items()}
    return found


def as_fusion(student: nn.Module) -> Fusion:
    """The student as what this system has made it."""
    assert isinstance(student, Fusion)
    return student
