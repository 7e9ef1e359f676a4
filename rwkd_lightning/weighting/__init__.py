"""Weighting methods, one file each."""

from rwkd_lightning.weighting.amal import AdaptiveMixing
from rwkd_lightning.weighting.annealed import TeacherAnnealing
from rwkd_lightning.weighting.annealing_kd import AnnealingKD
from rwkd_lightning.weighting.base import History, Step, Weighting, masked
from rwkd_lightning.weighting.ce import LabelsOnly
from rwkd_lightning.weighting.dwa import DynamicWeightAverage
from rwkd_lightning.weighting.features.concat import Together
from rwkd_lightning.weighting.features.history import EarlierInfluence, EarlierWeights, Visits
from rwkd_lightning.weighting.features.standard import (
    ClassificationFeatures,
    MultiLabelFeatures,
    RegressionFeatures,
)
from rwkd_lightning.weighting.gates import Gate, Reject, Sigmoid, Softmax
from rwkd_lightning.weighting.given import GivenWeights
from rwkd_lightning.weighting.global_alpha import GlobalAlpha
from rwkd_lightning.weighting.gradnorm import GradNorm
from rwkd_lightning.weighting.kd import FixedAlpha
from rwkd_lightning.weighting.l2rw import LearningToReweight
from rwkd_lightning.weighting.mwn import MetaWeightNet
from rwkd_lightning.weighting.oracle import Oracle
from rwkd_lightning.weighting.permuted import Permuted
from rwkd_lightning.weighting.rwkd import RWKD
from rwkd_lightning.weighting.rwkd_cross_fitted import CrossFittedRWKD
from rwkd_lightning.weighting.rwkd_online import PerturbationRWKD
from rwkd_lightning.weighting.staged import Staged
from rwkd_lightning.weighting.teacher_confidence import TeacherConfidence
from rwkd_lightning.weighting.tgeo import TrilateralGeometry
from rwkd_lightning.weighting.uncertainty import Uncertainty
from rwkd_lightning.weighting.wls import WeightedSoftLabels

__all__ = [
    "RWKD",
    "AdaptiveMixing",
    "AnnealingKD",
    "ClassificationFeatures",
    "CrossFittedRWKD",
    "DynamicWeightAverage",
    "EarlierInfluence",
    "EarlierWeights",
    "FixedAlpha",
    "Gate",
    "GivenWeights",
    "GlobalAlpha",
    "GradNorm",
    "History",
    "LabelsOnly",
    "LearningToReweight",
    "MetaWeightNet",
    "MultiLabelFeatures",
    "Oracle",
    "Permuted",
    "PerturbationRWKD",
    "RegressionFeatures",
    "Reject",
    "Sigmoid",
    "Softmax",
    "Staged",
    "Step",
    "TeacherAnnealing",
    "TeacherConfidence",
    "Together",
    "TrilateralGeometry",
    "Uncertainty",
    "Visits",
    "WeightedSoftLabels",
    "Weighting",
    "masked",
]
