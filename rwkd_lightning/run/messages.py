"""Which messages a run shows and keeps in ``train.log``: our own, and the warnings of others."""

from __future__ import annotations

import logging
from typing import Any

from rwkd_lightning.cli.words import in_config_words

OURS = ("rwkd_lightning", "__main__")


class Ours(logging.Filter):
    """Passes our own messages, all warnings, and whatever ``hydra.verbose`` asks for: true, or names of loggers."""

    def __init__(self, verbose: Any) -> None:
        super().__init__()
        self.all = verbose is True
        names = [verbose] if isinstance(verbose, str) else [] if isinstance(verbose, bool) else list(verbose)
        self.names = (*OURS, *names)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show it; a message of the library is put into the words of the config."""
        if record.name.startswith(OURS[0]):
            record.msg, record.args = in_config_words(record.getMessage()), ()
        return (
            self.all
            or record.levelno >= logging.WARNING
            or any(f"{record.name}.".startswith(f"{name}.") for name in self.names)
        )


def ours_only(verbose: Any = False) -> None:
    """Keep the INFO lines of other packages (httpx tells of every request) out of the console and ``train.log``.

    On the handlers, which Hydra makes anew for each job: a logger with a level of its own does not ask the root's
    level.

    Args:
        verbose: ``hydra.verbose``.
    """
    for handler in logging.getLogger().handlers:
        if not any(isinstance(one, Ours) for one in handler.filters):
            handler.addFilter(Ours(verbose))
