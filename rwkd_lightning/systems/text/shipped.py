"""A finished text classifier or regression, exported and asked for new texts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from rwkd_lightning.cache.store import Store
from rwkd_lightning.export import shipped
from rwkd_lightning.export.shipped import FILE, Card, Columns, Shipment, Shipped, finite
from rwkd_lightning.run.system import Teacher
from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.data.collate import Collator
from rwkd_lightning.systems.text.data.overflow import head_tail, stride_of, windows
from rwkd_lightning.systems.text.data.task import TaskData, TaskSpec, column, table_of
from rwkd_lightning.systems.text.metrics import score
from rwkd_lightning.systems.text.models import load_classifier, load_tokenizer
from rwkd_lightning.systems.text.models.source import find
from rwkd_lightning.systems.text.teacher_outputs import paths_of
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import read_config, size


class Logits(nn.Module):
    """A classifier, of texts or of their tokens, whose inputs have an order, as ONNX wants them."""

    def __init__(self, classifier: Any, inputs: Sequence[str]) -> None:
        super().__init__()
        self.network, self.inputs = classifier.network, tuple(inputs)
        order = classifier.order
        self.order = None if order is None or order == sorted(order) else order

    def forward(self, *tensors: Tensor) -> Tensor:
        """Logits ``(B, C)``; of each token, ``(B, T, C)``."""
        logits: Tensor = self.network(**dict(zip(self.inputs, tensors, strict=True))).logits
        return logits if self.order is None else logits[..., self.order]


class TextModel(Shipped):
    """A sequence classifier with its tokenizer.

    Args:
        folder: as ``save_pretrained`` writes it.
        described: ``text``, the names of its one or two columns, and ``max_length``, in tokens.
        task: the task of the run; None: what the model's ``config.json`` says.
        labels: what a teacher's outputs mean, where the user has stated it.
    """

    output = "logits"

    def __init__(
        self,
        folder: Path,
        described: Mapping[str, Any],
        task: TaskSpec | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__(folder, described)
        try:
            self.columns, self.max_length = [str(name) for name in described["text"]], int(described["max_length"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / FILE} lacks text or max_length; export the run again") from error
        self.task, self.separator = task or task_of(folder, self.columns), str(described.get("separator", ";"))
        self.overflow, self.described = str(described.get("overflow", "truncate")), dict(described)
        self.tokenizer: Any = load_tokenizer(str(folder))
        self.classifier = load_classifier(str(folder), self.task, trained=True, labels=labels)
        self.stride = int(described.get("stride", stride_of(None, self.max_length)))
        self.collate = Collator(self.tokenizer)
        self.inputs = [*self.classifier.inputs]
        self.inputs = [name for name in self.classifier.inputs if name in self.batch([["a"] for _ in self.columns])]

    def network(self) -> nn.Module:
        return Logits(self.classifier, self.inputs).eval()

    def batch(self, columns: Columns) -> dict[str, Tensor]:
        if self.overflow == "head_tail":
            columns, _ = head_tail(columns, self.tokenizer, self.max_length)
        if self.overflow == "windows":
            encoded, _ = windows(columns[0], self.tokenizer, self.max_length, self.stride)
        else:
            encoded = self.tokenizer(
                *map(list, columns), truncation=True, max_length=self.max_length, return_attention_mask=False
            )
        names = [name for name in self.collate.fill if name in encoded]
        rows = []
        for i, ids in enumerate(encoded["input_ids"]):
            for start in range(0, len(ids), self.max_length):  # its windows; a text that is cut has one
                window = slice(start, start + self.max_length)
                tokens = {name: np.array(encoded[name][i][window], dtype=np.int64) for name in names}
                rows.append(tokens | {"label": torch.tensor(0), "index": i})
        made = self.collate(rows)
        return {name: made[name] for name in (*self.inputs, "index") if name in made}

    def gathered(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        row = batch["index"]
        count = row.bincount()
        outputs = finite(outputs)
        return outputs.new_zeros(len(count), outputs.shape[1]).index_add(0, row, outputs) / count[:, None]

    def answers(self, outputs: Tensor, columns: Columns) -> dict[str, list[Any]]:
        found: dict[str, list[Any]]
        if self.task.label_names is None:
            return {"predicted_value": outputs[:, 0].tolist()}
        names = self.task.label_names
        if self.task.is_multilabel:
            shares = outputs.double().sigmoid()
            chosen = [[name for name, yes in zip(names, row, strict=True) if yes] for row in (outputs > 0).tolist()]
            found = {"predicted_labels": [self.separator.join(labels) for labels in chosen]}
            return found | {f"probability_{name}": shares[:, i].tolist() for i, name in enumerate(names)}
        shares = outputs.double().softmax(1)
        found = {"predicted_label": [names[i] for i in outputs.argmax(1).tolist()]}
        return found | {f"probability_{name}": shares[:, i].tolist() for i, name in enumerate(names)}

    def copy(self, folder: Path) -> None:
        copy(self.folder, folder, self.max_length)
        describe(folder, self.described, self.task)


def copy(source: Path, folder: Path, max_length: int) -> None:
    """Write the files of a model and its tokenizer into ``folder``, where a pipeline cuts a text as the run did."""
    for file in source.iterdir():
        if file.is_file():
            with file.open("rb") as read, (folder / file.name).open("wb") as write:
                shutil.copyfileobj(read, write)  # copyfile would blame a full disk on the file that it reads
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["model_max_length"] = max_length
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def described(config: DictConfig, task: TaskSpec) -> dict[str, Any]:
    """How a run reads the rows of its texts."""
    found: dict[str, Any] = {"text": list(task.text_columns), "max_length": config.data.max_length}
    if (overflow := OmegaConf.select(config, "data.overflow", default="truncate")) != "truncate":
        found["overflow"] = overflow
    if overflow == "windows":
        found["stride"] = stride_of(config.data.stride, config.data.max_length)
    if task.is_multilabel:
        found["separator"] = OmegaConf.select(config, "data.separator", default=";")
    return found


def describe(folder: Path, described: Mapping[str, Any], task: TaskSpec) -> None:
    """Write how the rows of a run were read beside its student."""
    shipped.describe(folder, TextModel, **{**described, "text": list(task.text_columns)})


def task_of(folder: Path, columns: Sequence[str]) -> TaskSpec:
    """The task that a student's ``config.json`` describes.

    Raises:
        UserError: if it names no classes.
    """
    config = read_config(folder, str(folder))
    problem = config.get("problem_type")
    regression, sets = problem == "regression", () if problem == "multi_label_classification" else None
    try:
        names = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} does not name the classes (id2label); export it again") from error
    metric = "pearson" if regression else "accuracy" if sets is None else "macro_f1"
    labels = None if regression else tuple(names)
    return TaskSpec("student", tuple(columns), labels, (metric,), metric, (), label_sets=sets)


def shipment(config: DictConfig, data: TaskData, folder: Path) -> Shipment:
    """The student of a finished run, the labelled rows of its last evaluation split, and its teacher if at hand.

    Args:
        folder: of the run.
    """
    task = data.task
    reading = described(config, task)
    split = task.evaluation_splits[-1] if task.evaluation_splits else "meta"
    rows = data.splits[split]
    labels = torch.from_numpy(task.targets(column(rows, "label")))
    teacher, notes = None, []
    try:
        given = teacher_at_hand(config, data)
        teacher = TextModel(given.folder, reading, task, given.labels)
    except UserError as error:
        notes.append(f"the teacher is not timed: {error}")
    table = table_of(rows)
    return Shipment(
        TextModel(folder / "student", reading, task),
        split,
        [table[name].to_pylist() for name in task.text_columns],
        task.monitor,
        lambda logits: score(task, logits, labels)[task.monitor],
        card(config, data),
        teacher,
        notes,
    )


def teacher_at_hand(config: DictConfig, data: TaskData) -> Teacher:
    """The teacher of a finished run, which is not trained again.

    Raises:
        UserError: if it is not there any more.
    """
    spec, paths = config.pair.teacher, paths_of(config)
    if not paths:
        raise UserError("it is no model: its outputs came with the data")
    if len(paths) > 1:
        raise UserError(f"it is {len(paths)} models")
    if spec.epochs == 0:
        folder = find(paths[0])
        return Teacher(folder, size(folder), labels=list(spec.labels) if spec.labels is not None else None)
    store, key = Store(Path(config.cache_dir).expanduser()), stages.key_of(config, data)
    if not store.has("teacher", key):
        raise UserError(f"it is not in the cache {config.cache_dir} any more; run train.py again to train it")
    return Teacher(store.path("teacher", key), 0)


def length_limit(reading: Mapping[str, Any]) -> str:
    """A sentence that says how long texts are read."""
    length = reading["max_length"]
    if reading.get("overflow") == "windows":
        return (
            f"Longer texts are read in windows of {length} tokens, of which two share {reading['stride']}, "
            "and the logits are the mean of theirs; the pipeline above reads the first window alone."
        )
    return f"Texts are cut at {length} tokens" + (", in their middle." if reading.get("overflow") else ".")


def card(config: DictConfig, data: TaskData) -> Card:
    """The model card's part that is about texts."""
    task, columns = data.task, " and ".join(f"`{name}`" for name in data.task.text_columns)
    counts = ", ".join(f"{name} {len(rows):,}" for name, rows in data.splits.items())
    if task.label_names is None:
        does = f"Gives one number for {columns}."
    else:
        names = ", ".join(task.label_names)
        does = f"Sorts {columns} into {len(task.label_names)} classes: {names}."
        if task.is_multilabel:
            does = (
                f"Gives {columns} any of {len(task.label_names)} labels, those whose own probability is above 0.5: "
                f"{names}."
            )
    text = '"a text"' if len(task.text_columns) == 1 else '{{"text": "one text", "text_pair": "another one"}}'
    options = ', function_to_apply="none"' if task.is_regression else ", top_k=None" if task.is_multilabel else ""
    corrupted = {
        name: config.data[name] for name in ("label_noise", "teacher_noise", "meta_noise") if config.data[name]
    }
    return Card(
        {
            "library_name": "transformers",
            "pipeline_tag": "text-classification",
            "tags": ["text-classification", "knowledge-distillation", "rw-kd"],
        },
        does,
        f"Task `{task.name}`; rows: {counts}."
        + "".join(f" Corrupted on purpose: {name} {share:.0%}." for name, share in corrupted.items()),
        "```python\nfrom transformers import pipeline\n\n"
        f'classify = pipeline("text-classification", model="{{name}}")\n'
        f"print(classify({text}, truncation=True{options}))\n```",
        (
            length_limit(described(config, task)),
            "It knows no classes beside its own, and answers for any text, one in another language included.",
            "It was scored on the splits below only; other data may give other scores.",
        ),
    )
