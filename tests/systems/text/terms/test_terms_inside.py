"""Terms over hidden states and values, against numpy and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from rwkd_lightning.systems.text.terms import HiddenStates, ValueRelation
from rwkd_lightning.terms import LogitMSE
from rwkd_lightning.utils.errors import UserError


def states(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Model:
    """What a term asks of a model."""

    def __init__(self, num_blocks, width=8):
        self.num_blocks, self.width, self.asked = num_blocks, width, {}

    def keep(self, name, layers, pool="tokens", values=False):
        self.asked[name] = (list(layers), pool, values)


def test_hidden_distance():
    """Prevents states compared by their size, a mean over layers or over the batch in place of a sample's sum."""
    mine, theirs = states(5, 3, 8), states(5, 3, 8, seed=1)
    found = HiddenStates()({"hidden": mine}, {"teacher_hidden": 7 * theirs})
    for i in range(5):
        expected = 0.0
        for j in range(3):
            a, b = mine[i, j].numpy(), theirs[i, j].numpy()
            expected += ((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2).sum()
        assert float(found[i]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("mine", "theirs", "layers", "pairs"), [
    (3, 6, "uniform", [[0, 1], [1, 3]]),  # as cut by layers=[1,3,5]: blocks 2 and 4 of the teacher, counted from 1
    (6, 12, "uniform", [[0, 1], [1, 3], [2, 5], [3, 7], [4, 9]]),  # PKD-Skip: 2, 4, 6, 8, 10
    (6, 12, "last", [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10]]),  # PKD-Last: 7 to 11
    (4, 2, "uniform", [[0, 0], [1, 0], [2, 1]]),
    (1, 6, "uniform", [[0, 5]]),
    (3, 6, [[0, 5], [2, 0]], [[0, 5], [2, 0]]),
])  # fmt: skip
def test_layer_map(mine, theirs, layers, pairs):
    """Prevents a map off by one, and one that ignores what was asked for."""
    term, student, teacher = HiddenStates(layers, "mean"), Model(mine), Model(theirs)
    term.connect(student, teacher)
    assert student.asked == {"hidden": ([a for a, _ in pairs], "mean", False)}
    assert teacher.asked == {"hidden": ([b for _, b in pairs], "mean", False)}
    assert not list(term.parameters())


def test_projection_between_widths():
    """Prevents one map for all layers, a map that is not trained, and one that moves the generator of the dropout
    masks.
    """
    term = HiddenStates("last")
    before = torch.get_rng_state()
    term.connect(Model(3, 4), Model(6, 8))
    assert torch.equal(before, torch.get_rng_state())
    first, second = (p.weight for p in term.projections)
    assert first.shape == second.shape == (8, 4)
    assert not torch.equal(first, second)
    mine, theirs = states(5, 2, 4), states(5, 2, 8, seed=1)
    term.double()
    found = term({"hidden": mine}, {"teacher_hidden": theirs})
    moved = torch.stack([mine[:, 0] @ first.T, mine[:, 1] @ second.T], 1).detach()
    expected = HiddenStates()({"hidden": moved}, {"teacher_hidden": theirs})
    torch.testing.assert_close(found.detach(), expected)
    found.sum().backward()
    assert all(float(p.grad.norm()) > 0 for p in term.parameters())


def test_hidden_under_autocast():
    """Prevents a projection in bfloat16, whose rounding is larger than what it is to measure."""
    term = HiddenStates("last")
    term.connect(Model(2, 4), Model(6, 8))
    inputs = {"hidden": states(5, 1, 4).float()}, {"teacher_hidden": states(5, 1, 8, seed=1).half()}
    plain = term(*inputs)
    exact = term.double()({"hidden": inputs[0]["hidden"].double()}, inputs[1])
    torch.testing.assert_close(plain.double(), exact, rtol=1e-5, atol=1e-6)
    term.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(term(*inputs), plain)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_value_relation(heads):
    """Prevents KL the wrong way round, heads cut across tokens, a wrong scale, and padding that counts as key or
    query.
    """
    lengths = [4, 2, 5]
    mine, theirs = states(3, 1, 5, 8), states(3, 1, 5, 12, seed=1)
    mask = torch.tensor([[int(t < n) for t in range(5)] for n in lengths])
    found = ValueRelation(heads)({"values": mine}, {"teacher_values": theirs, "attention_mask": mask})
    for i, n in enumerate(lengths):
        total = 0.0
        for a in range(heads):
            relations = []
            for values in (mine, theirs):
                d = values.shape[-1] // heads
                v = values[i, 0, :n, a * d : (a + 1) * d].numpy()
                relations.append(softmax(v @ v.T / np.sqrt(d), axis=1))
            total += rel_entr(relations[1], relations[0]).sum()
        assert float(found[i]) == pytest.approx(total / heads / n, rel=1e-10)


def test_value_relation_gradient_is_finite():
    """Prevents not-a-number from masked keys, in the gradient and in forward mode, which only shows on padded
    batches.
    """
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    batch = {"teacher_values": states(2, 1, 4, 8, seed=1), "attention_mask": mask}
    values = states(2, 1, 4, 8).requires_grad_()
    term = ValueRelation(2)
    term({"values": values}, batch).sum().backward()
    assert bool(values.grad.isfinite().all())
    assert float(values.grad[0, :, 2:].abs().max()) == 0
    direction = states(2, 1, 4, 8, seed=2)
    _, tangent = torch.func.jvp(lambda v: term({"values": v}, batch), (values.detach(),), (direction,))
    assert float(tangent.sum()) == pytest.approx(float((values.grad * direction).sum()), rel=1e-9)


def test_logit_mse():
    """Prevents a sum over the classes, or over the batch."""
    s, t = states(4, 3), states(4, 3, seed=1)
    found = LogitMSE()({"logits": s}, {"teacher_logits": t})
    np.testing.assert_allclose(found, ((s - t) ** 2).numpy().mean(1), rtol=1e-12)


def test_missing_states_are_named():
    """Prevents a KeyError from the depths where the teacher was forgotten."""
    with pytest.raises(
        UserError, match="hidden reads batch\\['teacher_hidden'\\].*give DistillationModule the teacher"
    ):
        HiddenStates()({"hidden": states(2, 1, 4)}, {})
    with pytest.raises(UserError, match="value_relation reads batch\\['teacher_values'\\]"):
        ValueRelation()({"values": states(2, 1, 3, 16)}, {"attention_mask": torch.ones(2, 3)})


@pytest.mark.parametrize(("make", "message"), [
    (lambda: HiddenStates("skip"), "`layers='skip'` is not known; give uniform, last, or pairs"),
    (lambda: HiddenStates([]), "give pairs of a student's and a teacher's block"),
    (lambda: HiddenStates([[1, 2, 3]]), r"`layers=\[\[1, 2, 3\]\]`"),
    (lambda: HiddenStates(pool="max"), "`pool='max'` is not known; known are cls, mean"),
    (lambda: ValueRelation(0), "`heads` is 0"),
    (lambda: ValueRelation(5).connect(Model(2, 12), Model(2, 8)), "heads is 5.*12 and 8; 1, 2, 4 do"),
])  # fmt: skip
def test_bad_options(make, message):
    """Prevents a shape error hours later."""
    with pytest.raises(UserError, match=message):
        make()
