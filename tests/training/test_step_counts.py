"""A step dispatches few operators, and the host waits for none: on a GPU with short kernels both are what it costs."""

from __future__ import annotations

import pytest
import torch

from benchmarks import counts
from rwkd_lightning.meta.head import TOGETHER

ABOVE_KD = {"operators": 120, "launches": 84}
A_TERM = {"operators": 10, "launches": 10}


@pytest.fixture(autouse=True)
def later(monkeypatch):
    """Checks wait as on a GPU, and are made at once again afterwards."""
    monkeypatch.setattr("rwkd_lightning.training.finite_check.AT_ONCE", ())


def a_step(method, terms=2, precision="32-true"):
    """Operators and launches of a step, and what synchronises, by line of the package, without the student's own."""
    found = counts.count(counts.build(method, terms), steps=TOGETHER, precision=precision)
    mean = {name: sum(getattr(found, name).values()) / TOGETHER for name in ABOVE_KD}
    return mean, {line: n for line, n in found.synchronisations.items() if "systems/" not in line}


def test_the_default_above_kd():
    """Prevents a step that comes to dispatch twice what it did, which no CPU shows and every GPU does; and terms that
    each take operators of their own many times over.
    """
    base, default = {}, {}
    for terms in (2, 4):
        base[terms], default[terms] = (a_step(method, terms)[0] for method in ("kd", "rwkd"))
    for what, most in ABOVE_KD.items():
        above = {terms: default[terms][what] - base[terms][what] for terms in base}
        assert 0 < above[2] <= most
        assert above[4] - above[2] <= 2 * A_TERM[what]


def test_half_precision_adds_no_casts():
    """Prevents a meta step whose tensors are cast back and forth under autocast, once a term and in every backward."""
    base, default = (a_step(method, precision="bf16-mixed")[0] for method in ("kd", "rwkd"))
    for what, most in ABOVE_KD.items():
        assert 0 < default[what] - base[what] <= most + 8


@pytest.mark.parametrize("method", counts.METHODS)
def test_no_synchronisation(method):
    """Prevents a host that waits for the device at every step: for a mask's true places, a list as index, a number."""
    assert a_step(method)[1] == {}


def test_what_synchronises_is_seen():
    """Prevents a count of nothing."""
    x = torch.arange(4.0)
    for waiting in (lambda: float(x.sum()), lambda: x[x > 1], lambda: torch.tensor([1.0]), lambda: x.nonzero()):
        with counts.Counter() as counter:
            waiting()
        assert sum(counter.synchronisations.values()) == 1
    with counts.Counter() as counter:
        x[1:].mul(2.0)
    assert dict(counter.launches) == {"mul": 1} and not counter.synchronisations
