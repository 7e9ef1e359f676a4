import pytest
import torch

from rwkd_lightning.systems.text.data.corruption import choose_rows, flip_labels, flip_meta_labels, roll_teacher
from rwkd_lightning.utils.errors import UserError


def test_flips_are_exact_and_never_the_same_class():
    """Prevents a noise level other than the one reported, and flags that do not mark the flipped rows."""
    labels = torch.arange(1000) % 4
    labels[::10] = -1
    flipped, flags = flip_labels(labels, 0.3, 4, seed=1)
    assert flags.sum() == 270 and ((flipped != labels) == flags).all()
    assert (flipped[::10] == -1).all() and labels[1] == 1
    steps = torch.bincount((flipped - labels)[flags] % 4, minlength=4)
    assert steps[0] == 0 and (steps[1:] > 60).all()  # 90 expected each
    assert (flip_labels(labels, 0.3, 4, seed=1)[0] == flipped).all()
    assert (flip_labels(labels, 0.3, 4, seed=2)[0] != flipped).any()


def test_meta_flips_are_draws_of_their_own():
    """Prevents meta labels that are wrong on the same rows, or by the same steps, as the training labels of the same
    seed.
    """
    labels = torch.zeros(2000, dtype=torch.long)
    (train, train_flags), (meta, meta_flags) = (
        flip_labels(labels, 0.5, 3, seed=7),
        flip_meta_labels(labels, 0.5, 3, seed=7),
    )
    assert meta_flags.sum() == 1000 and ((meta != labels) == meta_flags).all()
    both = train_flags & meta_flags
    assert 430 < both.sum() < 570  # 500 expected, standard deviation 11
    assert 0.4 < (train == meta)[both].float().mean() < 0.6
    assert (flip_meta_labels(labels, 0.5, 3, seed=7)[0] == meta).all()


def test_roll_moves_each_row_by_one_class():
    """Prevents a corrupted teacher whose flags are wrong, or clean logits changed in place."""
    logits = torch.randn(100, 3)
    before = logits.clone()
    flags = choose_rows(len(logits), logits.shape[1], 0.25, seed=1)
    rolled = roll_teacher(logits, flags)
    assert flags.sum() == 25 and torch.equal(logits, before)
    assert torch.equal(rolled[~flags], logits[~flags])
    assert torch.equal(rolled[flags], logits[flags][:, [2, 0, 1]])


def test_one_seed_gives_two_independent_choices():
    """Prevents that both corruptions hit the same rows, which no experiment could tell apart."""
    labels = torch.zeros(2000, dtype=torch.long)
    flips = flip_labels(labels, 0.5, 2, seed=7)[1]
    rolls = choose_rows(2000, 2, 0.5, seed=7)
    assert 430 < (flips & rolls).sum() < 570  # 500 expected, standard deviation 11


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_share_out_of_range(share):
    """Prevents a share in percent from being taken for a fraction."""
    with pytest.raises(UserError, match="data.label_noise"):
        flip_labels(torch.tensor([0, 1]), share, 2, 0)
    with pytest.raises(UserError, match="data.teacher_noise"):
        choose_rows(2, 2, share, 0)
    with pytest.raises(UserError, match="data.meta_noise"):
        flip_meta_labels(torch.tensor([0, 1]), share, 2, 0)


def test_regression_is_refused():
    """Prevents that a corruption does nothing to a regression task while the run is reported as corrupted."""
    scores = torch.tensor([0.5, 2.0])
    assert torch.equal(flip_labels(scores, 0, 1, 0)[0], scores)
    for corruption in (
        lambda: flip_labels(scores, 0.1, 1, 0),
        lambda: choose_rows(2, 1, 0.1, 0),
        lambda: flip_meta_labels(scores, 0.1, 1, 0),
    ):
        with pytest.raises(UserError, match="regression"):
            corruption()
