"""Students that are no transformers: a Bi-LSTM, a gated CNN and a static one, made from nothing but a word table.

Importing this makes transformers' Auto classes know them, so that a folder of one loads as any other.
"""

from transformers import AutoConfig, AutoModelForSequenceClassification

from rwkd_lightning.systems.text.kinds.bilstm import BiLSTM, BiLSTMConfig
from rwkd_lightning.systems.text.kinds.cnn import GatedCNN, GatedCNNConfig
from rwkd_lightning.systems.text.kinds.static import Static, StaticConfig

KINDS = {"bilstm": BiLSTM, "cnn": GatedCNN, "static": Static}
"""By the name in ``pair.student.kind.name``."""

for config, model in ((BiLSTMConfig, BiLSTM), (GatedCNNConfig, GatedCNN), (StaticConfig, Static)):
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModelForSequenceClassification.register(config, model, exist_ok=True)

__all__ = ["KINDS", "BiLSTM", "BiLSTMConfig", "GatedCNN", "GatedCNNConfig", "Static", "StaticConfig"]
