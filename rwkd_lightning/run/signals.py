"""Being told to stop: SIGTERM of a scheduler, Ctrl-C of a person."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from rwkd_lightning.run.processes import is_first

log = logging.getLogger(__name__)
AGAIN = 75
"""EX_TEMPFAIL of sysexits.h, "try again later"."""
REQUEUE: signal.Signals | None = getattr(signal, "SIGUSR2", None)
"""None on Windows, which has neither this signal nor SLURM."""
EXIT = {signal.SIGTERM: AGAIN, signal.SIGINT: 130, **({REQUEUE: AGAIN} if REQUEUE is not None else {})}


class Stop:
    """Ends the process with an exit code that says so: between two stages at once, in a training after a checkpoint.

    Attributes:
        when_told: True: a signal is only noted, for whoever asks `told`; False: it ends the process.
    """

    def __init__(self) -> None:
        self.when_told = False
        self.signal: int | None = None
        self._requeue: Any = None

    @property
    def told(self) -> bool:
        """Whether a signal has asked to stop."""
        return self.signal is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Signal handler; the second signal ends the process at once."""
        again, self.signal = self.told, number
        if again or not self.when_told:
            self.now()
        log.warning("%s: stopping after this step and its checkpoint (once more: at once)", signal.Signals(number).name)

    def now(self) -> NoReturn:
        """End the process; the same command goes on from the last checkpoint."""
        number = signal.Signals(
            self.signal if self.signal is not None else signal.SIGTERM
        )  # or another process was told
        log.warning("stopped by %s; repeat the command to go on from the last checkpoint", number.name)
        if number == REQUEUE:
            self._requeue(number, None)  # in the first process it puts the job in the queue again, and ends
        # the others of a distributed run leave silently: Lightning kills the first process where one of them fails
        raise SystemExit(EXIT[number] if is_first() else 0)

    def take(self) -> None:
        """Take the signals, in place of whoever has them now."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in EXIT:
            if number != REQUEUE or self._requeue is not None:
                signal.signal(number, self.handle)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and Ctrl-C, in the main thread of a process; handlers of before come back.

        SIGUSR2 too where someone handles it already: Hydra's launcher for SLURM does, when the time of a job is nearly
        over.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in EXIT}
        theirs = before[REQUEUE] if REQUEUE is not None else None
        self._requeue = theirs if callable(theirs) else None
        self.take()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
