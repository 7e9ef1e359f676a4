"""The options of ``lightning.Trainer``: each one is honoured, set by the run, or refused in one line before any data is
read.
"""

from __future__ import annotations

from typing import Any

from rwkd_lightning.utils.errors import UserError

RESUMES = "leave it out: an interrupted run goes on from its checkpoints, which are removed when it ends"
LOGS = "use logger=tensorboard, or leave it out: log/metrics.csv in the run's folder holds what is logged"
LOOP = "leave it out: the run has no such loop"

SET: dict[str, tuple[tuple[Any, ...], str]] = {
    "gradient_clip_val": ((None,), "use trainer.clip"),
    "gradient_clip_algorithm": ((None,), "use trainer.clip"),
    "accumulate_grad_batches": ((1,), "use trainer.accumulate"),
    "callbacks": ((None, []), "use callbacks=early_stopping or +callbacks.NAME._target_=my_package.MyCallback"),
    "plugins": ((None, []), "leave it out"),
    "logger": ((None, False), LOGS),
    "enable_checkpointing": ((None, True), RESUMES),
    "barebones": ((False,), RESUMES),
    "enable_model_summary": ((None, False), "use callbacks=model_summary"),
    "default_root_dir": ((None,), "use runs_dir=DIR"),
    "model_registry": ((None,), "leave it out: the student is written to the run's folder"),
    "num_sanity_val_steps": ((None, 0), "leave it out"),
    "limit_val_batches": ((None, 1.0), "leave it out: trainer.select=best scores the whole meta split"),
    "limit_test_batches": ((None,), LOOP),
    "limit_predict_batches": ((None,), LOOP),
    "use_distributed_sampler": ((False,), "leave it out: batches are dealt to the processes by the data module"),
    "reload_dataloaders_every_n_epochs": ((0,), "leave it out: a new loader would begin the first epoch's order again"),
}
"""Options that the loop and ``fit`` set themselves: the values that say the same, and what to do instead of another
one.
"""


def checked(options: dict[str, Any], validates: bool) -> dict[str, Any]:
    """The options that are left for the Trainer: those which the run sets itself are taken out where they say the same.

    Args:
        validates: whether the training scores the meta split.

    Raises:
        UserError: where they say something else, and for values that would train or choose nothing.
    """
    for name, (same, instead) in SET.items():
        if name in options and not any(type(options[name]) is type(value) and options[name] == value for value in same):
            raise UserError(f"trainer.{name}={options[name]}: trainer.{name} is set by the run itself; {instead}")
    if type(options.get("limit_train_batches")) in (int, float) and options["limit_train_batches"] <= 0:
        raise UserError(
            f"trainer.limit_train_batches={options['limit_train_batches']} would train nothing; give 1 or more "
            "batches, or a share of them such as 0.1"
        )
    every = options.get("check_val_every_n_epoch", 1)
    if every is not None and (type(every) is not int or every < 1):
        raise UserError(f"trainer.check_val_every_n_epoch={every}; give a whole number of 1 or more")
    if options.get("val_check_interval") is not None and not validates:
        raise UserError(
            f"trainer.val_check_interval={options['val_check_interval']} would do nothing: the meta split is scored "
            "in a training only to choose an epoch or to stop; add trainer.select=best or "
            "callbacks=early_stopping, or leave it out"
        )
    if options.get("profiler") not in (None, "simple", "advanced"):
        raise UserError(
            f"trainer.profiler={options['profiler']} is not known here; known are simple and advanced, which write "
            "to log/ in the run's folder"
        )
    bar = options.get("enable_progress_bar")
    if bar is not None and not isinstance(bar, bool):
        raise UserError(f"trainer.enable_progress_bar={bar} is not true or false")
    return {name: value for name, value in options.items() if name not in SET}
