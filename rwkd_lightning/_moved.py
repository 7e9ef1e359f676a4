"""Module names of version 0.1: importable until version 0.3, with a warning that says where each one is now."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

MOVED = {
    "pipeline": "run",
    "alarm": "training.collapse_alarm",
    "combinations": "training.compatibility",
    "data.datamodule": "systems.text.data.datamodule",
    "data.encoding": "systems.text.data.encoding",
    "data.glue": "systems.text.data.glue",
    "data.leaderboard": "systems.text.data.leaderboard",
    "data.probes": "systems.text.data.corruption",
    "data.task": "systems.text.data.task",
    "data.token_file": "systems.text.data.token_file",
    "data.tweets": "systems.text.data.tweets",
    "disk": "cache.disk",
    "distributed": "utils.distributed",
    "errors": "utils.errors",
    "ledger": "training.ledger",
    "metrics": "systems.text.metrics",
    "models": "systems.text.models",
    "models.source": "utils.model_files",
    "models.taps": "systems.text.models.layer_hooks",
    "module": "training.module",
    "optim": "training.optim",
    "passes": "training.batch_passes",
    "pipeline.artefacts": "run.outputs",
    "pipeline.checkpoints": "run.checkpoints",
    "pipeline.distil": "run.distil",
    "pipeline.evaluate": "systems.text.evaluate",
    "pipeline.faults": "run.faults",
    "pipeline.fit": "run.fit",
    "pipeline.inner": "systems.text.teacher_states",
    "pipeline.keys": "cli.keys",
    "pipeline.launch": "run.processes",
    "pipeline.log_file": "run.log_file",
    "pipeline.overrides": "cli.overrides",
    "pipeline.parts": "run.build",
    "pipeline.predict": "run.predict",
    "pipeline.report": "run.result_table",
    "pipeline.run": "run.runner",
    "pipeline.slurm": "run.slurm",
    "pipeline.stopping": "run.signals",
    "pipeline.sweeps": "cli.sweeps",
    "pipeline.teacher": "systems.text.teacher",
    "pipeline.text": "systems.text.system",
    "pipeline.topic_report": "systems.topics.evaluate",
    "pipeline.topic_teacher": "systems.topics.teacher",
    "pipeline.topics": "systems.topics.system",
    "pipeline.usage": "cli.help",
    "pipeline.values": "cli.schema",
    "pipeline.whole": "cli.run_folder",
    "places": "utils.paths",
    "store": "cache.store",
    "terms.hidden": "systems.text.terms.hidden",
    "terms.prior_kl": "systems.topics.terms.prior_kl",
    "terms.reconstruction": "systems.topics.terms.reconstruction",
    "terms.value_relation": "systems.text.terms.value_relation",
    "terms.wasserstein": "systems.topics.terms.wasserstein",
    "topics": "systems.topics",
    "topics.load": "systems.topics.corpora",
    "topics.plain": "systems.topics.documents",
    "topics.probe": "systems.topics.corruption",
    "watch": "training.finite_check",
    "weighting.features_checked": "weighting.features.checked",
    "weighting.features_past": "weighting.features.history",
    "weighting.features_together": "weighting.features.concat",
}
"""Old name and new one, below ``rwkd_lightning``; what lies in a package that moved moves with it."""

MOVED_ATTRIBUTES = {
    **{f"terms.{name}": "systems.topics.terms" for name in ("PriorKL", "Reconstruction", "Wasserstein")},
    **{f"terms.{name}": "systems.text.terms" for name in ("HiddenStates", "ValueRelation")},
}
"""Names that a module gave out, and the module that does so now."""


def moved(name: str) -> str | None:
    """The new name of a module, or None if it never had another one."""
    package, _, rest = name.partition(".")
    for old in (rest, rest.rpartition(".")[0]):
        if package == __package__ and old in MOVED and old:
            return f"{package}.{MOVED[old]}{rest[len(old) :]}"
    return None


def moved_attribute(module: str, name: str) -> Any:
    """An attribute that a module had, for its ``__getattr__``; AttributeError if it never had it."""
    new = MOVED_ATTRIBUTES.get(f"{module.partition('.')[2]}.{name}")
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(
        f"{module}.{name} is {__package__}.{new}.{name} now; the old name goes with version 0.3",
        FutureWarning,
        stacklevel=3,
    )
    return getattr(importlib.import_module(f"{__package__}.{new}"), name)


class Moved(MetaPathFinder, Loader):
    """Finds a module by the name that it had; asked only for names that nothing else knows."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        new = moved(name)
        if new is None or importlib.util.find_spec(new) is None:
            return None
        return ModuleSpec(name, self, is_package=any(old.startswith(f"{name.partition('.')[2]}.") for old in MOVED))

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        new = moved(module.__name__)
        assert new is not None
        warnings.warn(
            f"{module.__name__} is {new} now; the old name goes with version 0.3", FutureWarning, stacklevel=2
        )
        found = vars(importlib.import_module(new))
        vars(module).update({name: value for name, value in found.items() if not name.startswith("__")})

    def get_code(self, name: str) -> CodeType | None:
        """For ``python -m``."""
        new = moved(name)
        spec = None if new is None else importlib.util.find_spec(new)
        loader: Any = None if spec is None else spec.loader
        return None if loader is None or new is None else loader.get_code(new)


sys.meta_path.append(Moved())
