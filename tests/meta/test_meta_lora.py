"""The influence of students of which low-rank updates are trained: θ is these and the head."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from rwkd_lightning.bilevel import FiniteDifference, Jvp, RandomState, Unrolled, surrogate_loss
from rwkd_lightning.systems.text.models.lora import Lora, adapt
from tests.meta.conftest import bert, separable
from tests.meta.test_meta_step import influence, losses, reference, setting, thetas

pytest.importorskip("peft")


def low_rank(dropout: float = 0.1, **options: Any) -> Any:
    """The random two-block BERT with updates of rank 2 that are not 0, and dropout of its own before them."""
    student = bert(dropout, **options)
    adapt(student, Lora(2, 4, dropout))
    with torch.random.fork_rng():
        torch.manual_seed(4)
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.2)
    return student.to(next(student.head.parameters()).dtype).train()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("lookahead", [None, 0.2])
@pytest.mark.parametrize("engine", [Unrolled(), Jvp(), FiniteDifference(1e-5)], ids=repr)
@thetas
def test_influence_equals_double_backward(data, stream, theta, engine, lookahead, dropout):
    """Prevents: a θ that holds frozen weights or lacks the updates; a second pass that draws another dropout mask;
    updates that `functional_call` does not replace.
    """
    net, batch, rows, meta = setting(low_rank, data, stream, theta, engine, lookahead, dropout=dropout)
    phi = nn.Linear(2, 2).double()
    frozen = {n: p.clone() for n, p in net.named_parameters() if not p.requires_grad}
    found, _, state = influence(meta, net, batch, phi)
    held_out = rows if "bank" in theta else {k: v[:5] for k, v in rows.items()}
    u, by_phi = reference(net, theta, batch, held_out, state, phi, lookahead)
    tolerance = 1e-3 if isinstance(engine, FiniteDifference) else 1e-6
    assert float(((found - u).norm(dim=1) / u.norm(dim=1)).max()) < tolerance
    with torch.random.fork_rng():
        torch.set_rng_state(state.cpu)
        weights = phi(losses(net(batch)["logits"], batch).detach()).softmax(1)
    mine = torch.autograd.grad(surrogate_loss(weights, found, lookahead or 1.0), list(phi.parameters()))
    for a, b in zip(mine, by_phi, strict=True):
        assert float((a - b).norm() / b.norm()) < tolerance
    assert frozen and all(torch.equal(p, frozen[n]) for n, p in net.named_parameters() if n in frozen)


def test_reference_differs_from_the_whole_student(data, stream):
    """Prevents: a test of an influence that is the same whichever parameters are trained."""
    net, batch, *_ = setting(low_rank, data, stream, "all", dropout=0.0)
    whole = copy.deepcopy(net).requires_grad_(True)
    state, phi = RandomState.capture(torch.device("cpu")), nn.Linear(2, 2).double()
    held_out = separable(5, 2)
    held_out["teacher_logits"] = held_out["teacher_logits"].double()
    one, other = (reference(m, "all", batch, held_out, state, phi, None)[0] for m in (net, whole))
    assert float((one - other).norm() / other.norm()) > 0.1
