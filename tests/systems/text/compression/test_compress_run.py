"""Runs whose student has a small word table, and finished students that get one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rwkd_lightning.cli import schema
from rwkd_lightning.compress import main
from rwkd_lightning.systems.text.build import data_of
from rwkd_lightning.systems.text.compression.build import scores_of
from rwkd_lightning.systems.text.compression.files import load, quantised
from rwkd_lightning.systems.text.models import load_classifier, load_tokenizer
from rwkd_lightning.utils.errors import UserError
from tests.distributed.two_runs import check_one, two_and_one
from tests.run.test_pipeline_run import config, finished
from tests.run.test_resume import NOISE, check_same, power_cut

SMALL = "pair.student.embedding={ratio: 1.6, blocks: 2}"


@pytest.mark.parametrize(
    "more",
    [["weighting=rwkd"], ["weighting=rwkd", "meta=all"], ["weighting=kd", "pair.student.path=teacher"]],
    ids=lambda x: " ".join(x),
)
def test_a_student_is_trained_in_factors(more: list[str], warm: list[str], tmp_path: Path) -> None:
    """Prevents: factors that stand still, and two forms on disk that say different things."""
    finished(warm, tmp_path / "run", SMALL, *more, "pair.student.layers=null" if "teacher" in more[-1] else SMALL)
    folder = tmp_path / "run/student"
    dense = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    small = load(folder / "factored")
    tokens = AutoTokenizer.from_pretrained(folder)(["good happy", "bad sad wall"], return_tensors="pt", padding=True)
    torch.testing.assert_close(small(**tokens).logits, dense(**tokens).logits, atol=1e-5, rtol=1e-5)
    held = [(folder / name / "model.safetensors").stat().st_size for name in ("factored", ".")]
    assert held[0] < held[1]


def test_exact_resume(warm: list[str], tmp_path: Path, last: dict[str, dict[str, Any]]) -> None:
    """Prevents: blocks that are cut anew when a run goes on."""
    options = [*warm, SMALL, *NOISE, "weighting=rwkd", "meta=all", "trainer.log_every_n_steps=1"]
    finished(options, tmp_path / "whole")
    with power_cut(3, True):
        finished(options, tmp_path / "cut", "checkpoint.steps=3")
    finished(options, tmp_path / "cut")
    check_same(tmp_path / "whole", tmp_path / "cut", last)


def test_two_processes_are_one(warm: list[str], tmp_path: Path) -> None:
    """Prevents: factors that only one process trains."""
    given = [*warm, SMALL, "weighting=rwkd", "meta=all", "meta.start=0", "trainer.precision=64-true"]
    given += ["trainer.max_epochs=2", "pair.student.layers=null"]
    given += ["pair.student.kind={name: cnn, hidden_size: 8, dropout: 0.0}"]
    check_one(two_and_one(given, tmp_path), ("w_ce", "influence_ce"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tweets: Path, backbone: Path) -> Path:
    """A finished run of a whole student; not to be written to."""
    from tests.run.tiny import overrides

    folder = tmp_path_factory.mktemp("finished")
    finished(overrides(tweets, backbone, folder), folder / "run", "weighting=kd", "trainer.max_epochs=2")
    return folder / "run"


@pytest.mark.parametrize("scores", ["frequency", "tfidf", "fisher", "shuffled"])
def test_a_finished_student_is_compressed(
    scores: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: a score of another model than the one on disk."""
    pytest.importorskip("onnxruntime")
    out = tmp_path / "small"
    more = ["--int8"] if scores == "tfidf" else ["--onnx"] if scores == "fisher" else []
    assert main([str(run), "ratio=1.5", f"scores={scores}", "blocks=2", f"--out={out}", *more]) == 0
    said = capsys.readouterr().out
    dense = AutoModelForSequenceClassification.from_pretrained(out).eval()
    small = load(out / "factored")
    tokens = AutoTokenizer.from_pretrained(out)(["good happy", "bad sad wall"], return_tensors="pt", padding=True)
    torch.testing.assert_close(small(**tokens).logits, dense(**tokens).logits, atol=1e-5, rtol=1e-5)
    found = dict(re.findall(r"^(student|factored)\S* .*?(0\.\d{4})", said.replace(", int8", ""), re.M))
    before = json.loads((run / "metrics.json").read_text())["student"]["test"]["accuracy"]
    assert float(found["student"]) == pytest.approx(before, abs=1e-4) and 0.2 < float(found["factored"]) <= 1
    assert ("model.onnx" in said) == (scores == "fisher")


