"""When the meta step takes the training pass, and what lies in memory then."""

from __future__ import annotations

import gc

import pytest
import torch

from rwkd_lightning.bilevel import FiniteDifference, Jvp, RandomState, Unrolled
from rwkd_lightning.meta import All, HeadWithBank, LastBlock, MetaStep
from rwkd_lightning.terms import CrossEntropy, DistillationKL, stack
from rwkd_lightning.training.batch_passes import OnePass

TERMS = [CrossEntropy(), DistillationKL(2.0)]
ENGINES = [Unrolled(), Jvp(), FiniteDifference(1e-5), FiniteDifference(1e-5, central=True)]
DIRECTIONAL = ENGINES[1:]


def passes_of(net, batch):
    """The training pass of the module, not yet taken."""
    return OnePass(
        batch, lambda rows: (out := net(rows), stack(TERMS, out, rows)), lambda *_: None, torch.device("cpu")
    )


def meta_step(engine, theta, stream, rows, net, lookahead):
    meta = MetaStep(engine, theta(), [CrossEntropy()], stream(rows, 5), lookahead)
    meta.build(net)
    return meta


@pytest.mark.parametrize("lookahead", [None, 0.2])
@pytest.mark.parametrize("engine", ENGINES, ids=repr)
@pytest.mark.parametrize("theta", [All, LastBlock, HeadWithBank])
def test_training_pass_on_demand(student, data, stream, theta, engine, lookahead):
    """Prevents other influences, other dropout masks or a training pass without its graph where the meta step takes
    that pass.
    """
    net, batch, rows = student(), data(4, 1), data(10, 2)
    weights = torch.full((4, 2), 0.5, dtype=torch.float64)

    def influence(outputs, state):
        meta = meta_step(engine, theta, stream, rows, net, lookahead)
        return meta.influence(net, batch, outputs, lambda o: stack(TERMS, o, batch), weights, state)

    begin = RandomState.capture(torch.device("cpu"))
    known = net(batch)
    expected = influence(known, begin)
    end = torch.get_rng_state()
    begin.restore()
    passes = passes_of(net, batch)
    assert torch.equal(influence(lambda: passes.forward()[0], passes.randomness), expected)
    outputs, losses = passes.forward()
    assert torch.equal(outputs["logits"], known["logits"]) and losses.requires_grad
    assert torch.equal(torch.get_rng_state(), end)


@pytest.mark.parametrize("engine", DIRECTIONAL, ids=repr)
def test_nothing_beside_the_training_graph(student, data, stream, engine):
    """Prevents a training graph, the memory of a step, there while the meta step needs its own: v, θ displaced, a
    graph.
    """
    net, batch, rows = student(), data(4, 1), data(10, 2)
    shape = net.network.bert.embeddings.word_embeddings.weight.shape

    def tensors():
        gc.collect()
        return [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter) and x.shape == shape]

    before = (
        tensors()
    )  # the parameter itself, and what other tests have left; held, so that no new tensor takes their place
    known, passed, alive = {x.data_ptr() for x in before}, [], []

    def watch(module, args):
        passed.append((module.training, torch.is_grad_enabled()))
        if passed[-1] == (True, True):
            alive.append(len({x.data_ptr() for x in tensors()} - known))

    net.register_forward_pre_hook(watch)
    passes = passes_of(net, batch)
    others = meta_step(engine, All, stream, rows, net, None).influence(
        net, batch, lambda: passes.forward()[0], lambda o: stack(TERMS, o, batch), torch.ones(4, 2), passes.randomness
    )
    passes.forward()
    assert others.shape == (4, 2)
    own = [(True, False)] * (2 if engine is DIRECTIONAL[-1] else 1)
    assert passed == [
        (False, True),
        *own,
        (True, True),
    ]  # held-out rows, then the derivative, and the training pass last
    assert alive == [0]  # neither the parameter's gradient nor a copy


def test_masks_are_those_of_the_beginning(student, data):
    """Prevents a training pass under other masks than those the meta step replays, as something drew before it was
    taken.
    """
    net, batch = student(), data(4, 1)
    passes = passes_of(net, batch)
    with passes.randomness.replay():
        expected = net(batch)["logits"]
    torch.rand(3)
    assert torch.equal(passes.forward()[0]["logits"], expected)
