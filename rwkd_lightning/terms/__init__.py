"""Per-sample loss terms, one file each."""

from typing import Any

from rwkd_lightning._moved import moved_attribute
from rwkd_lightning.terms.annealed_mse import AnnealedMSE
from rwkd_lightning.terms.base import Term, stack
from rwkd_lightning.terms.bce import BinaryCrossEntropy
from rwkd_lightning.terms.bernoulli_kd import BernoulliKL
from rwkd_lightning.terms.ce import CrossEntropy
from rwkd_lightning.terms.kd import DistillationKL
from rwkd_lightning.terms.logit_mse import LogitMSE
from rwkd_lightning.terms.soft_ce import SoftCrossEntropy
from rwkd_lightning.terms.squared_error import SquaredError

__all__ = [
    "AnnealedMSE",
    "BernoulliKL",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "DistillationKL",
    "LogitMSE",
    "SoftCrossEntropy",
    "SquaredError",
    "Term",
    "stack",
]


def __getattr__(name: str) -> Any:
    return moved_attribute(__name__, name)
