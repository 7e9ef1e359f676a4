"""The teacher of text and picture, fine-tuned once, and its answers, computed once; both shared by all runs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from rwkd_lightning.cache.store import Store, tensors
from rwkd_lightning.run.identity import keyed, only
from rwkd_lightning.run.predict import predict
from rwkd_lightning.run.system import Run, Teacher
from rwkd_lightning.run.train_once import Fit, train_once
from rwkd_lightning.systems.multimodal.collection import SPLITS, TRAIN, Collection
from rwkd_lightning.systems.multimodal.corruption import Swaps
from rwkd_lightning.systems.multimodal.datamodule import MultimodalDataModule
from rwkd_lightning.systems.multimodal.fusion import PASSES, Fusion, ModalityDropout
from rwkd_lightning.systems.multimodal.loading import load_network, write_network
from rwkd_lightning.systems.text.models.loading import load_tokenizer
from rwkd_lightning.terms import BinaryCrossEntropy, CrossEntropy
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw, linear_schedule
from rwkd_lightning.utils.model_files import find, fingerprint, size
from rwkd_lightning.weighting import LabelsOnly

KIND = "multimodal_teacher"
ENCODER = ("pair.encoder.size", "pair.encoder.grid")
TEACHER = (
    "data.max_length",
    *(
        f"pair.teacher.{key}"
        for key in ("epochs", "lr", "batch_size", "warmup", "weight_decay", "seed", "precision", "modality_dropout")
    ),
    "trainer.deterministic",
)
"""Keys of the config that a fine-tuned teacher depends on, beside the content of its data and of its models."""
ANSWERS = ("data.max_length", "data.eval_batch_size", "pair.teacher.precision", "trainer.deterministic")
"""Keys that its answers depend on, beside the content of the teacher and of the data."""


def teacher_of(config: DictConfig, data: Collection, features: Tensor, seen: Mapping[str, Any], run: Run) -> Teacher:
    """The teacher: fine-tuned on the training split, or with ``pair.teacher.epochs=0`` the given model as it is.

    Args:
        seen: what changes with the features of the pictures.
    """
    spec = config.pair.teacher
    folder = find(spec.path)
    if spec.epochs == 0:
        return Teacher(folder, size(folder))
    key = {
        "model": fingerprint(folder),
        "data": data.fingerprint(TRAIN),
        "pictures": seen,
        "settings": keyed(config, TEACHER),
    }
    settings = only(config, TEACHER)
    return train_once(
        run,
        KIND,
        key,
        lambda part, fit: train(spec.path, settings, data, features, part, fit),
        about=f"{data.name}: {spec.path}",
        needed_bytes=10 * size(folder),
    )


def train(path: str, settings: DictConfig, data: Collection, features: Tensor, folder: Path, fit: Fit) -> None:
    """Fine-tune the model at ``path`` and write it to ``folder``."""
    spec = settings.pair.teacher
    lightning.seed_everything(spec.seed, workers=True, verbose=False)
    tokenizer = load_tokenizer(path)
    network = load_network(path, data.classes, features.shape[2], features=features, several=data.several)
    loaders = MultimodalDataModule(
        data, features, tokenizer, max_length=settings.data.max_length, batch_size=spec.batch_size, seed=spec.seed
    )
    module = DistillationModule(
        ModalityDropout(network, tokenizer.sep_token_id, spec.modality_dropout),
        [BinaryCrossEntropy() if data.several else CrossEntropy()],
        LabelsOnly(),
        functools.partial(adamw, lr=spec.lr, weight_decay=spec.weight_decay),
        loaders.train_size,
        schedule=functools.partial(linear_schedule, warmup=spec.warmup),
        metrics={},
    )
    fit(module, loaders, {"max_epochs": spec.epochs, "max_steps": -1, "precision": spec.precision})
    write_network(folder, network, tokenizer)


def load(teacher: Teacher, data: Collection, width: int) -> tuple[Fusion, Any]:
    """The teacher's network, which makes all passes, and its tokenizer."""
    path = str(teacher.folder)
    tokenizer = load_tokenizer(path)
    network = load_network(path, data.classes, width, several=data.several, fine_tuned=True)
    return Fusion(network, tokenizer.sep_token_id), tokenizer


class Together(nn.Module):
    """The logits of all passes as one output, ``answers`` ``(B, 3, C)``."""

    def __init__(self, network: Fusion) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        head = self.network.head
        return {"answers": torch.stack([head(self.network.features(batch, kind)) for kind in PASSES], 1)}


def answers_of(
    network: Fusion, loaders: MultimodalDataModule, split: str, device: torch.device, who: str, precision: str
) -> Tensor:
    """What a network says to both, the text and the picture of each row, ``(N, 3, C)``."""
    return predict(
        Together(network),
        loaders.dataloader(split),
        len(loaders.data.splits[split]),
        device,
        f"{who} logits: {split}",
        precision,
        "answers",
    )


def answers(
    config: DictConfig,
    teacher: Teacher,
    data: Collection,
    features: Tensor,
    swaps: Swaps,
    seen: Mapping[str, Any],
    store: Store,
    device: torch.device,
) -> dict[str, Tensor]:
    """The teacher's answers to the rows of each split ``(N, 3, C)``, from the cache or computed now: to those of the
    training as they are seen, with what was swapped.
    """
    key = {
        "teacher": fingerprint(teacher.folder),
        "data": {name: data.fingerprint(name) for name in SPLITS},
        "swapped": swaps.fingerprint(),
        "pictures": seen,
        "settings": keyed(config, ANSWERS),
    }

    def build(folder: Path) -> None:
        settings = only(config, ANSWERS)
        network, tokenizer = load(teacher, data, features.shape[2])
        loaders = MultimodalDataModule(
            data,
            features,
            tokenizer,
            max_length=settings.data.max_length,
            eval_batch_size=settings.data.eval_batch_size,
            swaps=swaps,
        )
        precision = str(settings.pair.teacher.precision)
        found = {name: answers_of(network, loaders, name, device, "teacher", precision) for name in SPLITS}
        save_file(found, folder / "answers.safetensors")

    kept = store.get("multimodal_answers", key, build, about=f"{data.name}: {config.pair.teacher.path}")
    shapes = {name: (len(data.splits[name]), len(PASSES), len(data.classes)) for name in SPLITS}
    return tensors(kept / "answers.safetensors", shapes)
