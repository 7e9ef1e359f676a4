"""The loss terms of topic models."""

from rwkd_lightning.systems.topics.terms.prior_kl import PriorKL
from rwkd_lightning.systems.topics.terms.reconstruction import Reconstruction
from rwkd_lightning.systems.topics.terms.wasserstein import Wasserstein

__all__ = ["PriorKL", "Reconstruction", "Wasserstein"]
