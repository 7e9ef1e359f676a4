"""The peak memory of one cycle, read from the kernel (Linux).

Cycles run in a process of their own: each kind once for what is allocated once, then with the peak of the resident set
(VmHWM) put back to what it is at rest. Their difference counts everything that a cycle holds: activations, the graph of
the graph, copies of θ, gradients, temporaries. With a fixed MALLOC_MMAP_THRESHOLD_ the allocator gives freed tensors
back at once: two runs differ by less than 1 MiB. The part that grows with the batch are the activations. It is taken
between 2B and 4B rows, where activations and not copies of θ decide when the peak is reached: 3 blocks of a MiniLM and
32 x 48 tokens will do, 8 x 24 are too few.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bilevel_scene import Cycle, Scene

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 1024.0


def peak_mib(scene: Scene, cycle: Cycle) -> float:
    """Largest resident set during one cycle above the one before it."""
    scene.begin()
    cycle()
    scene.begin()
    gc.collect()
    CLEAR.write_text("5")  # the peak is the present size again
    rest = resident("VmRSS")
    cycle()
    return (resident("VmHWM") - rest) / MIB


def resident(field: str) -> int:
    """KiB."""
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    assert found, field
    return int(found[1])


def measure(
    makers: Mapping[str, Callable[[Scene], Cycle]], layers: int, batch: int, length: int
) -> dict[str, dict[str, float]]:
    """MiB of a cycle with ``batch`` rows, and of its activations, by kind."""
    peaks: dict[str, list[float]] = {name: [] for name in makers}
    for size in (batch, 2 * batch, 4 * batch):
        scene = Scene(layers, size, length)
        for name, make in makers.items():
            peaks[name].append(peak_mib(scene, make(scene)))
    return {name: {"peak": one, "activations": (four - two) / 2} for name, (one, two, four) in peaks.items()}


def in_own_process(arguments: Sequence[str]) -> dict[str, dict[str, float]]:
    """What this program prints as its last line when run with these arguments."""
    fixed = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ | fixed, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return result
