"""How every command for finished runs ends: it prints a mistake in one line, and a stop leaves no half-written file."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from rwkd_lightning.utils.errors import UserError


def status(work: Callable[[], None], interrupted: str = "interrupted; nothing was written") -> int:
    """Do the work of a command; its exit status.

    Args:
        interrupted: what to print if the user stops it.
    """
    try:
        work()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return 0


def quietly() -> None:
    """Show warnings, and not each step that the libraries log."""
    logging.getLogger().setLevel(logging.WARNING)


def run(main: Callable[[], int]) -> NoReturn:
    """Leave the process with the status of ``main``; a terminated one removes what it wrote aside."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
