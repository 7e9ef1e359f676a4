"""Runs whose student is trained by low-rank updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rwkd_lightning.systems.text import system as text
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import finished
from tests.run.test_resume import NOISE, check_same, power_cut
from tests.test_remedies import config

pytest.importorskip("peft")
LORA = "pair.student.lora={rank: 2, dropout: 0.1}"


@pytest.mark.parametrize(
    "options",
    [
        ["weighting=kd"],
        ["weighting=gradnorm"],
        ["weighting=l2rw"],
        ["weighting=rwkd", "meta=head"],
        ["weighting=rwkd", "meta=bank"],
        ["weighting=rwkd", "meta=last_block"],
        ["weighting=rwkd", "meta=all", "meta.lookahead_lr=0.1"],
        ["weighting=rwkd", "trainer.accumulate=2"],
        ["weighting=rwkd", "meta=all", "meta/engine=unrolled"],
        ["weighting=rwkd", "meta=all", "terms=[ce,kd,hidden]"],
    ],
    ids=lambda options: " ".join(options),
)
def test_what_moves(
    options: list[str], warm: list[str], backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: frozen weights that move, updates that no gradient reaches, a student/ with the updates beside it or
    without them, and scores of another student than the one in it.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    seen: list[Any] = []
    real = text.merge

    def merge(network: Any) -> None:
        tokens = AutoTokenizer.from_pretrained(backbone)(["good happy", "bad"], return_tensors="pt", padding=True)
        network.eval()
        with torch.no_grad():
            seen.append((tokens, network(**tokens).logits))
        real(network)

    monkeypatch.setattr(text, "merge", merge)
    result = finished(warm, tmp_path / "run", LORA, *options)
    before, after = load_file(backbone / "model.safetensors"), load_file(tmp_path / "run/student/model.safetensors")
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/student").eval()
    ((tokens, logits),) = seen
    with torch.no_grad():
        torch.testing.assert_close(student(**tokens).logits, logits, atol=1e-5, rtol=1e-5)
    assert not [name for name in after if "lora" in name]
    assert result["cost"]["student_parameters"] == sum(p.numel() for p in student.parameters())
    for name, weight in after.items():
        if name.startswith("bert."):
            old = before[name.removeprefix("bert.").replace("layer.0", "layer.1")]
            linear = weight.ndim == 2 and "embeddings" not in name
            assert torch.equal(old, weight) != linear, name


def test_exact_resume(warm: list[str], tmp_path: Path, last: dict[str, dict[str, Any]]) -> None:
    """Prevents: updates, their optimizer's state or their dropout masks that are not in the checkpoint."""
    options = [*NOISE, LORA, "weighting=rwkd", "meta=all", "trainer.log_every_n_steps=1", "trainer.select=best"]
    finished(warm, tmp_path / "whole", *options)
    with power_cut(3, True):
        finished(warm, tmp_path / "cut", *options, "checkpoint.steps=3")
    finished(warm, tmp_path / "cut", *options)
    check_same(tmp_path / "whole", tmp_path / "cut", last)
    optimizer = last["whole"]["optimizer_states"][0]
    assert len(optimizer["state"]) == 2 * 7 + 2  # A and B of the block's six linear layers and the pooler; the head


def test_from_the_teacher(warm: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: a student of the teacher's weights that is trained whole, or a count that is told twice."""
    with caplog.at_level("INFO", logger="rwkd_lightning"):
        finished(warm, tmp_path / "run", "weighting=kd", "pair.student.path=teacher", "pair.student.lora=2")
    told = [record.getMessage() for record in caplog.records if "LoRA" in record.getMessage()]
    assert (
        len(told) == 1
        and "LoRA of rank 2 in 7 linear layers (query, key, value, dense): 1,123 of 13,539 parameters" in told[0]
    )
    # 2 * (4 * 64 + 2 * 96 + 64) of the updates, 32 * 3 + 3 of the head


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0", "pair.student.lora is 0; give a whole number from 1 to 10,000, or a group with rank, and perhaps alpha"),
        ("true", "pair.student.lora is true; give a whole number"),
        ("8.0", "pair.student.lora=8.0 is written as a fraction; write pair.student.lora=8"),
        ("{alpha: 16}", "pair.student.lora is .*; give a whole number from 1 to 10,000, or a group with rank"),
        ("{rank: 8, target: [query]}", "give a whole number from 1 to 10,000, or a group with rank"),
        ("{rank: 0}", "pair.student.lora.rank is 0; give a whole number from 1 to 10,000"),
        ("{rank: 8, alpha: 0}", "pair.student.lora.alpha is 0; give a number above 0, or null"),
        ("{rank: 8, dropout: 1.0}", "pair.student.lora.dropout is 1.0; give a number from 0 up to, but not including"),
        ("{rank: 8, targets: query}", r"pair.student.lora.targets is 'query'; give a list of names, each once"),
        ("{rank: 8, targets: []}", r"pair.student.lora.targets is \[\]; give a list of names, each once"),
    ],
)
def test_bad_values(given: str, message: str) -> None:
    """Prevents: an adapter of other settings than those that were meant."""
    with pytest.raises(UserError, match=message):
        config("pair.student.lora=" + given)


def test_refused_before_the_teacher_is_trained(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: hours of a teacher's training before a module that does not exist is seen."""
    with pytest.raises(UserError, match="no linear layer is called 'q_proj'; .* are query, key, value, dense"):
        finished(arguments, tmp_path / "run", "pair.student.lora={rank: 2, targets: [q_proj]}")
    assert not (tmp_path / "cache/teacher").exists()
