"""A Python without what Windows lacks: imports every module of the package, then runs ``train.py`` in this process.

Other packages ask ``sys.platform`` and know their way on Windows, so they are imported before anything is taken away.
``python -m tests.run.play_windows OVERRIDES``
"""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import runpy
import signal
import sys
from importlib import import_module
from typing import Any

OTHERS = (
    "datasets",
    "huggingface_hub.hf_file_system",
    "hydra",
    "lightning",
    "pyarrow.parquet",
    "sentence_transformers",
    "torch.distributed.elastic",
    "transformers.modeling_utils",
)
MODULES = ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog")
SIGNALS = (
    "SIGUSR2",
    "SIGALRM",
    "SIGHUP",
    "SIGQUIT",
    "SIGTSTP",
)  # not SIGUSR1, SIGKILL, SIGCHLD, which others need here
FUNCTIONS = ("fork", "getuid", "geteuid", "getgid", "sched_getaffinity", "mkfifo", "getpgid", "killpg", "setsid")


def no_links(*args: Any, **options: Any) -> None:
    """Fail as on Windows without the right to make symbolic links."""
    raise OSError("a required privilege is not held by the client")


def play() -> None:
    """Take away modules, signals and functions; what has already been imported keeps what it has."""
    sys.modules.update(dict.fromkeys(MODULES))  # type: ignore[arg-type]
    for where, names in ((signal, SIGNALS), (os, FUNCTIONS)):
        for name in names:
            delattr(where, name)
    os.symlink = os.link = no_links
    multiprocessing.set_start_method("spawn")


if __name__ == "__main__":
    for name in OTHERS:
        import_module(name)
    play()
    import rwkd_lightning

    names = [module.name for module in pkgutil.walk_packages(rwkd_lightning.__path__, "rwkd_lightning.")]
    for name in names:
        import_module(name)
    print(f"imported {len(names)} modules")
    runpy.run_path("train.py", run_name="__main__")
