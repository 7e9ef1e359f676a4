"""Scores of distrust for the tags of a run's training sentences, and for its teacher's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rwkd_lightning.audit.rows import Audited
from rwkd_lightning.export.compare import outputs, torch_call
from rwkd_lightning.run.system import Run
from rwkd_lightning.systems.text.audit import TEACHER_TERMS, dealt, label_score, last_loss, mean_loss
from rwkd_lightning.systems.text.data.corruption import roll_teacher
from rwkd_lightning.systems.tokens import teacher as stages
from rwkd_lightning.systems.tokens.data import Split, TokenData, key_of
from rwkd_lightning.systems.tokens.evaluate import likeliest
from rwkd_lightning.systems.tokens.shipped import TokenModel, described
from rwkd_lightning.utils.errors import UserError

Table = Mapping[str, Sequence[Any]]


def audited(config: DictConfig, data: TokenData, run: Run, table: Table, folds: int) -> Audited:
    """The training sentences of a finished run, each with the word that speaks most against its tags.

    A word's score is r·t + (1 − r)·s, as a text's is: t is the teacher's loss on the tag that the word was trained with
    (``folds``: that of a teacher which has not seen the sentence), s the finished student's, and r = exp(−d/2), d the
    student's divergence from the teacher, the mean over the sentence's words and over the epochs. A sentence's score is
    the largest of its words (Wang and Mueller 2022, "Detecting Label Errors in Token Classification Data", find the
    worst word better than means). The teacher's score is the divergence at the last visit.

    Args:
        table: the columns of ``weights.parquet``.
        folds: see `out_of_fold`; 0: the run's own teacher.

    Raises:
        UserError: if the teacher is not there any more, or cannot be asked in folds.
    """
    rows = data.splits["train"]
    if list(table["idx"]) != rows.idx:
        raise UserError(
            f"{run.folder / 'weights.parquet'} holds other sentences than the training split; run train.py again"
        )
    labels, notes = given_labels(rows, table), []
    if folds:
        teacher = out_of_fold(config, data, run, labels, folds)
        notes.append(f"the teacher's answers are of {folds} teachers, each asked for sentences that it has not seen")
    else:
        teacher = teacher_logits(config, data, run, rows, table)
        if config.pair.teacher.epochs > 0:
            notes.append(
                "the teacher was fine-tuned on these sentences and has learnt some of their wrong tags: --folds 5 asks "
                "one that has not seen the sentence"
            )
    model = TokenModel(run.folder / "student", described(config), data.tags)
    student = outputs(model, torch_call(model, run.device.type), [rows.tokens], "student: train")
    lengths = [len(words) for words in rows.tokens]
    apart = torch.zeros(len(rows)) if folds else mean_loss(run.folder, table, TEACHER_TERMS)
    scores = label_score(
        tag_loss(teacher, labels), tag_loss(student, labels), apart.repeat_interleave(torch.tensor(lengths))
    )
    score, place = worst(scores, lengths)
    word = place + torch.tensor([0, *lengths[:-1]]).cumsum(0)
    silent = teacher.isnan().any(1)
    suggested, said = likeliest(data.tags, teacher), likeliest(data.tags, student)
    unlike = (teacher.nan_to_num(0.0).argmax(1) != labels) & (labels >= 0) & ~silent
    counts = [sum(part) for part in split(unlike.tolist(), lengths)]
    shares = {"teacher": teacher[word].softmax(1), "student": student[word].softmax(1)}
    given = labels[word].clamp_min(0)[:, None]
    return Audited(
        {
            "sentence": [" ".join(words) for words in rows.tokens],
            "word": [words[i] for words, i in zip(rows.tokens, place.tolist(), strict=True)],
        },
        [data.tags[number] for number in labels[word].tolist()],
        ["" if silent[i] else suggested[i] for i in word.tolist()],
        [said[i] for i in word.tolist()],
        score,
        last_loss(table, TEACHER_TERMS),
        {who: ["" if p != p else f"{p:.2f}" for p in share.amax(1).tolist()] for who, share in shares.items()},
        columns={
            "place": place.float(),
            "other_tags": torch.tensor(counts, dtype=torch.float32),
            **{f"{who}_label": share.gather(1, given)[:, 0] for who, share in shares.items()},
            "teacher_suggested": shares["teacher"].amax(1),
        },
        notes=notes,
    )


def split(values: Sequence[Any], lengths: Sequence[int]) -> list[Sequence[Any]]:
    """Values of words, one after the other, as those of each sentence."""
    ends = np.cumsum(lengths).tolist()
    return [values[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def given_labels(rows: Split, table: Table) -> Tensor:
    """The tags that the words were trained with, one after the other ``(words,)``; −1 for one that was not read."""
    found = []
    for words, row in zip(rows.tokens, table["label"], strict=True):
        kept = list(row[: len(words)])
        found += kept + [-1] * (len(words) - len(kept))
    return torch.tensor(found)


def tag_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy ``(words,)`` of logits ``(words, C)`` with the tags; NaN where there is no tag, or no logits."""
    losses = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="none")
    return torch.where(labels >= 0, losses, torch.nan)


