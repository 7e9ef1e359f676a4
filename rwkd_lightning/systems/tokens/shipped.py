"""A finished token classifier, exported and asked for the tags of new sentences."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from rwkd_lightning.export import shipped
from rwkd_lightning.export.shipped import FILE, Card, Columns, Shipment, Shipped, finite
from rwkd_lightning.predict.reader import Source, is_text
from rwkd_lightning.predict.writer import Into
from rwkd_lightning.systems.text.data.collate import Collator
from rwkd_lightning.systems.text.shipped import Logits, copy
from rwkd_lightning.systems.tokens.columns import TABLES, ColumnFile, writing
from rwkd_lightning.systems.tokens.data import TokenData
from rwkd_lightning.systems.tokens.encoding import padded, places_of
from rwkd_lightning.systems.tokens.evaluate import grouped, likeliest, monitor_of, names_of, score
from rwkd_lightning.systems.tokens.loading import load_tagger, load_word_tokenizer
from rwkd_lightning.systems.tokens.tagger import at, first_tokens
from rwkd_lightning.systems.tokens.teacher import teacher_at_hand
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import read_config


class TokenModel(Shipped):
    """A token classifier with its tokenizer; a row of outputs is a word.

    Args:
        folder: as ``save_pretrained`` writes it.
        described: ``tokens``, the name of the column of words, and ``max_length``, in tokens.
        tags: of the run, in the order of the outputs; None: as the model's ``config.json`` names them.
        labels: what a teacher's outputs mean, where the user has stated it.
    """

    output = "logits"
    axes: Mapping[int, str] = {0: "batch", 1: "length"}
    reads, parts = "list of words", "words"
    example = ("a",)

    def __init__(
        self,
        folder: Path,
        described: Mapping[str, Any],
        tags: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__(folder, described)
        try:
            self.columns, self.max_length = [str(described["tokens"])], int(described["max_length"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / FILE} lacks tokens or max_length; export the run again") from error
        self.described, self.tags = dict(described), tuple(tags or tags_of(folder))
        self.tokenizer: Any = load_word_tokenizer(str(folder))
        self.tagger = load_tagger(str(folder), self.tags, trained=True, names=labels)
        self.collate = Collator(self.tokenizer)
        self.inputs = [*self.tagger.inputs]
        self.inputs = [name for name in self.tagger.inputs if name in self.batch([[self.example]])]

    def network(self) -> nn.Module:
        return Logits(self.tagger, self.inputs).eval()

    def batch(self, columns: Columns) -> dict[str, Tensor]:
        sentences = [list(words) for words in columns[0]]
        encoded = self.tokenizer(
            sentences,
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
        )
        names = [name for name in self.collate.fill if name in encoded]
        rows = []
        for i in range(len(sentences)):
            tokens = {name: encoded[name][i] or [self.collate.fill[name]] for name in names}  # words may have none
            ids = {name: np.array(values, dtype=np.int64) for name, values in tokens.items()}
            rows.append(ids | {"label": torch.tensor(0), "index": i})
        places = [places_of(encoded, i, len(words)) for i, words in enumerate(sentences)]
        made = self.collate(rows)
        return {
            **{name: made[name] for name in dict.fromkeys((*self.inputs, "attention_mask")) if name in made},
            "starts": padded(places, max(map(len, sentences)), -1),
            "lengths": torch.tensor([len(words) for words in sentences]),
        }

    def counts(self, columns: Columns) -> list[int]:
        return [len(words) for words in columns[0]]

    def gathered(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        starts = batch["starts"]
        read, places = starts >= 0, first_tokens(starts.clamp_min(0), batch["attention_mask"])
        found = at(outputs, places)
        finite(found[read])
        words = torch.arange(starts.shape[1]) < batch["lengths"][:, None]
        return found.masked_fill(~read[..., None], torch.nan)[words]

    def answers(self, outputs: Tensor, columns: Columns) -> dict[str, list[Any]]:
        shares = outputs.double().softmax(1).amax(1).tolist()
        sure = [None if share != share else share for share in shares]
        counts = self.counts(columns)
        return {
            "predicted_tags": grouped(likeliest(self.tags, outputs), counts),
            "probability": grouped(sure, counts),
        }

    def copy(self, folder: Path) -> None:
        copy(self.folder, folder, self.max_length)
        shipped.describe(folder, TokenModel, **self.described)

    @staticmethod
    def fits(kind: pa.DataType) -> bool:
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        return lists and (is_text(kind.value_type) or pa.types.is_null(kind.value_type))

    @staticmethod
    def blank(value: Any) -> bool:
        return not value or not all(word is not None and word.strip() for word in value)

    @classmethod
    def source(cls, path: Path, encoding: str, described: Mapping[str, Any]) -> Source:
        if path.suffix in TABLES:
            return super().source(path, encoding, described)
        return ColumnFile(path, encoding, int(described.get("token_column", 0)), str(described.get("tokens", "tokens")))

    @classmethod
    def target(cls, path: Path, source: Source) -> Into:
        return super().target(path, source) if path.suffix in TABLES else functools.partial(writing, source)


def tags_of(folder: Path) -> list[str]:
    """The tags that a student's ``config.json`` names.

    Raises:
        UserError: if it names none.
    """
    config = read_config(folder, str(folder))
    try:
        return [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} does not name the tags (id2label); export it again") from error


def described(config: DictConfig) -> dict[str, Any]:
    """How a run reads its sentences."""
    return {
        "tokens": config.data.tokens,
        "token_column": config.data.token_column,
        "max_length": config.data.max_length,
    }


def describe(folder: Path, config: DictConfig) -> None:
    """Write how the sentences of a run were read beside its student."""
    shipped.describe(folder, TokenModel, **described(config))


def shipment(config: DictConfig, data: TokenData, folder: Path) -> Shipment:
    """The student of a finished run, the sentences of its test split, and its teacher if at hand.

    Args:
        folder: of the run.
    """
    reading, split, metric = described(config), "test", monitor_of(data)
    truth = data.named(split)
    teacher, notes = None, []
    try:
        given = teacher_at_hand(config, data)
        teacher = TokenModel(given.folder, reading, data.tags, given.labels)
    except UserError as error:
        notes.append(f"the teacher is not timed: {error}")
    return Shipment(
        TokenModel(folder / "student", reading, data.tags),
        split,
        [data.splits[split].tokens],
        metric,
        lambda logits: score(data, truth, names_of(data, split, logits))[metric],
        card(config, data),
        teacher,
        notes,
    )


def card(config: DictConfig, data: TokenData) -> Card:
    """The model card's part that is about tags."""
    counts = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
    corrupted = {name: config.data[name] for name in ("label_noise", "teacher_noise") if config.data[name]}
    joined = ', aggregation_strategy="first"' if data.scheme == "iob2" else ""
    return Card(
        {
            "library_name": "transformers",
            "pipeline_tag": "token-classification",
            "tags": ["token-classification", "knowledge-distillation", "rw-kd"],
        },
        f"Gives each word of a sentence one of {len(data.tags)} tags (scheme `{data.scheme}`): {', '.join(data.tags)}.",
        f"Task `tokens`; sentences: {counts}."
        + "".join(f" Corrupted on purpose: {name} {share:.0%}." for name, share in corrupted.items()),
        "```python\nfrom transformers import pipeline\n\n"
        f'tag = pipeline("token-classification", model="{{name}}"{joined})\n'
        'print(tag("Ann went to Rome."))\n```',
        (
            "A word's tag is that of its first token; what is said of its other tokens means nothing.",
            f"Sentences are cut at {config.data.max_length} tokens; words beyond have no tag.",
            "It was trained on sentences that were given as words, and the pipeline above makes words of a text in its "
            "own way.",
            "It was scored on the splits below only; other data may give other scores.",
        ),
    )
