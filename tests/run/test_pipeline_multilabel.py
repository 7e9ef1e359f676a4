"""Runs with several labels per row: every method, teachers with such a head, what is shipped."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from rwkd_lightning.export.__main__ import main as export
from rwkd_lightning.predict.__main__ import main as predict
from rwkd_lightning.report import rows as scored
from rwkd_lightning.systems.text.data.table import load_table
from rwkd_lightning.systems.text.data.task import column
from rwkd_lightning.systems.text.models import load_classifier
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import METHODS, finished

NAMES = ("food", "place", "staff")
WORDS = {"food": "good", "place": "table", "staff": "bad"}
PAGE = (Path(__file__).parents[2] / "docs/own_data.md").read_text()
OF_CLASSES = {"tgeo", "wls", "teacher_confidence"}
"""Methods that read the probability of the one true class."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that name their labels, with a weight; the last ones' labels are not known."""
    file = tmp_path_factory.mktemp("table") / "posts.jsonl"
    rows = []
    for i in range(200):
        labels = [[], ["food"], ["place"], ["staff"], ["food", "staff"]][i % 5]
        text = " ".join([*(WORDS[name] for name in labels), "the", f"a{i}"])
        rows.append({"text": text, "labels": labels if i < 190 else None, "trust": 0.5 + i % 2})
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return file


