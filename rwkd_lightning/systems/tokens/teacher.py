"""The teacher of token classification, fine-tuned once, and its logits, computed once; both shared by all runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from rwkd_lightning.cache.store import Store, tensors
from rwkd_lightning.run.identity import keyed, only
from rwkd_lightning.run.predict import predict
from rwkd_lightning.run.system import Run, Teacher
from rwkd_lightning.run.train_once import Fit, train_once
from rwkd_lightning.systems.text.export import save, try_writing
from rwkd_lightning.systems.tokens.data import SPLITS, TokenData
from rwkd_lightning.systems.tokens.datamodule import TokenDataModule
from rwkd_lightning.systems.tokens.loading import TOKEN, check_tagger, load_tagger, load_word_tokenizer
from rwkd_lightning.systems.tokens.tagger import Tagger
from rwkd_lightning.terms import CrossEntropy
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw, linear_schedule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import find, fingerprint, size
from rwkd_lightning.weighting import LabelsOnly

KIND = "token_teacher"
"""Of fine-tuned teachers in the cache."""
TOKEN_TEACHER = (
    "data.max_length",
    *(
        f"pair.teacher.{key}"
        for key in ("epochs", "lr", "batch_size", "warmup", "weight_decay", "seed", "precision", "new_head")
    ),
    "trainer.deterministic",
)
"""Keys of the config that a fine-tuned teacher depends on, beside the content of its data and of its model."""
TOKEN_LOGITS = (
    "data.max_length",
    "data.eval_batch_size",
    "pair.teacher.precision",
    "pair.teacher.labels",
    "trainer.deterministic",
)
"""Keys that a teacher's logits depend on, beside the content of the teacher and of the data."""


def check_teacher(config: DictConfig) -> None:
    """Raise UserError for settings of the teacher that do not go together."""
    spec = config.pair.teacher
    if spec.epochs > 0 and spec.labels is not None:
        raise UserError(
            f"pair.teacher.labels={list(spec.labels)} says what the outputs of a finished teacher mean; this one is "
            "fine-tuned first (or set pair.teacher.epochs=0)"
        )
    if spec.epochs == 0 and spec.new_head:
        raise UserError(
            "pair.teacher.new_head=true puts an untrained head on the teacher, and pair.teacher.epochs=0 leaves it so; "
            "set pair.teacher.epochs=3"
        )


def teacher_of(config: DictConfig, data: TokenData, run: Run) -> Teacher:
    """The teacher: fine-tuned on the training split, or with ``pair.teacher.epochs=0`` the given model as it is."""
    spec = config.pair.teacher
    if spec.epochs == 0:
        folder = find(spec.path)
        return Teacher(folder, size(folder), labels=list(spec.labels) if spec.labels is not None else None)
    settings = only(config, TOKEN_TEACHER)
    return train_once(
        run,
        KIND,
        key_of(config, data),
        lambda folder, fit: train(spec.path, settings, data, folder, fit),
        about=f"tokens: {spec.path}",
        needed_bytes=10 * size(find(spec.path)),
    )


def key_of(config: DictConfig, data: TokenData) -> dict[str, Any]:
    """What a fine-tuned teacher is kept under."""
    return {
        "tags": list(data.tags),
        "model": fingerprint(find(config.pair.teacher.path)),
        "data": data.splits["train"].fingerprint(),
        "settings": keyed(config, TOKEN_TEACHER),
    }


def teacher_at_hand(config: DictConfig, data: TokenData) -> Teacher:
    """The teacher of a finished run, which is not trained again.

    Raises:
        UserError: if it is not there any more.
    """
    if config.pair.teacher.epochs == 0:
        return given(config)
    store, key = Store(Path(config.cache_dir).expanduser()), key_of(config, data)
    if not store.has(KIND, key):
        raise UserError(f"it is not in the cache {config.cache_dir} any more; run train.py again to train it")
    return Teacher(store.path(KIND, key), 0)


def given(config: DictConfig) -> Teacher:
    """A finished model as the teacher."""
    spec, folder = config.pair.teacher, find(config.pair.teacher.path)
    return Teacher(folder, size(folder), labels=list(spec.labels) if spec.labels is not None else None)


def train(path: str, settings: DictConfig, data: TokenData, folder: Path, fit: Fit) -> None:
    """Fine-tune the model at ``path`` with cross-entropy and write it to ``folder``."""
    spec = settings.pair.teacher
    lightning.seed_everything(spec.seed, workers=True, verbose=False)
    tokenizer = load_word_tokenizer(path)
    teacher = load_tagger(path, data.tags, new_head=spec.new_head)
    check_tagger(teacher, tokenizer, settings.data.max_length, path)
    try_writing(folder, teacher, tokenizer, f"pair.teacher.path={path}", TOKEN)
    loaders = TokenDataModule(
        data, tokenizer, max_length=settings.data.max_length, batch_size=spec.batch_size, seed=spec.seed
    )
    module = DistillationModule(
        teacher,
        [CrossEntropy()],
        LabelsOnly(),
        functools.partial(adamw, lr=spec.lr, weight_decay=spec.weight_decay),
        loaders.train_size,
        schedule=functools.partial(linear_schedule, warmup=spec.warmup),
        metrics={},
    )
    fit(module, loaders, {"max_epochs": spec.epochs, "max_steps": -1, "precision": spec.precision})
    save(folder, teacher, tokenizer)


def load(teacher: Teacher, data: TokenData) -> Tagger:
    """The teacher's network, its outputs in the order of the data's tags."""
    return load_tagger(str(teacher.folder), data.tags, trained=True, names=teacher.labels)


def loaders_of(settings: DictConfig, teacher: Teacher, data: TokenData, **more: Any) -> TokenDataModule:
    """The splits in the teacher's own tokens; ``more`` for the data module."""
    return TokenDataModule(
        data,
        load_word_tokenizer(str(teacher.folder)),
        max_length=settings.data.max_length,
        eval_batch_size=settings.data.eval_batch_size,
        **more,
    )


def logits(
    config: DictConfig,
    teacher: Teacher,
    data: TokenData,
    store: Store,
    device: torch.device,
    splits: Sequence[str] = SPLITS,
) -> dict[str, Tensor]:
    """Its logits of these splits, ``(words, C)`` in float16, all words one after the other; NaN for one that is not
    read. From the cache, or computed now.
    """
    key = {
        "teacher": fingerprint(teacher.folder),
        "tags": list(data.tags),
        "settings": keyed(config, TOKEN_LOGITS),
        "data": {name: data.splits[name].fingerprint() for name in splits},
    }

    def build(folder: Path) -> None:
        settings = only(config, TOKEN_LOGITS)
        network, loaders = load(teacher, data), loaders_of(settings, teacher, data)
        precision = str(settings.pair.teacher.precision)
        found = {name: word_logits(network, loaders, name, device, "teacher", precision).half() for name in splits}
        save_file(found, folder / "logits.safetensors")

    kept = store.get("token_logits", key, build, about=f"tokens: {config.pair.teacher.path}")
    return tensors(kept / "logits.safetensors", {name: (data.splits[name].words, len(data.tags)) for name in splits})


def word_logits(
    network: torch.nn.Module,
    loaders: TokenDataModule,
    split: str,
    device: torch.device,
    who: str,
    precision: str = "32-true",
) -> Tensor:
    """A tagger's logits ``(words, C)`` of all words of a split, NaN for one that it does not read."""
    rows = len(loaders.data.splits[split])
    return loaders.flat(
        split, predict(network, loaders.dataloader(split), rows, device, f"{who} logits: {split}", precision)
    )
