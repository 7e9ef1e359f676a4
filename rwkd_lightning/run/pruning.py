"""Trials of Optuna that end early: ``-m hydra/sweeper=optuna callbacks=pruning``.

Hydra's sweeper gives a job the values of a trial but not the trial itself, and takes what the job returns for its
result. Before the job begins, it passes the trial to a function of the user's (``hydra.sweeper.custom_search_space``).
Ours is `remember`: through it the job finds its trial, and the study records a pruned trial as pruned.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import lightning
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import Callback

from rwkd_lightning.utils.errors import Pruned, UserError

log = logging.getLogger(__name__)
trials: list[Any] = []
"""Of the search in this process, in the order of its jobs."""


def remember(config: Any, trial: Any) -> None:
    """Keep a trial of the study for its job; called by the sweeper for each, in their order."""
    trials.append(trial)
    study = trial.study
    if hasattr(study, "pruned"):
        return
    pruned: set[int] = set()
    as_optuna = study.tell

    def tell(trial: Any, *result: Any, **more: Any) -> Any:
        """As Optuna's; a trial that was pruned is no complete one, and its value is the last that it has reported."""
        if trial.number not in pruned:
            return as_optuna(trial, *result, **more)
        from optuna.trial import TrialState

        return as_optuna(trial, state=TrialState.PRUNED)

    study.tell, study.pruned = tell, pruned


class Pruning(Callback):
    """Reports the score on the meta split after each epoch, and ends a training that its study prunes.

    The epoch's checkpoint is written, so that the same run goes on from there when it is asked for alone. A training
    that has reached its last epoch is finished.

    Args:
        monitor: the score, larger is better; None: the one that ``trainer.select=best`` goes by.
    """

    def __init__(self, monitor: str | None = None) -> None:
        self.monitor = monitor
        self.score: float | None = None

    @staticmethod
    def trial() -> Any:
        """The trial of Optuna whose job this is; UserError where there is none."""
        if not trials:
            raise UserError(
                "callbacks=pruning ends trials of a search by Optuna, which has shown this process none; add -m"
                " hydra/sweeper=optuna, without hydra/launcher, or leave it out"
            )
        return trials[HydraConfig.get().job.num]

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.score = float(trainer.callback_metrics[str(self.monitor)])

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.score is None:
            return
        trial, score = self.trial(), self.score
        trial.report(-math.inf if math.isnan(score) else score, trainer.current_epoch)
        if trial.should_prune():
            trial.study.pruned.add(trial.number)
            log.info("pruned: the same settings without the search go on from the last checkpoint")
            raise Pruned(score, trainer.current_epoch)
