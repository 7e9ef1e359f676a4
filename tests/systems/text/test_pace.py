"""The time to expect, in one line before a run begins."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch

from rwkd_lightning.systems.text import pace
from rwkd_lightning.utils.bars import spoken
from tests.run.conftest import arguments, backbone, tweets  # noqa: F401 (fixtures)
from tests.run.test_pipeline_run import finished


def test_the_plan_counts_what_is_to_be_done(
    arguments: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Prevents: a time that leaves out epochs, counts a teacher that is in the cache, or changes what is trained."""
    plans: list[list[tuple[str, float]]] = []
    plan = pace.plan

    def counted(*given: object) -> list[tuple[str, float]]:
        plans.append(plan(*given[:-1], lambda network, ids, device, half: (1.0, 0.0)))  # type: ignore[arg-type]
        return plan(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(pace, "plan", counted)
    with caplog.at_level(logging.INFO):
        timed = finished([*arguments, "pair.teacher.batch_size=20"], tmp_path / "a", "weighting=kd")
        finished([*arguments, "pair.teacher.batch_size=20", "trainer.max_steps=3"], tmp_path / "b", "weighting=kd")
    assert plans[0] == [("teacher", 3 * math.ceil(96 / 20)), ("student", 2 * 64 / 16)] and plans[1] == [("student", 3)]
    assert caplog.text.count("to expect on this machine: about") == 2
    monkeypatch.setattr(pace, "tell", lambda *given: None)
    same = finished([*arguments, "pair.teacher.batch_size=20"], tmp_path / "c", "weighting=kd")
    assert same["student"] == timed["student"]


def test_the_clock_leaves_no_trace() -> None:
    """Prevents: dropout that is drawn, gradients that are left, a student that starts in evaluation mode."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    network = BertForSequenceClassification(config).train()
    before, state = {n: p.clone() for n, p in network.state_dict().items()}, torch.get_rng_state()
    step, forward = pace.clock(network, torch.ones(4, 6, dtype=torch.long), torch.device("cpu"), False)
    assert step > 0 and forward > 0 and network.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[n]) for n, p in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (100, "2 min"), (7200, "2.0 h"), (math.inf, "no end")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    """Prevents: a time of 0, or one in the wrong unit."""
    assert spoken(seconds) == words
