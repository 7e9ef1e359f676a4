"""The loss terms of text models, which look inside student and teacher."""

from rwkd_lightning.systems.text.terms.hidden import HiddenStates
from rwkd_lightning.systems.text.terms.value_relation import ValueRelation

__all__ = ["HiddenStates", "ValueRelation"]
