"""Knowledge distillation in which a meta-learner weights every loss term of every sample (RW-KD).

Parts, none of which needs Hydra: ``bilevel`` (the meta step), ``weighting`` (one file a method), ``terms`` (one file a
loss term), ``module`` (the LightningModule), ``data``, ``models`` and ``pipeline`` (the staged run behind ``train.py``).
"""

from rwkd_lightning import _moved  # noqa: F401 - names of before

__version__ = "0.1.0"
