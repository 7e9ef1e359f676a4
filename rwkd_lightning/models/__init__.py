"""Students and teachers: loading, cutting and wrapping."""

from rwkd_lightning.models.classifier import Classifier
from rwkd_lightning.models.loading import load_classifier, load_tokenizer, resolve

__all__ = ["Classifier", "load_classifier", "load_tokenizer", "resolve"]
