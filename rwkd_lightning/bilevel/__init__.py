"""The bi-level step: how each loss term of each sample acts on a held-out loss. Knows tensors and functions only."""

from rwkd_lightning.bilevel.bank import FeatureBank
from rwkd_lightning.bilevel.engine import Engine, Problem
from rwkd_lightning.bilevel.finite_difference import FiniteDifference
from rwkd_lightning.bilevel.jvp import Jvp
from rwkd_lightning.bilevel.randomness import RandomState
from rwkd_lightning.bilevel.surrogate import in_units_of, normalised, surrogate_loss
from rwkd_lightning.bilevel.unrolled import Unrolled

__all__ = [
    "Engine",
    "FeatureBank",
    "FiniteDifference",
    "Jvp",
    "Problem",
    "RandomState",
    "Unrolled",
    "in_units_of",
    "normalised",
    "surrogate_loss",
]
