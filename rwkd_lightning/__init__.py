"""Knowledge distillation in which a meta-learner weights every loss term of every sample (RW-KD).

    from rwkd_lightning import RWKD, ClassificationFeatures, CrossEntropy, DistillationKL, DistillationModule

What one's own script needs can be imported from here: `DistillationModule` and its parts, every weighting method, loss
term, engine and part of the student for the meta step. None of it needs Hydra. Nothing is imported before it is asked
for, as PyTorch alone takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rwkd_lightning import _moved  # noqa: F401 - names of before

if TYPE_CHECKING:
    from rwkd_lightning.bilevel import *  # noqa: F403
    from rwkd_lightning.data.indexed import IndexedDataset as IndexedDataset
    from rwkd_lightning.meta import *  # noqa: F403
    from rwkd_lightning.systems.text.terms import *  # noqa: F403
    from rwkd_lightning.systems.topics.terms import *  # noqa: F403
    from rwkd_lightning.terms import *  # noqa: F403
    from rwkd_lightning.training.from_batch import FromBatch as FromBatch
    from rwkd_lightning.training.module import DistillationModule as DistillationModule
    from rwkd_lightning.training.optim import adam as adam
    from rwkd_lightning.training.optim import adamw as adamw
    from rwkd_lightning.training.optim import linear_schedule as linear_schedule
    from rwkd_lightning.training.validation import Metrics as Metrics
    from rwkd_lightning.utils.errors import UserError as UserError
    from rwkd_lightning.weighting import *  # noqa: F403

__version__ = "0.1.0"
_HOMES = {
    "DistillationModule": "training.module",
    "FromBatch": "training.from_batch",
    "Metrics": "training.validation",
    "adam": "training.optim",
    "adamw": "training.optim",
    "linear_schedule": "training.optim",
    "IndexedDataset": "data.indexed",
    "UserError": "utils.errors",
}
_PACKAGES = ("weighting", "terms", "meta", "bilevel", "systems.text.terms", "systems.topics.terms")


def __getattr__(name: str) -> Any:
    packages = _PACKAGES if name[:1].isupper() else ()  # a submodule that is not imported yet is asked for here first
    for home in [_HOMES[name]] if name in _HOMES else packages:
        module = import_module(f"{__name__}.{home}")
        if name in _HOMES or name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    found = [
        name for package in _PACKAGES for name in import_module(f"{__name__}.{package}").__all__ if name[:1].isupper()
    ]
    return [*globals(), *_HOMES, *found]
