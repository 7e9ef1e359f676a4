"""The meta step on a student: restriction of θ, held-out batches, cadence."""

from rwkd_lightning.meta.head import Head, HeadWithBank
from rwkd_lightning.meta.parameters import All, LastBlock
from rwkd_lightning.meta.rehearsal import rehearse
from rwkd_lightning.meta.restriction import MetaStream, Restriction
from rwkd_lightning.meta.step import MetaStep

__all__ = ["All", "Head", "HeadWithBank", "LastBlock", "MetaStep", "MetaStream", "Restriction", "rehearse"]
