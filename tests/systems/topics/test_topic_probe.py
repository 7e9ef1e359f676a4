"""Documents that get what the teacher made of others."""

import numpy as np
import pytest
import torch

from rwkd_lightning.systems.topics.corruption import swap_teacher
from rwkd_lightning.utils.errors import UserError

STATES = {"teacher_mu": torch.arange(40.0).reshape(20, 2), "teacher_theta": torch.arange(20.0)[:, None] * torch.ones(3)}


def test_the_flagged_documents_and_no_others_have_another_ones_states():
    """Prevents: flags of other documents than those corrupted, held-out documents among them, or a part of the states
    left.
    """
    rows = np.arange(5, 20)
    made = swap_teacher(STATES, rows, 0.4, 0)
    flags = made.pop("teacher_corrupted")
    assert flags.dtype == torch.bool and flags.sum() == 6 and not flags[:5].any()
    source = made["teacher_theta"][:, 0].long()
    assert torch.equal(source != torch.arange(20), flags)
    assert torch.equal(source[flags].sort().values, flags.nonzero().flatten())  # each of them once
    assert all(torch.equal(made[name], STATES[name][source]) for name in STATES)
    assert torch.equal(STATES["teacher_mu"], torch.arange(40.0).reshape(20, 2))
    again, other = (swap_teacher(STATES, rows, 0.4, seed)["teacher_corrupted"] for seed in (0, 1))
    assert torch.equal(again, flags) and not torch.equal(other, flags)


def test_no_noise_leaves_the_states_alone():
    """Prevents: a flag in runs without a corruption."""
    assert swap_teacher(STATES, np.arange(20), 0.0, 0) == STATES


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan"), 0.05])
def test_bad_shares_are_refused(share):
    """Prevents: a corruption of a single document, which would be swapped with itself."""
    with pytest.raises(UserError, match="data.teacher_noise"):
        swap_teacher(STATES, np.arange(20), share, 0)
