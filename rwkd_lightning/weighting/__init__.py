"""Weighting methods, one file each; a new one is a file here, a config in ``conf/weighting`` and a row in a test table."""

from rwkd_lightning.weighting.base import History, Step, Weighting, masked
from rwkd_lightning.weighting.ce import LabelsOnly
from rwkd_lightning.weighting.features import ClassificationFeatures, RegressionFeatures
from rwkd_lightning.weighting.global_alpha import GlobalAlpha
from rwkd_lightning.weighting.kd import FixedAlpha
from rwkd_lightning.weighting.oracle import Oracle
from rwkd_lightning.weighting.permuted import Permuted
from rwkd_lightning.weighting.rwkd import RWKD
from rwkd_lightning.weighting.rwkd_online import PerturbationRWKD

__all__ = ["RWKD", "ClassificationFeatures", "FixedAlpha", "GlobalAlpha", "History", "LabelsOnly", "Oracle", "Permuted",
           "PerturbationRWKD", "RegressionFeatures", "Step", "Weighting", "masked"]
