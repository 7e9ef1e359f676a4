"""Students and teachers: finding, checking, loading, cutting and wrapping."""

from rwkd_lightning.models.classifier import Classifier
from rwkd_lightning.models.inputs import check_inputs
from rwkd_lightning.models.loading import load_classifier, load_tokenizer
from rwkd_lightning.models.source import find, fingerprint

__all__ = ["Classifier", "check_inputs", "find", "fingerprint", "load_classifier", "load_tokenizer"]
