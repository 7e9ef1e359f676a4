"""The generators' states of all ranks in a checkpoint, so that a resumed run goes on with the same dropout masks."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkd_lightning.utils.distributed import gather_objects, rank, world_size

State = tuple[Tensor, Tensor | None]
"""Of the CPU's generator and, on a GPU, of the device's."""


class RandomStates:
    """Draws of this rank: saved with those of the others, and set once when a training begins."""

    def __init__(self) -> None:
        self.resumed: State | None = None

    def save(self, device: torch.device) -> list[State]:
        """The states of all ranks, in their order."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return gather_objects((torch.get_rng_state(), cuda))

    def load(self, states: list[State]) -> None:
        """Keep this rank's, for ``begin``."""
        self.resumed = states[rank() % len(states)]

    def begin(self, device: torch.device) -> None:
        """Go on where the checkpoint was written; without one, give each rank a seed of its own."""
        if self.resumed is not None:
            cpu, cuda = self.resumed
            torch.set_rng_state(cpu.cpu())
            if cuda is not None and device.type == "cuda":
                torch.cuda.set_rng_state(cuda.cpu(), device)
            self.resumed = None
        elif world_size() > 1:  # all started from one seed: the same student, but not the same dropout masks
            torch.manual_seed(torch.initial_seed() + rank())
