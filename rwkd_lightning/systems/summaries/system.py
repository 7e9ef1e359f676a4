"""Summarisation, as a run drives it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.export.shipped import Shipment
from rwkd_lightning.meta import Head, HeadWithBank, Restriction
from rwkd_lightning.run import inputs
from rwkd_lightning.run.build import check_interval, create, optimizer_of, schedule_of
from rwkd_lightning.run.inputs import Inputs
from rwkd_lightning.run.outputs import whole
from rwkd_lightning.run.processes import is_first, processes
from rwkd_lightning.run.result_table import columns as aligned
from rwkd_lightning.run.result_table import number
from rwkd_lightning.run.system import Evaluation, Run, System, Teacher
from rwkd_lightning.systems.summaries import teacher as stages
from rwkd_lightning.systems.summaries.along import NoisyTeacher
from rwkd_lightning.systems.summaries.bank import HeadWithTokenBank
from rwkd_lightning.systems.summaries.corruption import LABELS, TEACHER, dealt
from rwkd_lightning.systems.summaries.data import META, TEST, TRAIN, Split, SummaryData, tell
from rwkd_lightning.systems.summaries.datamodule import SummaryDataModule
from rwkd_lightning.systems.summaries.decode import generation_config, written
from rwkd_lightning.systems.summaries.evaluate import SCORED, baselines, examples, prediction_rows, score, shortened
from rwkd_lightning.systems.summaries.loading import (
    check_summariser,
    cut,
    load_summariser,
    load_summary_tokenizer,
    new_summariser,
    same_tokens,
    save,
    try_writing,
)
from rwkd_lightning.systems.summaries.noise import SourceNoise, sentence_ends
from rwkd_lightning.systems.summaries.page import PAGE, orders, page_of
from rwkd_lightning.systems.summaries.rouge import KEYS, METRIC
from rwkd_lightning.systems.summaries.shipped import describe
from rwkd_lightning.systems.summaries.summariser import Summariser
from rwkd_lightning.systems.summaries.terms import TopKL
from rwkd_lightning.systems.summaries.texts import tell_cut
from rwkd_lightning.systems.summaries.top_k import answers
from rwkd_lightning.systems.summaries.validation import MONITOR, TokenLikelihood, likelihood
from rwkd_lightning.systems.text.export import corruption_scores
from rwkd_lightning.systems.text.system import fingerprints
from rwkd_lightning.terms import AnnealedMSE, Term
from rwkd_lightning.training.compatibility import check_outputs, check_parts, check_reach
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import fingerprint, size
from rwkd_lightning.weighting import Weighting

log = logging.getLogger(__name__)
TIMED = 5
"""Batches with which the speed at inference is measured."""


class SummarySystem(System):
    """An encoder-decoder that learns again from a noisy teacher (Liu, Shen and Lapata, NAACL 2021); a row is a document
    with its summary.
    """

    name = "summaries"
    provides = frozenset({"tokens"})
    monitor = MONITOR
    less_memory = "lower data.batch_size, data.document_length or data.summary_length"
    data: SummaryData
    terms: Sequence[Term]
    tokenizer: Any
    taught: Teacher
    batches: SummaryDataModule
    train: Split
    """The training rows with the summaries that they are trained to have."""
    summariser: Summariser
    """The trained student."""
    along: bool
    """Whether the teacher runs along."""
    beside: NoisyTeacher | None = None
    """The teacher that runs along."""

    def read(self) -> None:
        self.data = create(self.config, "task.load", SummaryData)
        check_interval(self.config, len(self.data.splits[TRAIN]))
        stages.check_teacher(self.config)

    def inputs(self) -> Inputs:
        splits = {name: (len(split), split.fingerprint()) for name, split in self.data.splits.items()}
        paths = {"teacher": self.config.pair.teacher.path, "student": self.config.pair.student.path}
        return inputs.inputs(splits, fingerprints({who: path for who, path in paths.items() if path is not None}))

    def prepare(self, run: Run, terms: Sequence[Term], weighting: Weighting) -> Summariser:
        config, self.terms = self.config, terms
        spec, lengths = config.pair.student, (config.data.document_length, config.data.summary_length)
        tell(self.data)
        check_loop(config, run, terms, weighting)
        first = stages.tokenizer_of(config, self.data, config.pair.teacher.path, run.store)
        self.tokenizer = first if spec.path in (None, "teacher") else load_summary_tokenizer(spec.path)
        if not same_tokens(first, self.tokenizer) and any(term.role == "teacher" for term in terms):
            raise UserError(
                f"pair.student.path={spec.path} has another tokenizer than the teacher, whose answers are of tokens; "
                "learn from the summaries that it writes: data.targets=teacher terms=[ce,smooth] weighting=ce"
            )
        student = self.made(stages.untrained(config, first) if spec.path == "teacher" else None)
        with torch.random.fork_rng(devices=[]):
            check_summariser(student, self.tokenizer, *lengths, spec.path)
            if config.pair.teacher.path is not None:
                check_summariser(stages.untrained(config, first), first, *lengths, config.pair.teacher.path)
            check_outputs([term for term in terms if term.role != "teacher"], ("logits",))
            check_reach(terms, weighting, create(config, "meta.theta", Restriction), student)
            check_parts(student, config.trainer.accumulate)
            if is_first():
                try_writing(run.folder, student, self.tokenizer, f"pair.student.path={spec.path}")
        return student

    def made(self, teacher: Summariser | None) -> Summariser:
        """The student before its training, from the teacher's weights where its path says so."""
        spec, data = self.config.pair.student, self.config.data
        if spec.path is None:
            student = new_summariser(spec.model, self.tokenizer, max(data.document_length, data.summary_length))
        elif teacher is not None:
            student = teacher
        else:
            return load_summariser(spec.path, spec.encoder_layers, spec.decoder_layers)
        for part in ("encoder", "decoder"):
            if spec[f"{part}_layers"] is not None:
                cut(student.network, part, spec[f"{part}_layers"])
        return student

    def teacher(self, run: Run) -> tuple[Teacher, Any]:
        self.taught = stages.teacher_of(self.config, self.data, run)
        return self.taught, fingerprint(self.taught.folder)

    def student(self, run: Run, terms: Sequence[Term]) -> Summariser | None:
        return self.made(stages.load(self.taught)[0]) if self.config.pair.student.path == "teacher" else None

    def loaders(self, run: Run, student: nn.Module, terms: Sequence[Term]) -> SummaryDataModule:
        config, data = self.config, self.config.data
        rows = self.data.splits[TRAIN]
        given, flipped = dealt(rows.families, data.label_noise, config.seed, LABELS)
        read, corrupted = dealt(rows.families, data.teacher_noise, config.seed, TEACHER)
        theirs = [rows.documents[place] for place in read]
        self.along = config.pair.teacher.along and any(term.role == "teacher" for term in terms)
        with torch.random.fork_rng(devices=[]):  # what is cached draws nothing
            targets = (
                stages.summaries_of(config, self.taught, theirs, run.store, run.device, TRAIN)
                if data.targets == "teacher"
                else [rows.summaries[place] for place in given]
            )
            taught = self.said_of(Split(theirs, targets, rows.families, rows.idx), run)
        self.train = Split(rows.documents, targets, rows.families, rows.idx)
        splits = {**self.data.splits, TRAIN: self.train}
        vocabulary = self.tokenizer.get_vocab()
        self.batches = stages.loaders_of(
            config,
            as_summariser(student),
            self.tokenizer,
            splits,
            batch_size=data.batch_size * config.trainer.accumulate,  # of a step; the module cuts it into parts
            eval_batch_size=data.eval_batch_size,
            meta_batch_size=config.meta.batch_size,
            seed=config.seed,
            num_workers=data.num_workers,
            noise=SourceNoise(
                data.noise_drop,
                data.noise_shuffle,
                sentence_ends(vocabulary),
                frozenset(self.tokenizer.all_special_ids),
                config.seed,
            ),
            taught=taught,
            clean=theirs if self.along else None,
            extras={"label_flipped": torch.from_numpy(flipped), "teacher_corrupted": torch.from_numpy(corrupted)},
        )
        tell_cut(self.batches.rows(TRAIN).documents, data.document_length, "training documents")
        tell_cut(self.batches.rows(TRAIN).targets, data.summary_length, "training summaries")
        return self.batches

    def said_of(self, train: Split, run: Run) -> dict[str, dict[str, Tensor]]:
        """What the teacher says of each token, by split and name; nothing of one with other tokens, or that runs along,
        which is made ready.

        Args:
            train: the training rows as the teacher reads them.
        """
        spec = self.config.pair.teacher
        network, tokenizer = stages.load(self.taught, spec.dropout if self.along and spec.passes else None)
        if self.along:
            self.beside = NoisyTeacher(network, spec.passes > 0, self.config.seed)
        if self.along or not same_tokens(tokenizer, self.tokenizer):
            return {}
        splits, size = {**self.data.splits, TRAIN: train}, self.config.data.eval_batch_size
        loaders = stages.loaders_of(self.config, network, tokenizer, splits, eval_batch_size=size)
        return answers(self.config, self.taught, loaders, run.store, run.device)

    def module(
        self, student: nn.Module, terms: Sequence[Term], weighting: Weighting, **options: Any
    ) -> DistillationModule:
        return DistillationModule(
            student,
            terms,
            weighting,
            optimizer_of(self.config),
            schedule=schedule_of(self.config),
            validation=TokenLikelihood(),
            teacher=self.beside,
            **options,
        )

    def evaluate(self, run: Run, student: nn.Module, device: torch.device) -> Evaluation:
        config, data = self.config, self.config.data
        self.summariser = as_summariser(student)
        splits = shortened(self.data, data.score_rows)
        network, tokenizer = stages.load(self.taught)
        theirs = stages.loaders_of(
            config,
            network,
            tokenizer,
            self.data.splits,
            eval_batch_size=data.eval_batch_size,
            meta_batch_size=config.meta.batch_size,
            seed=config.seed,
        )
        scores: dict[str, dict[str, Any]] = {"student": {}, "teacher": {}}
        rows, texts = {}, {}
        for name in SCORED:
            mine = score(splits[name], self.write(splits[name], device, name))
            other = stages.summaries_of(config, self.taught, splits[name].documents, run.store, device, name)
            texts[name] = {"teacher": other, "student": mine.texts}
            rows[name] = prediction_rows(splits[name], mine)
            for who, found, model, loaders in (
                ("student", mine, self.summariser, self.batches),
                ("teacher", score(splits[name], other), network, theirs),
            ):
                scores[who][name] = {**found.means, MONITOR: likelihood(model, loaders.dataloader(name), device)}
        meta = {MONITOR: likelihood(self.summariser, self.batches.dataloader(META), device)}
        pairs = [(theirs.meta_stream[step], self.batches.meta_stream[step]) for step in range(TIMED)]
        more = {"baselines": baselines(self.data, splits), "examples": examples(splits[TEST], texts[TEST])}
        return Evaluation(self.data.name, METRIC, meta, scores, network, pairs, more, rows)

    def write(self, rows: Split, device: torch.device, about: str) -> list[str]:
        """The student's summaries of these documents."""
        loaders = stages.loaders_of(
            self.config,
            self.summariser,
            self.tokenizer,
            {TRAIN: rows},
            eval_batch_size=self.config.data.eval_batch_size,
        )
        how = self.search(self.summariser)
        loader = loaders.dataloader(TRAIN)
        return written(self.summariser, self.tokenizer, loader, len(rows), how, device, f"student summaries: {about}")

    def search(self, summariser: Summariser) -> Any:
        """How the student's summaries are searched for."""
        return generation_config(summariser, self.tokenizer, self.config.data.decoding, self.config.data.summary_length)

    def export(self, folder: Path, student: nn.Module, result: Mapping[str, Any]) -> int:
        summariser, data = as_summariser(student), self.config.data
        summariser.network.generation_config = self.search(summariser)
        with whole(folder / "student") as part:
            save(part, summariser, self.tokenizer)
            describe(part, data.document, data.document_length, data.summary_length)
        return size(folder / "student")

    def shipment(self, folder: Path) -> Shipment:
        raise UserError(
            f"summarisers are not exported to ONNX; {folder / 'student'} is whole: AutoModelForSeq2SeqLM loads it, and "
            "`python -m rwkd_lightning.predict RUN FILE -o OUT` asks it for the summaries of a file"
        )

    def columns(self) -> dict[str, Tensor]:
        """``loss_teacher_ce``: the teacher's own cross-entropy, the mean over a target's tokens."""
        rows = self.batches.rows(TRAIN)
        if "gold" not in rows.taught:
            return {}
        number = torch.arange(len(rows)).repeat_interleave(rows.sizes)
        total = torch.zeros(len(rows)).index_add_(0, number, -rows.taught["gold"].float())
        return {"loss_teacher_ce": total / rows.sizes.clamp_min(1)}

    def words(self, rows: Sequence[int]) -> list[dict[str, str]]:
        return [{"document": self.train.documents[row][:200], "summary": self.train.summaries[row]} for row in rows]

    def pages(self, columns: Mapping[str, Tensor]) -> Mapping[str, str]:
        terms = {term.role: term.name for term in reversed(self.terms)}
        sections = orders(terms, columns)
        places = sorted({place for rows, *_ in sections.values() for place in rows})
        device = next(self.summariser.parameters()).device
        said = dict(zip(places, self.write(self.train.select(places), device, "page"), strict=True)) if places else {}

        def row(place: int) -> dict[str, str]:
            whose = "teacher" if self.config.data.targets == "teacher" else "reference"
            return {
                "document": self.train.documents[place],
                whose: self.train.summaries[place],
                "student": said[place],
            }

        return {PAGE: page_of(sections, row, columns)}

    def findings(self, columns: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        return corruption_scores(columns) if self.config.data.label_noise or self.config.data.teacher_noise else {}

    def lines(self, metrics: Mapping[str, Any]) -> list[str]:
        known = {**metrics["baselines"], "teacher": metrics["teacher"], "student": metrics["student"]}
        rows: list[tuple[str, ...]] = [("on test", *KEYS)]
        rows += [(who, *(number(found[TEST][key]) for key in KEYS)) for who, found in known.items()]
        lines = ["", *aligned(rows)]
        for example in metrics["examples"]:
            lines += ["", *(f"{name:>9}: {' '.join(text.split())[:160]}" for name, text in example.items())]
        return lines


def as_summariser(student: nn.Module) -> Summariser:
    """The student as what this system has made it."""
    assert isinstance(student, Summariser)
    return student


def check_loop(config: Any, run: Run, terms: Sequence[Term], weighting: Weighting) -> None:
    """Raise UserError for settings that do not go together."""
    if (together := processes(run.options)) > 1:
        raise UserError(
            f"trainer.devices makes {together} processes, and the bank of held-out tokens is not gathered from other "
            "processes yet; use trainer.devices=1"
        )
    if config.data.targets == "teacher" and config.data.label_noise:
        raise UserError(
            "data.label_noise swaps references, and data.targets=teacher trains on none; set data.label_noise=0"
        )
    if config.pair.teacher.along and weighting.needs_influence and config.meta.loss != "hard":
        raise UserError(
            f"meta.loss={config.meta.loss} reads what the teacher says of held-out tokens, and one that runs along is "
            "asked for training rows alone; set pair.teacher.along=false, or meta.loss=hard"
        )
    for term in terms:
        if isinstance(term, AnnealedMSE):
            raise UserError(
                f"terms: {term.name!r} reads all of the teacher's logits, and only its likeliest tokens are kept; use "
                "weighting=kd"
            )
        if isinstance(term, TopKL) and term.temperature != config.temperature:
            raise UserError(
                f"loss_terms.{term.name}.temperature={term.temperature}: the teacher's probabilities are kept at "
                f"temperature={config.temperature}; set temperature={term.temperature} and leave the term's out"
            )
    theta = create(config, "meta.theta", Restriction)
    if not weighting.needs_influence or not isinstance(theta, Head):
        return
    if isinstance(theta, HeadWithBank) and not isinstance(theta, HeadWithTokenBank):
        raise UserError(f"meta={theta!r} keeps a state a row, and a summary has one a token; use meta=token_bank")
    if theta.centre and not isinstance(theta, HeadWithBank):
        raise UserError(f"meta={theta!r} cannot be centred over summaries of several lengths; use meta=token_bank")
