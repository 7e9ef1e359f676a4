"""The loss terms of text models, which look inside student and teacher."""

from rwkd_lightning.systems.text.terms.assistants import Assistants
from rwkd_lightning.systems.text.terms.hidden import HiddenStates
from rwkd_lightning.systems.text.terms.layer_ce import LayerCrossEntropy
from rwkd_lightning.systems.text.terms.layer_kd import LayerKD
from rwkd_lightning.systems.text.terms.value_relation import ValueRelation

__all__ = ["Assistants", "HiddenStates", "LayerCrossEntropy", "LayerKD", "ValueRelation"]
