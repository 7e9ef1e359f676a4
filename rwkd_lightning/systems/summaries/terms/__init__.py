"""Per-sample loss terms over the tokens of a summary."""

from rwkd_lightning.systems.summaries.terms.confidence import Confidence
from rwkd_lightning.systems.summaries.terms.confidences import TeacherConfidences
from rwkd_lightning.systems.summaries.terms.cross_entropy import TokenCrossEntropy
from rwkd_lightning.systems.summaries.terms.smooth import Smooth
from rwkd_lightning.systems.summaries.terms.top_kl import TopKL

__all__ = ["Confidence", "Smooth", "TeacherConfidences", "TokenCrossEntropy", "TopKL"]
