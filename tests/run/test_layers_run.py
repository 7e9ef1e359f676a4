"""Runs whose student learns from what its teacher's blocks would answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from rwkd_lightning.systems.text import teacher_states
from rwkd_lightning.utils.errors import UserError
from tests.distributed.two_runs import check_one, two_and_one
from tests.run.test_pipeline_run import finished
from tests.run.test_resume import NOISE, check_same, power_cut

DEEP = "pair.student.layers=null"  # two blocks, of which one has a head


@pytest.mark.parametrize(
    "more",
    [
        ["weighting=kd", "terms=[ce,kd,layer_kd]"],
        ["weighting=staged", "terms=[ce,kd,layer_kd,layer_ce]"],
        ["weighting=rwkd", "meta=all", "terms=[ce,kd,layer_kd.0,hidden]"],
        ["weighting=rwkd", "terms=[ce,kd,assistants]"],  # of logits: the bank sees it
        ["weighting=dwa", "terms=[ce,kd,layer_kd,assistants]", "loss_terms.assistants.mix=ascending"],
        ["weighting=rwkd", "meta=all", "terms=[ce,kd,layer_kd]", "loss_terms.layer_kd.energy=learned"],
    ],
    ids=lambda more: " ".join(more),
)
def test_a_whole_run(more: list[str], warm: list[str], tmp_path: Path) -> None:
    """Prevents: heads that are shipped, terms without a column, and columns that are empty."""
    result = finished(warm, tmp_path / "run", DEEP, "loss_terms.layer_kd.pool=mean", *more)
    (terms,) = (one.removeprefix("terms=[").rstrip("]").split(",") for one in more if one.startswith("terms="))
    table = pyarrow.parquet.read_table(tmp_path / "run/weights.parquet").to_pydict()
    for term in terms:
        assert torch.tensor(table[f"loss_{term}"]).std() > 0
    assert not [key for key in load_file(tmp_path / "run/student/model.safetensors") if "terms" in key]
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == result


def test_exact_resume(warm: list[str], tmp_path: Path, last: dict[str, dict[str, Any]]) -> None:
    """Prevents: the student's heads that are not in the checkpoint, the teacher's that are drawn anew."""
    options = [*NOISE, DEEP, "weighting=rwkd", "meta=all", "terms=[ce,kd,layer_kd]", "trainer.log_every_n_steps=1"]
    finished(warm, tmp_path / "whole", *options)
    with power_cut(3, True):
        finished(warm, tmp_path / "cut", *options, "checkpoint.steps=3")
    finished(warm, tmp_path / "cut", *options)
    check_same(tmp_path / "whole", tmp_path / "cut", last)


def test_noise_reaches_all_layers_alike(warm: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a corrupted teacher whose layers still tell the truth; and a last layer that is not the teacher."""
    seen: list[Any] = []
    real = teacher_states.inside_of

    def inside_of(*arguments: Any) -> Any:
        seen.append(real(*arguments))
        return seen[-1]

    from rwkd_lightning.systems.text import system

    monkeypatch.setattr(system, "inside_of", inside_of)
    batches: list[Any] = []
    loaders = system.TextSystem.loaders

    def kept(self: Any, *arguments: Any) -> Any:
        batches.append(loaders(self, *arguments))
        return batches[-1]

    monkeypatch.setattr(system.TextSystem, "loaders", kept)
    finished(warm, tmp_path / "run", DEEP, "weighting=kd", "terms=[ce,kd,layer_kd]", "data.teacher_noise=0.4")
    ((clean,), extras) = (seen[0].states.values(), batches[0].rows("train").extras)
    flags, rolled = extras["teacher_corrupted"], extras["teacher_layer_logits_cls"]
    assert 0 < int(flags.sum()) < len(flags)
    torch.testing.assert_close(rolled[:, -1], extras["teacher_logits"])
    torch.testing.assert_close(rolled[~flags], clean[~flags])
    torch.testing.assert_close(rolled[flags], clean[flags].roll(1, 2))


def test_two_processes_are_one(warm: list[str], tmp_path: Path) -> None:
    """Prevents: heads that each process trains for itself."""
    given = [*warm, "weighting=rwkd", "meta=all", "meta.start=0", "trainer.precision=64-true", "trainer.max_epochs=2"]
    given += ["pair.student.kind={name: cnn, hidden_size: 8, num_hidden_layers: 2, dropout: 0.0}", DEEP]
    given += ["terms=[ce,kd,layer_kd.0]", "loss_terms.layer_kd.pool=mean"]
    check_one(two_and_one(given, tmp_path), ("w_ce", "w_layer_kd.0", "influence_layer_kd.0", "loss_layer_kd.0"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["terms=[ce,kd,layer_kd]"], "'layer_kd' reads the student's layer_kd, which do not depend on .*meta=all"),
        (["terms=[ce,kd,layer_kd.5]", "meta=all"], "'layer_kd.5' names part 5, and the student has 1"),
        (["terms=[ce,kd,hidden.0]"], "'hidden.0' is not known"),
        (["terms=[ce,kd,layer_kd]", "meta=all", "loss_terms.layer_kd.teacher_layers=[9]"], r"teacher_layers=\[9\]"),
        (["terms=[ce,kd]", "weighting=staged", "weighting.stage_one=0"], "must lie in"),
        (["terms=[ce]", "weighting=staged"], "staged has a stage for what is distilled"),
    ],
)
def test_a_mistake_is_told_before_the_teacher_is_trained(
    overrides: list[str], message: str, warm: list[str], tmp_path: Path
) -> None:
    """Prevents: minutes of training before the first word of what is wrong."""
    with pytest.raises(UserError, match=message):
        finished([*warm, DEEP, f"cache_dir={tmp_path / 'empty'}", *overrides], tmp_path / "run")
    assert not (tmp_path / "empty/teacher").exists()
