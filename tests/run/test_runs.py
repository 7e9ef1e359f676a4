"""A run's folder belongs to its data and models as they are, not as they are called; what changes no result does not
name it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from rwkd_lightning.cache.store import file_digest
from rwkd_lightning.run import inputs
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import finished
from tests.run.test_resume import power_cut

SHORTENED = (
    "+trainer.limit_train_batches=1",
    "+trainer.overfit_batches=1",
    "+trainer.max_time=00:00:00:00",
    "trainer.max_steps=1",
)


@pytest.mark.parametrize("option", SHORTENED)
def test_a_smoke_run_leaves_the_teacher_whole(option: str, arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a teacher of one batch in the cache, which every honest run after it distils from without a word."""
    arguments = [*arguments, "weighting=kd", "pair.teacher.epochs=1", "trainer.max_epochs=1"]
    finished(arguments, tmp_path / "smoke", option)
    after = finished(arguments, tmp_path / "after")
    whole = finished(arguments, tmp_path / "whole", f"cache_dir={tmp_path / 'other'}")
    assert after["cost"]["teacher_seconds"] is None and after["teacher"] == whole["teacher"]
    assert after["student"] == whole["student"]


def test_settings_without_a_result_change_no_byte_of_a_run(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: keys that are said to change nothing, so that their runs share a folder, and do change something."""
    arguments = [*arguments, "weighting=rwkd", "trainer.log_every_n_steps=1", "trainer.select=best"]
    one = finished(arguments, tmp_path / "one")
    other = finished(
        arguments,
        tmp_path / "other",
        "checkpoint.minutes=1e-6",
        "checkpoint.steps=3",
        "data.num_workers=1",
        "force=true",
        "+trainer.enable_progress_bar=false",
        f"cache_dir={tmp_path / 'cache2'}",
        "loss_terms.hidden.pool=mean",
    )
    for name in ("student/model.safetensors", "weights.parquet", "log/metrics.csv", "inputs.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name
    for result in (one, other):
        result.pop("cost")
    assert one == other


def swap_labels(csv: Path, _: Path) -> None:
    """Two rows change their labels."""
    lines = csv.read_text(encoding="latin-1").splitlines()
    rows = [next(i for i, line in enumerate(lines) if line.startswith(word)) for word in ("negative", "positive")]
    labels = [lines[row].split(",", 1)[0] for row in rows]
    for row, label in zip(rows, reversed(labels), strict=True):
        lines[row] = ",".join([label, *lines[row].split(",", 1)[1:]])
    csv.write_text("\n".join(lines) + "\n", encoding="latin-1")


def change_a_text(csv: Path, _: Path) -> None:
    """One row has another text."""
    csv.write_text(csv.read_text(encoding="latin-1").rstrip("\n") + " great\n", encoding="latin-1")


def change_the_model(_: Path, model: Path) -> None:
    """One weight of the student's model."""
    weights = load_file(model / "model.safetensors")
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + 1e-3}, model / "model.safetensors", metadata={"format": "pt"})


CHANGES: dict[Callable[[Path, Path], None], str] = {
    swap_labels: "has other values in its",
    change_a_text: "has other values in its",
    change_the_model: "files of the student are others",
}


@pytest.fixture
def own(arguments: list[str], tweets: Path, backbone: Path, tmp_path: Path) -> tuple[list[str], Path, Path]:
    """Arguments with a copy of the data and of the student's model, which a test may change."""
    csv, model = tmp_path / "tweets.csv", tmp_path / "model"
    shutil.copy(tweets, csv)
    shutil.copytree(backbone, model)
    return (
        [*arguments, f"data.path={csv}", f"pair.student.path={model}", "weighting=rwkd", "pair.teacher.epochs=1"],
        csv,
        model,
    )


