"""The rows of a finished run, the least trusted first."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score

from rwkd_lightning.audit.__main__ import main
from rwkd_lightning.run.system import Run
from rwkd_lightning.systems.text.audit import dealt, label_score
from rwkd_lightning.systems.topics.system import TopicSystem
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import finished


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def page_of(file: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', file.read_text(), re.DOTALL)
    assert found is not None
    result: dict[str, Any] = json.loads(found[1])
    return result


def mean_of_epochs(run: Path, column: str) -> Any:
    return np.mean([pq.read_table(file)[column].to_numpy() for file in sorted((run / "epochs").glob("*"))], axis=0)


def test_the_ranking_of_a_run(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: the scores of one row beside the text of another, of the clean label in place of the one trained on, or
    of a teacher without its noise; a figure that is not that of the ranking.
    """
    run = tmp_path / "run"
    finished([*arguments, "data.label_noise=0.3", "data.teacher_noise=0.2"], run, "weighting=rwkd")
    capsys.readouterr()
    assert main([str(run)]) == 0
    said = capsys.readouterr().out
    table = pq.read_table(run / "weights.parquet").to_pandas().set_index("idx", drop=False)
    (logits,) = (tmp_path / "cache/logits").glob("*/logits.safetensors")
    theirs = load_file(logits)["train"].astype(np.float64)
    corrupted = table.teacher_corrupted.to_numpy()
    theirs[corrupted] = np.roll(theirs[corrupted], 1, axis=1)
    teacher = -log_softmax(theirs, axis=1)[np.arange(len(table)), table.label.to_numpy()]
    student = mean_of_epochs(run, "loss_ce")
    follows = np.exp(-mean_of_epochs(run, "loss_kd") / 2)
    for name, score, flags in (
        ("labels", follows * teacher + (1 - follows) * student, table.label_flipped),
        ("teacher", table.loss_kd.to_numpy(), table.teacher_corrupted),
    ):
        rows = rows_of(run / f"audit/{name}.csv")
        assert [int(row["rank"]) for row in rows] == list(range(1, 65))
        expected = dict(zip(table.idx, score, strict=True))
        assert [float(row["score"]) for row in rows] == pytest.approx(
            [expected[int(row["idx"])] for row in rows], abs=1e-4
        )
        assert [float(row["score"]) for row in rows] == sorted((float(row["score"]) for row in rows), reverse=True)
        area = f"area under the ROC curve {roc_auc_score(flags, score):.3f}"
        assert area in said
    classes = ("negative", "neutral", "positive")
    texts = {row["text"]: row["sentiment"] for row in rows_of(Path(arguments[0].split("=")[1]))}
    for row in rows:
        assert row["label"] == classes[table.label[int(row["idx"])]]
        assert (texts[row["text"]] != row["label"]) is (row["label_flipped"] == "True")
        said_by = max(classes, key=lambda name: float(row[f"teacher_{name}"]))
        assert row["suggested"] == said_by
    page = page_of(run / "audit/index.html")
    assert (
        sorted(row["idx"] for row in page["rows"]) == sorted(table.idx) and len(page["rows"][0]["weights"]["ce"]) == 2
    )
    first = min(page["rows"], key=lambda row: row["ranks"]["label"])
    assert first["idx"] == int(rows_of(run / "audit/labels.csv")[0]["idx"])


def test_what_is_not_known_does_not_count() -> None:
    """Prevents: a row without a rank since a training that was cut short has not seen it, or the teacher is silent."""
    nan = float("nan")
    teacher, student = torch.tensor([1.0, nan, 3.0, nan, 5.0]), torch.tensor([2.0, 4.0, nan, nan, 6.0])
    apart = torch.tensor([2 * math.log(2), 9.0, nan, nan, nan])
    expected = torch.tensor([1.5, 4.0, 3.0, nan, 5.0])
    torch.testing.assert_close(label_score(teacher, student, apart), expected, equal_nan=True)


def own(arguments: list[str], tmp_path: Path, rows: list[dict[str, Any]], *more: str) -> list[str]:
    """A run of a table of one's own."""
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    kept = [a for a in arguments if not a.startswith(("task", "data.path", "pair.teacher.epochs"))]
    return [*kept, "task=table", f"data.train={file}", "pair.teacher.epochs=1", *more]


