"""The inputs of the meta-network: one file per set of features."""

from rwkd_lightning.weighting.features.standard import *  # noqa: F403
