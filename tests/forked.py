"""Scripts in processes of their own whose imports are done: each is forked from one that has imported what a run needs.

Such a process has its own memory, signals, streams and exit status, like one that `subprocess` starts, but none of the
seconds of imports. Tests of the imports themselves, and of what starts processes, use ``python train.py``.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

GLOO = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
"""Gloo finds its interface by the host's name otherwise, which not every sandbox resolves."""
ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "train.py"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "hydra._internal.hydra",
        "hydra._internal.core_plugins.basic_launcher",
        "rwkd_lightning.run.runner",
        "rwkd_lightning.systems.text.system",
        "rwkd_lightning.systems.topics.system",
        "datasets",
        "pyarrow.parquet",
        "transformers.models.bert.modeling_bert",
        "torch._decomp.decompositions_for_jvp",
        "tests.run.test_pipeline_run",
    ]
)


class Command:
    """``python SCRIPT ARGUMENTS``, with those methods of `subprocess.Popen` that tests use.

    Args:
        merged: Whether standard error goes to standard output.
        session: Whether the process leads a session of its own, so that `os.killpg` reaches what it starts.
        environment: Variables besides those of this process.
        prepare: What the new process calls first, an importable function.
    """

    def __init__(
        self,
        *arguments: str,
        script: Path = TRAIN,
        merged: bool = True,
        cwd: Path = ROOT,
        session: bool = False,
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], object] = int,
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.arguments = [str(script), *arguments]
        streams = [str(Path(self.folder.name, name)) for name in ("out", "out" if merged else "err")]
        variables = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"} | dict(
            environment or {}
        )
        self.process = CONTEXT.Process(
            target=work, args=(self.arguments, streams, str(cwd), session, variables, prepare)
        )
        self.process.start()
        assert self.process.pid is not None
        self.pid: int = self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the number of the signal that killed it, or None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the end; what was printed to standard output and to standard error."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        files = [Path(self.folder.name, name) for name in ("out", "err")]
        out, err = (file.read_text() if file.exists() else "" for file in files)
        return out, err

    def completed(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Wait for the end; status and output."""
        out, err = self.communicate(timeout)
        assert self.returncode is not None
        return subprocess.CompletedProcess(self.arguments, self.returncode, out, err)


def work(
    arguments: list[str],
    streams: list[str],
    cwd: str,
    session: bool,
    environment: Mapping[str, str],
    prepare: Callable[[], object],
) -> None:
    """Be the script; runs in the new process."""
    prepare()
    if session:
        os.setsid()
    for number, stream in zip((1, 2), streams, strict=True):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv[:] = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def train(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run ``train.py`` to its end."""
    return Command(*arguments, merged=False, cwd=cwd).completed()


def two(*arguments: str, script: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run a script in two processes that know each other as those of ``torchrun --nproc_per_node=2`` do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        **GLOO,
    }
    ranks = [
        Command(*arguments, script=script, environment={**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    return [one.completed() for one in ranks]
