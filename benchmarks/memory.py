"""What the memory benchmarks share: sizes of this process from Linux's /proc, and a process of its own for each
measurement.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from torch import nn

MIB = 2**20
PROC = Path("/proc/self")


def sizes() -> dict[str, float]:
    """MiB of this process: ``VmRSS`` = ``RssAnon`` (its own) + ``RssFile`` (mapped files) + shared; ``VmHWM``, its
    peak.
    """
    if not (PROC / "clear_refs").exists():
        raise SystemExit("memory is read from /proc/self, which only Linux has; run this on Linux")
    text = (PROC / "status").read_text()
    return {name: int(re.search(rf"^{name}:\s+(\d+) kB", text, re.M)[1]) / 2**10  # type: ignore[index]
            for name in ("VmRSS", "RssAnon", "RssFile", "VmHWM")}  # fmt: skip


def settle() -> None:
    """Give back what is freed, and begin a new peak."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    (PROC / "clear_refs").write_text("5")


def apart(script: str, **options: Any) -> Any:
    """What ``script --one JSON`` prints last, run in a fresh process: no memory, thread or allocator state of another
    kind.
    """
    command = [sys.executable, script, "--one", json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def bytes_of(module: nn.Module) -> int:
    """Of a module's trainable parameters."""
    return sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