@pytest.fixture(scope="module")
def own(table: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a tiny run; one cache, so that one teacher is trained."""
    return [
        "task=table",
        f"data.train={table}",
        "data.label=labels",
        "data.multilabel=true",
        f"pair.teacher.path={backbone}",
        f"pair.student.path={backbone}",
        "pair.student.layers=[1]",
        "pair.teacher.epochs=15",
        "pair.teacher.lr=3e-3",
        "optimizer.lr=3e-3",
        "data.max_length=16",
        "data.batch_size=8",
        "meta.batch_size=8",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        f"cache_dir={tmp_path_factory.mktemp('cache')}",
        f"runs_dir={tmp_path_factory.mktemp('runs')}",
    ]


def test_a_new_head_begins_at_the_labels_shares(table: Path, backbone: Path, run: Path) -> None:
    """Prevents: a training that first unlearns that every label is as likely as not; shares of held-out rows."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    data = load_table(str(table), "text", "labels", multilabel=True)
    task = data.task
    learning = [rows[i]["labels"] for i in column(data.splits["train"], "idx") if rows[i]["labels"] is not None]
    shares = [(sum(name in labels for labels in learning) + 1) / (len(learning) + 2) for name in NAMES]
    assert task.label_shares == pytest.approx(shares) and len(learning) < 150
    for path, new_head in ((backbone, False), (run / "student", True)):
        head = load_classifier(str(path), task, new_head=new_head).head
        assert head is not None and head.bias.sigmoid().tolist() == pytest.approx(shares, abs=1e-6)
    trained = load_classifier(str(run / "student"), task, trained=True).head
    saved = load_file(run / "student/model.safetensors")
    assert trained is not None and torch.equal(trained.bias, saved["classifier.bias"])


@pytest.mark.parametrize("method", [*METHODS, "given"])
def test_every_method_runs_or_says_why_not(method: str, own: list[str], tmp_path: Path) -> None:
    """Prevents: a method that reads a row of 0 and 1 as the numbers of classes."""
    arguments = [*own, f"weighting={method}"]
    arguments += {"oracle": ["data.teacher_noise=0.3"], "given": ["data.weight=trust"]}.get(method, [])
    if method in OF_CLASSES:
        said = f"weighting={method}.* is for classes, and task=table is a multi-label task; use .*weighting="
        with pytest.raises(UserError, match=said):
            finished(arguments, tmp_path)
        return
    result = finished(arguments, tmp_path / "run")
    assert result["weighting"] == method and result["metric"] == "macro_f1"
    for metric in ("macro_f1", "micro_f1"):  # the score again, from the rows that the run leaves
        assert scored.read(tmp_path / "run", "test", metric, result["student"]["test"][metric]) is not None
    weights = pq.read_table(tmp_path / "run/weights.parquet").to_pydict()
    soft = "w_annealed_mse" if method == "annealing_kd" else "w_bernoulli_kd"
    assert {"w_bce", soft} <= set(weights)
    unknown = [labels[0] < 0 for labels in weights["label"]]
    assert sum(unknown) == 10  # of train alone
    assert [weight is None for weight in weights["w_bce"]] == unknown


@pytest.fixture(scope="module")
def run(own: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose student knows its labels."""
    folder = tmp_path_factory.mktemp("run")
    result = finished([*own, "trainer.max_epochs=12"], folder, "weighting=kd")
    assert min(result[who]["test"]["map"] for who in ("teacher", "student")) > 0.9
    return folder


def test_a_teacher_with_such_a_head(run: Path, own: list[str], tmp_path: Path, arguments: list[str]) -> None:
    """Prevents: a teacher's labels taken in another order, for other labels, or as exclusive classes, in silence."""
    student = run / "student"
    taken = [*own, f"pair.teacher.path={student}", "pair.teacher.epochs=0"]
    result = finished([*taken, "data.classes=[staff,food,place]"], tmp_path / "a", "weighting=kd")
    assert result["teacher"]["test"]["map"] > 0.9  # of other rows: the order of the labels decides how they are cut

    with pytest.raises(UserError, match=r"has the classes food, place, staff, task table has 0, 1, 2; give"):
        columns = tmp_path / "columns.csv"
        columns.write_text("text,0,1,2\n" + "".join(f"t{i},{i % 2},{i // 2 % 2},{i // 4 % 2}\n" for i in range(80)))
        finished([*taken, f"data.train={columns}", "data.label=['0','1','2']"], tmp_path / "b", "weighting=kd")
    with pytest.raises(UserError, match="multi-label or sigmoid head .*task tweets has one label per row; give"):
        finished([*arguments, *taken[-2:]], tmp_path / "c", "weighting=kd")

    network = AutoModelForSequenceClassification.from_pretrained(student)
    network.config.problem_type = "single_label_classification"
    network.save_pretrained(tmp_path / "single")
    AutoTokenizer.from_pretrained(student).save_pretrained(tmp_path / "single")
    with pytest.raises(UserError, match="head for one class per text, and task table has several labels per row; give"):
        finished([*taken, f"pair.teacher.path={tmp_path / 'single'}"], tmp_path / "d", "weighting=kd")


def test_two_teachers(own: list[str], run: Path, tmp_path: Path) -> None:
    """Prevents: a mean of probabilities that are made to have the sum 1, a term that reads the mean in place of one."""
    other = tmp_path / "other"
    network = AutoModelForSequenceClassification.from_pretrained(run / "student")
    network.classifier.bias.data += torch.tensor([1.0, -1.0, 0.5])
    network.save_pretrained(other)
    AutoTokenizer.from_pretrained(run / "student").save_pretrained(other)
    pair = [
        f"pair.teacher.path=[{run / 'student'},{other}]",
        "pair.teacher.epochs=0",
        "pair.teacher.mean=probabilities",
    ]
    cache = [f"cache_dir={tmp_path / 'cache'}", "terms=[bce,bernoulli_kd_1,bernoulli_kd_2,bernoulli_kd]"]
    result = finished([*own, *pair, *cache], tmp_path / "run", "weighting=rwkd")
    members = [load_file(file)["test"] for file in (tmp_path / "cache/logits").glob("*/logits.safetensors")]
    assert len(members) == 2 and not torch.equal(*members)
    data = load_table(own[1].removeprefix("data.train="), "text", "labels", multilabel=True)
    labels = data.task.targets(column(data.splits["test"], "label"))
    shares = torch.stack(members).sigmoid().mean(0).numpy()
    expected = f1_score(labels, shares > 0.5, average="micro", zero_division=0)
    assert result["teacher"]["test"]["micro_f1"] == pytest.approx(expected)
    weights = pq.read_table(tmp_path / "run/weights.parquet").to_pydict()
    first, second, mean = (weights[f"loss_bernoulli_kd{name}"] for name in ("_1", "_2", ""))
    assert first != second and first != mean != second


def test_the_page_is_true(own: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Prevents: a command in docs/own_data.md that cannot be typed, or that reads other labels than it says."""
    section = PAGE.split("## Several labels per row")[1].split("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.S)
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) == 2
    topics = ["sport", "politics", "music"]
    lines = ["text,topics," + ",".join(topics)]
    for i in range(96):
        flags = [i >> bit & 1 for bit in range(3)]
        named = "|".join(name for name, flag in zip(topics, flags, strict=True) if flag)
        lines.append(f"good a{i},{named}," + ",".join(map(str, flags)))
    monkeypatch.chdir(tmp_path)
    Path("posts.csv").write_text("\n".join(lines) + "\n")
    tiny = [a for a in own if not a.startswith(("task=", "data.train=", "data.label=", "data.multilabel="))]
    for i, command in enumerate(commands):
        assert command[:2] == ["python", "train.py"]
        result = finished([*command[2:], *tiny, "pair.teacher.epochs=1"], tmp_path / f"run{i}")
        assert set(result["student"]["test"]) == {"micro_f1", "macro_f1", "map"}
        config = AutoConfig.from_pretrained(tmp_path / f"run{i}/student")
        assert sorted(config.id2label.values()) == sorted(topics)


def test_an_export_gives_the_same_probabilities(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a shipped student whose probabilities have the sum 1, a card that shows one label only."""
    out = tmp_path / "out"
    assert export([str(run), "-o", str(out), "--int8", "--compare"]) == 0
    assert "test macro_f1" in capsys.readouterr().out
    assert AutoConfig.from_pretrained(out).problem_type == "multi_label_classification"
    card = (out / "README.md").read_text()
    assert (
        "any of 3 labels, those whose own probability is above 0.5: food, place, staff" in card and "top_k=None" in card
    )
    texts = ["the good table a1", "the bad a2", "it is"]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    classify = pipeline("text-classification", model=str(out))
    options = {"top_k": None, "function_to_apply": "sigmoid"}
    expected = [{one["label"]: one["score"] for one in row} for row in classify(texts, **options)]
    said = [{one["label"]: one["score"] for one in row} for row in classify(texts, top_k=None)]  # by problem_type
    assert said == expected
    own = AutoTokenizer.from_pretrained(out)
    network = AutoModelForSequenceClassification.from_pretrained(out).eval()
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    for text, row in zip(texts, expected, strict=True):
        given = own([text], return_tensors="pt")
        with torch.no_grad():
            shares = network(**given).logits.sigmoid()[0]
        assert dict(zip(NAMES, shares.tolist(), strict=True)) == pytest.approx(row, abs=1e-5)
        (logits,) = session.run(["logits"], {one.name: given[one.name].numpy() for one in session.get_inputs()})
        torch.testing.assert_close(torch.from_numpy(logits)[0].sigmoid(), shares, atol=1e-5, rtol=0)
    for source, *form in ([run], [out], [out, "--onnx"]):
        new, answers = str(tmp_path / "new.jsonl"), str(tmp_path / "p.jsonl")
        assert predict([str(source), new, "-o", answers, "--force", *map(str, form)]) == 0
        found = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
        for answer, row in zip(found, expected, strict=True):
            assert {name: answer[f"probability_{name}"] for name in NAMES} == pytest.approx(row, abs=1e-5)
            assert answer["predicted_labels"] == ";".join(name for name in NAMES if row[name] > 0.5)