def test_out_of_fold(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a teacher that is asked for rows which it was trained on, or of whose text it has seen a copy."""
    keys = ["a", "b", "a", "c", "d", "e", "b"]
    folds = dealt(keys, 3, 0)
    assert len({(key, fold) for key, fold in zip(keys, folds.tolist(), strict=True)}) == 5
    assert sorted(np.bincount(folds[[0, 1, 3, 4, 5]]).tolist()) == [1, 2, 2]

    rows = [
        {"text": f"{'good' if i % 2 else 'bad'} table {i % 50}", "label": "yes" if i % 2 else "no"} for i in range(120)
    ]
    finished(own(arguments, tmp_path, rows), tmp_path / "run", "weighting=kd")
    before = set((tmp_path / "cache/teacher").glob("*/key.json"))
    assert (
        main([str(tmp_path / "run")]) == 0
        and "has learnt some of their wrong labels: --folds 5" in capsys.readouterr().out
    )
    plain = rows_of(tmp_path / "run/audit/labels.csv")
    assert main([str(tmp_path / "run"), "--folds", "2"]) == 0
    asked = rows_of(tmp_path / "run/audit/labels.csv")
    new = set((tmp_path / "cache/teacher").glob("*/key.json")) - before
    assert len(new) == 2 and len({json.loads(file.read_text())["key"]["data"] for file in new}) == 2
    assert {row["idx"] for row in asked} == {row["idx"] for row in plain} and asked != plain
    assert "each asked for rows that it has not seen" in capsys.readouterr().out


KINDS: dict[str, tuple[list[dict[str, Any]], list[str], str]] = {
    "regression": (
        [{"text": f"{'good' if i % 2 else 'bad'} table {i}", "label": i % 7 / 7} for i in range(120)],
        ["data.regression=true"],
        r"^[-0-9.]+$",
    ),
    "several labels": (
        [{"text": f"the good table {i}", "label": ["a"] * (i % 2) + ["b"] * (i % 3 == 0)} for i in range(120)],
        ["data.multilabel=true"],
        r"^(a|b|a; b|no label)$",
    ),
    "teacher in a file": (
        [
            {"text": f'a </script><b>"good"</b> & table {i}', "label": "yn"[i % 2] if i % 9 else None}
            | {"said": {"y": -0.1, "n": -2.4} if i % 5 else None}
            for i in range(120)
        ],
        ["pair.teacher.path=file", "data.teacher_logprobs=said"],
        r"^(y|n|)$",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_labels(kind: str, arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a crash, a score for a row without a label, and a text that ends the page's script."""
    rows, more, suggested = KINDS[kind]
    finished(own(arguments, tmp_path, rows, *more), tmp_path / "run", "weighting=kd")
    assert main([str(tmp_path / "run"), "-o", str(tmp_path / "out")]) == 0
    found = rows_of(tmp_path / "out/labels.csv")
    page = page_of(tmp_path / "out/index.html")
    assert {row["text"][0] for row in page["rows"]} <= {row["text"] for row in rows}
    assert all(re.match(suggested, row["suggested"]) for row in found)
    unlabelled = {row["text"] for row in rows if row["label"] is None}
    assert {row["text"] for row in found if row["label"] == ""} == unlabelled
    assert all((row["score"] == "") is (row["label"] == "") for row in found)
    if kind == "teacher in a file":
        assert main([str(tmp_path / "run"), "--folds", "2"]) == 1


def test_the_page_of_the_documentation(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: a documented command that is refused, or a file of another name than the page says."""
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"{'good' if i % 2 else 'bad'} table {i}", "label": "yn"[i % 2]} for i in range(120)]
    finished(own(arguments, tmp_path, rows), tmp_path / "RUN", "weighting=kd")
    (block,) = re.findall(r"```bash\n(.*?)```", (Path(__file__).parents[2] / "docs/audit.md").read_text(), re.S)
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [words[:3] for words in lines] == [["python", "-m", "rwkd_lightning.audit"]] * 3
    for words in lines:
        assert main(words[3:]) == 0, capsys.readouterr().err
    for folder in ("RUN/audit", "DIR"):
        assert sorted(path.name for path in Path(folder).iterdir()) == ["index.html", "labels.csv", "teacher.csv"]


def test_what_cannot_be_audited(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a traceback, hours of a teacher's training for a run whose teacher is gone, a folder of the user's that
    is replaced.
    """
    run = tmp_path / "run"
    finished(arguments, run, "weighting=kd")
    capsys.readouterr()

    def refused(*given: str) -> str:
        assert main(list(given)) == 1
        said = capsys.readouterr().err.strip()
        assert "\n" not in said
        return said

    topics, place = TopicSystem.__new__(TopicSystem), Run(run, *[None] * 5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"rows of TopicSystem cannot be audited; .*weights.parquet has them"):
        topics.audit(place, {}, 0)
    assert "is no folder of a run" in refused(str(tmp_path / "nowhere"))
    assert "--folds=1; give 2 or more" in refused(str(run), "--folds", "1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    assert "exists and is no audit" in refused(str(run), "-o", str(tmp_path / "mine"))
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    assert refused(str(run)).startswith("the audit asks the run's teacher, and it is not in the cache")
    (run / "metrics.json").unlink()
    assert "not finished" in refused(str(run))