def test_fisher_is_the_mean_of_squared_gradients(run: Path) -> None:
    """Prevents: gradients of a batch's mean, or of a word's places one by one."""
    from omegaconf import OmegaConf

    data = data_of(OmegaConf.load(run / "config.yaml"))  # type: ignore[arg-type]
    student = load_classifier(str(run / "student"), data.task, trained=True).double()
    tokenizer = load_tokenizer(str(run / "student"))
    rows = data.splits["train"]
    table = student.network.get_input_embeddings().weight  # type: ignore[operator]
    mine = scores_of("fisher", student, tokenizer, data, len(table), 32)
    total = torch.zeros(len(table), dtype=torch.float64)
    student.eval()
    for row in rows:
        tokens = tokenizer(row["text"], return_tensors="pt", truncation=True, max_length=32)
        loss = torch.nn.functional.cross_entropy(student(tokens)["logits"], torch.tensor([row["label"]]))
        (gradient,) = torch.autograd.grad(loss, table)
        total += gradient.square().sum(1)
    seen = total > 0
    np.testing.assert_allclose(mine[seen.numpy()], (total[seen] / len(rows)).numpy(), rtol=1e-8)


def test_eight_bits() -> None:
    """Prevents: a scale for a whole block, where a rare word's small vector becomes 0."""
    values = torch.randn(50, 8) * torch.logspace(-4, 1, 50)[:, None]
    held, scale = quantised(values, 1)
    error = (held.float() * scale.float() - values).abs() / values.abs().amax(1, keepdim=True)
    assert held.dtype == torch.int8 and float(error.max()) < 0.006


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pair.student.embedding={ratio: 1}"], r"pair.student.embedding.ratio is 1; give a number above 1"),
        (["pair.student.embedding={ratio: 500}"], r"ratio=500: a table of .* leaves no number for each word"),
        (["pair.student.embedding={size: 5}"], r"pair.student.embedding"),
        ([SMALL, "pair.student.lora=2"], r"pair.student.lora freezes the word table"),
        (["pair.student.embedding={ratio: 2, scores: fisher}"], r"this student's head begins at random"),
    ],
)
def test_a_mistake_is_told_before_the_teacher_is_trained(
    overrides: list[str], message: str, warm: list[str], tmp_path: Path
) -> None:
    """Prevents: minutes of training before the first word of what is wrong."""
    arguments = [*warm, f"cache_dir={tmp_path / 'empty'}", *overrides]
    with pytest.raises(UserError, match=message):
        schema.check(config(arguments))
        finished(arguments, tmp_path / "run")
    assert not (tmp_path / "empty/teacher").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ratio=0.5"], "ratio is 0.5; give a number above 1"),
        (["rate=10"], "'rate=10' is no setting; give one of method, ratio"),
        (["method=best"], "method is 'best'; give one of blocks"),
        (["ratio=900"], "leaves no number for each word"),
    ],
)
def test_a_mistake_of_the_command(
    arguments: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: a traceback, or half a folder."""
    assert main([str(run), *arguments, f"--out={tmp_path / 'x'}"]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_no_run_and_a_result_that_is_there(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a result that is replaced without being asked."""
    assert main([str(tmp_path)]) == 1 and main([str(run), f"--out={tmp_path}"]) == 1
    assert "is no folder of a run" in (said := capsys.readouterr().err) and "add --force to replace it" in said


@pytest.mark.parametrize(("kind", "message"), [("bart", "no plain word table"), ("t5", "in several places")])
def test_tables_that_cannot_be_exchanged(kind: str, message: str) -> None:
    """Prevents: a scale of the words that is lost without a word, and a file that cannot be written after training."""
    from types import SimpleNamespace

    from transformers import AutoModelForSequenceClassification, BartConfig, T5Config

    from rwkd_lightning.systems.text.compression.build import DEFAULTS, exchanged

    sizes: Any = {"vocab_size": 40, "d_model": 16}
    if kind == "bart":
        layers = {f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
        configured: Any = BartConfig(**sizes, **layers, encoder_ffn_dim=8, decoder_ffn_dim=8, scale_embedding=True)
    else:
        configured = T5Config(**sizes, d_kv=8, d_ff=8, num_layers=1, num_heads=2)
    student: Any = SimpleNamespace(network=AutoModelForSequenceClassification.from_config(configured))
    with pytest.raises(UserError, match=message):
        exchanged(student, None, None, DEFAULTS, 8)  # type: ignore[arg-type]