def worst(scores: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The largest score ``(N,)`` among the words of each sentence, NaN where no word has one, and its word's place."""
    known = scores.masked_fill(scores.isnan(), -torch.inf)
    of_each = pad_sequence(list(torch.split(known, list(lengths))), batch_first=True, padding_value=-torch.inf)
    largest, place = of_each.max(1)
    return largest.masked_fill(largest.isinf(), torch.nan), place


def teacher_logits(config: DictConfig, data: TokenData, run: Run, rows: Split, table: Table) -> Tensor:
    """The logits ``(words, C)`` that the student was taught with, corruption included; NaN of what is not read."""
    try:
        taught = stages.teacher_at_hand(config, data)  # it is not trained again only to be asked
    except UserError as error:
        raise UserError(f"the audit asks the run's teacher, and {error}") from error
    logits = stages.logits(config, taught, data, run.store, run.device)["train"].float()
    flags = torch.tensor(table["teacher_corrupted"], dtype=torch.bool)
    return roll_teacher(logits, flags.repeat_interleave(torch.tensor([len(words) for words in rows.tokens])))


def out_of_fold(config: DictConfig, data: TokenData, run: Run, labels: Tensor, folds: int) -> Tensor:
    """Logits ``(words, C)`` of the training sentences, each by a teacher that is fine-tuned on the other folds.

    Sentences of equal words are in one fold. The teachers are trained with the tags of the run, those that were
    corrupted on purpose included, and kept in the cache.

    Raises:
        UserError: for a teacher that is not fine-tuned, and for fewer distinct sentences than folds.
    """
    if config.pair.teacher.epochs == 0:
        raise UserError(
            "--folds fine-tunes the run's teacher again; this one was not fine-tuned in the run, so it has not learnt "
            "these tags; leave --folds out"
        )
    rows = data.splits["train"]
    lengths = [len(words) for words in rows.tokens]
    fold = dealt([key_of(words) for words in rows.tokens], folds, config.seed)
    tags = [
        [label if label >= 0 else own for label, own in zip(labels_of_one, tags, strict=True)]
        for labels_of_one, tags in zip(split(labels.tolist(), lengths), rows.tags, strict=True)
    ]
    whose = torch.tensor(fold).repeat_interleave(torch.tensor(lengths))
    found = torch.full((len(labels), len(data.tags)), torch.nan)
    for number in range(folds):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if not len(inside) or not len(outside):
            raise UserError(f"--folds={folds}: there are too few distinct sentences; give fewer")
        print(f"fold {number + 1} of {folds}: a teacher of {len(outside)} sentences for {len(inside)}", flush=True)
        parts = [
            Split([rows.tokens[i] for i in taken], [tags[i] for i in taken], [rows.idx[i] for i in taken])
            for taken in (outside.tolist(), inside.tolist())
        ]
        learnt, asked = (TokenData(data.tags, data.scheme, {**data.splits, "train": part}) for part in parts)
        teacher = stages.teacher_of(config, learnt, run)
        found[whose == number] = stages.logits(config, teacher, asked, run.store, run.device, ["train"])[
            "train"
        ].float()
    return found