@pytest.mark.parametrize("change", list(CHANGES), ids=lambda change: change.__name__)
def test_an_interrupted_run_does_not_go_on_with_other_inputs(
    change: Callable[[Path, Path], None], own: tuple[list[str], Path, Path], tmp_path: Path
) -> None:
    """Prevents: a student, evidence and a bank of the old data that are trained on with the new, without a word."""
    arguments, csv, model = own
    with power_cut(6, True):
        finished(arguments, tmp_path / "run", "checkpoint.steps=1")
    before = csv.read_bytes(), (model / "model.safetensors").read_bytes()
    change(csv, model)
    with pytest.raises(UserError) as caught:
        finished(arguments, tmp_path / "run")
    assert CHANGES[change] in str(caught.value) and "force=true" in str(caught.value) and "\n" not in str(caught.value)

    fresh = finished(arguments, tmp_path / "fresh")
    begun_again = finished(arguments, tmp_path / "run", "force=true")
    assert begun_again["student"] == fresh["student"] and begun_again["cost"]["steps"] == fresh["cost"]["steps"]
    csv.write_bytes(before[0])
    (model / "model.safetensors").write_bytes(before[1])
    with power_cut(6, True):
        finished(arguments, tmp_path / "back", "checkpoint.steps=1")
    change(csv, model)
    with pytest.raises(UserError, match="put them back to go on"):
        finished(arguments, tmp_path / "back")
    csv.write_bytes(before[0])
    (model / "model.safetensors").write_bytes(before[1])
    assert finished(arguments, tmp_path / "back")["cost"]["steps"] == fresh["cost"]["steps"]


@pytest.mark.parametrize("change", list(CHANGES), ids=lambda change: change.__name__)
def test_a_finished_run_says_that_its_inputs_are_others_now(
    change: Callable[[Path, Path], None],
    own: tuple[list[str], Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Prevents: the table of the old data taken for that of the new."""
    arguments, csv, model = own
    finished(arguments, tmp_path / "run")
    finished(arguments, tmp_path / "run")
    assert "already finished" in capsys.readouterr().out
    change(csv, model)
    with pytest.raises(UserError, match=f"the table above is of other inputs .*{CHANGES[change]}.*force=true"):
        finished(arguments, tmp_path / "run")
    csv.unlink()
    assert finished(arguments, tmp_path / "run")["cost"]["steps"] == 8
    assert "could not be compared" in capsys.readouterr().out


def test_fewer_rows_are_counted_and_other_code_is_named(tmp_path: Path) -> None:
    """Prevents: a line that says that something changed, but not what."""

    def of(rows: int, sha256: str, files: Any, version: str) -> inputs.Inputs:
        return {
            **inputs.inputs({"train": (rows, sha256)}, {"student": files}),
            "code": {"rwkd_lightning": {"version": version}},
        }

    before, now = of(270, "a", {"x": "1"}, "0.1.0"), of(234, "b", {"x": "2"}, "0.2.0")
    assert inputs.changes(before, before) == []
    assert inputs.changes(before, now) == [
        "rwkd_lightning 0.1.0 is 0.2.0 now",
        "split 'train' had 270 rows and has 234 now",
        "the files of the student are others",
    ]
    inputs.write(tmp_path, before)
    assert inputs.read(tmp_path) == before
    inputs.check(tmp_path, now)  # no checkpoint: nothing was begun
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-000000001-0123456789abcdef.ckpt").touch()
    inputs.check(tmp_path, before)
    with pytest.raises(UserError, match="270 rows and has 234"):
        inputs.check(tmp_path, now)
    (tmp_path / inputs.FILE).write_text("{")
    with pytest.raises(UserError, match="begun by another version"):
        inputs.check(tmp_path, before)


def test_a_cache_that_was_filled_again_is_noticed(own: tuple[list[str], Path, Path], tmp_path: Path) -> None:
    """Prevents: half of a distillation from one teacher and half from another, where a cache was cleared in between."""
    arguments, *_ = own
    with power_cut(6, True):
        finished(arguments, tmp_path / "run", "checkpoint.steps=1")
    (kept,) = (tmp_path / "cache/teacher").glob("*/model.safetensors")
    weights = {name: value * 1.001 for name, value in load_file(kept).items()}
    save_file(weights, kept, metadata={"format": "pt"})
    key = json.loads((kept.parent / "key.json").read_text())
    key["files"][kept.name] = file_digest(kept)
    (kept.parent / "key.json").write_text(json.dumps(key))
    with pytest.raises(UserError, match="the files of the trained teacher are others"):
        finished(arguments, tmp_path / "run")


def test_what_a_kill_at_the_end_has_left(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: checkpoints of ten times the student's size that nobody removes, where a kill came after the result."""
    finished(arguments, tmp_path / "run", "weighting=kd")
    (tmp_path / "run/checkpoints").mkdir()
    (tmp_path / "run/checkpoints/last.ckpt").write_bytes(b"half")
    finished(arguments, tmp_path / "run", "weighting=kd")
    assert not (tmp_path / "run/checkpoints").exists()
