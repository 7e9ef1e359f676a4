"""Students and teachers: finding, checking, loading, cutting and wrapping."""

from rwkd_lightning.systems.text.models.classifier import Classifier
from rwkd_lightning.systems.text.models.inputs import check_inputs
from rwkd_lightning.systems.text.models.loading import load_classifier, load_tokenizer
from rwkd_lightning.systems.text.models.source import find
from rwkd_lightning.utils.model_files import fingerprint

__all__ = ["Classifier", "check_inputs", "find", "fingerprint", "load_classifier", "load_tokenizer"]
