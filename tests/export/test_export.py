"""An export answers as its run does, in every form, and says the truth about itself."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from rwkd_lightning.export import compare, hub, onnx_model
from rwkd_lightning.export.__main__ import main, onnx_form
from rwkd_lightning.export.shipped import Card, Shipment, describe, load
from rwkd_lightning.run.distil import clear
from rwkd_lightning.run.system import System
from rwkd_lightning.systems.text.build import data_of
from rwkd_lightning.systems.text.shipped import TextModel
from rwkd_lightning.systems.topics.system import TopicSystem
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_pairs import run_in
from tests.run.tiny import overrides
from tests.systems.text.models.conftest import KINDS

TEXTS = ["w1 w2", "w3", "w4 w5 w6 w7 w8 w9 w1 w2 w3 w4 w5", "w1 w1 w2 w3 w5"]
NAMES = ["neg", "mid", "pos"]


def rows(run: Path, split: str = "test") -> tuple[list[str], list[int]]:
    """Texts and labels of a split of the run's data."""
    from omegaconf import OmegaConf

    found = data_of(OmegaConf.load(run / "config.yaml")).splits[split]  # type: ignore[arg-type]
    return list(found["text"]), list(found["label"])


def test_a_pipeline_and_onnx_runtime_answer_as_the_student(run: Path, out: Path) -> None:
    """Prevents: a folder that loads and gives other classes, names or numbers than those that metrics.json scores; an
    ONNX file that is right for the shape it was traced with only.
    """
    texts, labels = rows(run)
    metrics = json.loads((run / "metrics.json").read_text())
    student, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(run / "student").eval(),
        AutoTokenizer.from_pretrained(run / "student"),
    )
    with torch.no_grad():
        alone = torch.cat([student(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    classify = pipeline("text-classification", model=str(out), top_k=None)
    said = [{one["label"]: one["score"] for one in row} for row in classify(texts, truncation=True)]
    names = ["negative", "neutral", "positive"]
    shares = torch.tensor([[row[name] for name in names] for row in said])
    torch.testing.assert_close(shares, alone.softmax(1), atol=1e-5, rtol=1e-5)
    right = sum(names[y] == max(row, key=row.__getitem__) for row, y in zip(said, labels, strict=True))
    assert right / len(texts) == pytest.approx(metrics["student"]["test"]["accuracy"])
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    own = AutoTokenizer.from_pretrained(out)
    for chunk in (slice(0, 1), slice(1, 8), slice(0, None)):
        given = own(texts[chunk], padding=True, truncation=True, return_tensors="np")
        (logits,) = session.run(["logits"], {one.name: given[one.name] for one in session.get_inputs()})
        np.testing.assert_allclose(logits, alone[chunk], atol=1e-5)
    assert own(" ".join(["good"] * 60), truncation=True)["input_ids"].__len__() == 32  # data.max_length of the run


def test_the_table_and_its_json_are_true(run: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a teacher's score beside the student's name, sizes of other files, a difference that is not printed."""
    assert main([str(run), "--int8", "--compare", "--force"]) == 0
    printed = capsys.readouterr().out
    found, metrics = json.loads((out / "comparison.json").read_text()), json.loads((run / "metrics.json").read_text())
    forms = found["models"]
    assert list(forms) == ["teacher", "student", "ONNX", "ONNX int8"] and found["split"] == "test"
    assert forms["teacher"]["accuracy"] == metrics["teacher"]["test"]["accuracy"]
    assert forms["student"]["accuracy"] == forms["ONNX"]["accuracy"] == metrics["student"]["test"]["accuracy"]
    for name, file in (("student", "model.safetensors"), ("ONNX", "model.onnx"), ("ONNX int8", "model_int8.onnx")):
        assert forms[name]["bytes"] == (out / file).stat().st_size
        assert 0 < forms[name]["batch_1_p50_ms"] <= forms[name]["batch_1_p95_ms"]
        assert 0 < forms[name]["batch_32_p50_ms"] <= forms[name]["batch_32_p95_ms"]
    assert re.search(r"largest difference from PyTorch \d\.\de-0[5-9] on 24 rows of test", printed)
    assert re.search(r"ONNX int8: test accuracy 0\.\d{4}, with floats 0\.\d{4}", printed)
    assert all(re.search(rf"^{name} +[01]\.\d{{4}} ", printed, re.M) for name in forms)


def test_percentiles_and_rates() -> None:
    """Prevents: the 95th percentile of the wrong batch size, seconds taken for milliseconds."""
    found = compare.figures({"1": [1.0, 2.0, 3.0], "32": [10.0, 20.0], "texts": [0.5, 1.5]})
    assert found == pytest.approx(
        {
            "batch_1_p50_ms": 2.0,
            "batch_1_p95_ms": 2.9,
            "batch_32_p50_ms": 15.0,
            "batch_32_p95_ms": 19.5,
            "rows_per_second": 32.0,
        }
    )


def test_outputs_come_back_in_the_order_of_the_rows() -> None:
    """Prevents: answers of the row that is next in length."""

    class Lengths:
        def batch(self, columns: Any) -> dict[str, torch.Tensor]:
            return {"x": torch.tensor([[float(len(text))] for text in columns[0]])}

        def gathered(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
            return outputs

        def counts(self, columns: Any) -> list[int]:
            return [1] * len(columns[0])

    texts = ["aaa", "a", "aaaaa", "aa", ""]
    found = compare.outputs(Lengths(), lambda batch: batch["x"], [texts], "", size=2)  # type: ignore[arg-type]
    assert found[:, 0].tolist() == [3, 1, 5, 2, 0]


def test_outputs_of_rows_with_several_parts() -> None:
    """Prevents: parts of one row given to the next, where rows are asked in the order of their lengths."""

    class Letters:
        def batch(self, columns: Any) -> dict[str, torch.Tensor]:
            return {"x": torch.tensor([[float(ord(letter))] for word in columns[0] for letter in word])}

        def gathered(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
            return outputs

        def counts(self, columns: Any) -> list[int]:
            return list(map(len, columns[0]))

    model: Any = Letters()
    found = compare.outputs(model, lambda batch: batch["x"], [["bcd", "a", "efghi", "", "jk"]], "", size=2)
    assert "".join(chr(int(x)) for x in found[:, 0]) == "bcdaefghijk"
    few = compare.pick_outputs(model, found, [["bcd", "a", "efghi", "", "jk"]], [4, 0])
    assert "".join(chr(int(x)) for x in few[:, 0]) == "jkbcd"


def test_what_neither_form_reads_does_not_differ() -> None:
    """Prevents: an ONNX file that says nothing where PyTorch answers, taken for one that agrees."""
    ours = torch.tensor([[1.0, 2.0], [float("nan")] * 2])
    assert onnx_model.largest_difference(ours, ours.clone()) == 0
    with pytest.raises(UserError, match="by up to nan"):
        onnx_model.largest_difference(torch.ones(2, 2), ours)


def model_of(folder: Path, columns: int = 1) -> TextModel:
    """A saved classifier as a shipped one."""
    describe(folder, TextModel, text=["text", "more"][:columns], max_length=16)
    made = load(folder)
    assert isinstance(made, TextModel)
    return made


def shipment_of(model: TextModel) -> Shipment:
    """With rows that have no labels."""
    return Shipment(model, "test", [TEXTS] * len(model.columns), "none", lambda x: 0.0, Card({}, "", "", ""))


@pytest.mark.parametrize("kind", [*sorted(set(KINDS) - {"gpt2"}), "deberta", "albert", "modernbert", "xlnet", "bart"])
def test_kinds_of_models(kind: str, save: Callable[..., Path], tmp_path: Path) -> None:
    """Prevents: an ONNX file of a kind of model that drops its mask, its positions or a size that was traced."""
    shipment = shipment_of(model_of(save(kind, labels=NAMES)))
    ours = compare.outputs(shipment.student, compare.torch_call(shipment.student), shipment.columns, "")
    form, difference = onnx_form(tmp_path / "model.onnx", shipment, ours)
    assert difference < 1e-5 * max(1.0, float(ours.abs().max()))
    texts = [" ".join(["w5"] * 40), "w9", "w2 w3"] * 4  # longer ones, more of them, cut at max_length
    few = compare.outputs(shipment.student, compare.torch_call(shipment.student), [texts], "", size=1)
    torch.testing.assert_close(compare.outputs(shipment.student, form.call, [texts], "", size=12), few)


def test_a_pair_of_texts_and_a_regression(save: Callable[..., Path], tmp_path: Path) -> None:
    """Prevents: the second text left out; one number taken for one class."""
    model = model_of(save("bert", labels=1, problem_type="regression"), columns=2)
    shipment = shipment_of(model)
    ours = compare.outputs(model, compare.torch_call(model), shipment.columns, "")
    onnx_form(tmp_path / "model.onnx", shipment, ours)
    assert model.answers(ours, shipment.columns) == {"predicted_value": ours[:, 0].tolist()}
    alone = compare.outputs(model, compare.torch_call(model), [TEXTS, TEXTS[::-1]], "")
    assert not torch.allclose(ours, alone)


def test_a_whole_run_of_pairs_and_numbers(glue: Path, tweets: Path, backbone: Path, tmp_path: Path) -> None:
    """Prevents: an export that works for single texts and classes only; a card whose example does not run."""
    given = [a for a in overrides(tweets, backbone, tmp_path) if not a.startswith(("task.load", "data.path"))]
    run_in(tmp_path / "run", *given, "task=stsb", f"data.path={glue}", "weighting=kd", "meta.start=0")
    assert main([str(tmp_path / "run"), "--onnx", "--compare"]) == 0
    out = tmp_path / "run/export"
    compared, metrics = (
        json.loads(file.read_text()) for file in (out / "comparison.json", out.parent / "metrics.json")
    )
    for name in ("student", "ONNX"):
        found = compared["models"][name]["pearson"]
        assert found == pytest.approx(metrics["student"]["validation"]["pearson"], abs=0.01)  # nearly constant numbers
    (example,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.S)
    assert "text_pair" in example and 'function_to_apply="none"' in example
    exec(example.replace("stsb-kd", str(out)), {})


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("longformer", r"the ONNX model does not take input_ids \[\d+, \d+\]"),
        ("fnet", "cannot be exported to ONNX .*fft"),
    ],
)
def test_a_kind_that_onnx_does_not_take_is_named(
    kind: str, why: str, save: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Prevents: a traceback of the exporter, pages of its graph, a file that fails on a text of another length."""
    shipment = shipment_of(model_of(save(kind, labels=NAMES)))
    ours = compare.outputs(shipment.student, compare.torch_call(shipment.student), shipment.columns, "")
    with pytest.raises(UserError, match=f"{why}.*leave out --onnx") as caught:
        onnx_form(tmp_path / "model.onnx", shipment, ours)
    assert "\n" not in str(caught.value) and capfd.readouterr().out == ""


def test_a_file_that_answers_differently_is_not_kept(
    run: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a wrong ONNX model shipped with a right score."""
    real = TextModel.network

    def spoiled(self: TextModel) -> Any:
        network = real(self)
        with torch.no_grad():
            network.network.classifier.bias[1] += 0.01
        return network

    write = onnx_model.write

    def wrong(student: Any, *rest: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(TextModel, "network", spoiled)
            write(student, *rest)
        with torch.no_grad():
            student.classifier.network.classifier.bias[1] -= 0.01

    monkeypatch.setattr(onnx_model, "write", wrong)
    line = said(main, run, "--onnx", "-o", tmp_path / "out")
    assert "differ from PyTorch's by up to 0.01 on real rows" in line and "nothing was written" in line
    assert not list(tmp_path.iterdir())


def test_the_model_card_is_the_hubs_and_ours(run: Path, out: Path) -> None:
    """Prevents: a card that the hub does not read; scores of the teacher or of another split; paths of this machine."""
    card = ModelCard.load(out / "README.md")
    metrics, text = json.loads((run / "metrics.json").read_text()), (out / "README.md").read_text()
    assert card.data.pipeline_tag == "text-classification" and card.data.library_name == "transformers"
    assert {"knowledge-distillation", "rw-kd"} <= set(card.data.tags)
    scored = {(one.dataset_split, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert scored == {(s, m): value for s, scores in metrics["student"].items() for m, value in scores.items()}
    assert sorted(card.data.metrics) == ["accuracy", "macro_f1"]
    for wanted in (
        "negative, neutral, positive",
        "train 64",
        "`weighting=kd`",
        "seed 0",
        "speed at inference",
        "cut at 32 tokens",
        "10.18653/v1/2021.findings-emnlp.270",
        "its blocks 1",
    ):
        assert wanted in card.content, wanted
    assert str(run.parents[1]) not in text


# mistakes


def test_a_run_that_begins_again_drops_the_export(copied: Path) -> None:
    """Prevents: `predict RUN --onnx` that answers with the student of an earlier training."""
    (copied / "export").mkdir()
    clear(copied)
    assert not (copied / "export").exists() and (copied / "config.yaml").exists()


def test_a_system_without_exports_says_so() -> None:
    """Prevents: an AttributeError for a topic model, or for a system of somebody else's."""
    for kind, wanted in ((TopicSystem, "systems.topics.infer RUN/student FILE"), (System, "cannot be exported")):
        with pytest.raises(UserError, match=wanted):
            kind.shipment(object(), Path("RUN"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoil", "arguments", "wanted"),
    [
        (lambda run: (run / "config.yaml").unlink(), [], "is no folder of a run; give the one that `results in` names"),
        (lambda run: (run / "metrics.json").unlink(), [], "is not finished .*; repeat its train.py command"),
        (lambda run: (run / "export").mkdir() or (run / "export/a").touch(), [], "exists and is no export"),
        (
            lambda run: shutil.copytree(run / "student", run / "export"),
            [],
            "exists and is no export",
        ),
        (lambda run: main([str(run)]), [], "exists; add --force"),
        (lambda run: None, ["--push", "a b/c"], "is no name of a model on the hub; give it as USER/MODEL"),
        (lambda run: None, ["--push", "me/mine"], "the hub did not take it .*nothing was exported; log in with"),
    ],
)
def test_mistakes_get_one_line(
    spoil: Callable[[Path], object], arguments: list[str], wanted: str, copied: Path, said: Callable[..., str]
) -> None:
    """Prevents: a traceback; work that is done before a mistake is seen; somebody's folder replaced."""
    spoil(copied)
    before = sorted(copied.rglob("*"))
    assert re.search(wanted, said(main, copied, *arguments))
    assert sorted(copied.rglob("*")) == before


def test_the_run_itself_is_not_replaced(copied: Path, said: Callable[..., str]) -> None:
    """Prevents: --force that removes the run which it exports."""
    for folder in (copied, copied / "student", copied.parent):
        assert "is the run itself, or holds it" in said(main, copied, "-o", folder, "--force")


def test_an_absent_package_is_named(
    run: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a ModuleNotFoundError after minutes."""
    monkeypatch.setattr(onnx_model.importlib.util, "find_spec", lambda name: None)
    line = said(main, run, "--onnx", "-o", tmp_path / "out")
    assert line.endswith("not installed here; pip install onnx onnxruntime\n")


def test_other_data_than_the_runs_are_refused(
    copied: Path, tweets: Path, tmp_path: Path, said: Callable[..., str]
) -> None:
    """Prevents: a score on other rows beside the run's."""
    other = tmp_path / "other.csv"
    other.write_text(tweets.read_text(encoding="latin-1").replace("happy", "table"), encoding="latin-1")
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace(str(tweets), str(other)))
    assert re.search(r"the data of .* are others now: split .*; put them back", said(main, copied))


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [4096, 70_000])
def test_a_full_disk(size: int, run: Path, tmp_path: Path, said: Callable[..., str]) -> None:
    """Prevents: a traceback out of a writer's depths, half an export that is taken for a whole one."""
    with small_files(size):
        line = said(main, run, "--onnx", "-o", tmp_path / "out")
    assert "--out=" in line and "cannot be written (File too large" in line
    assert not list(tmp_path.iterdir())


class Hub:
    """Notes what it is asked for."""

    def __init__(self, fails: str = "") -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fails = fails

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> str:
            if name == self.fails:
                raise ConnectionError("no route\nto host")
            self.calls.append((name, {**named, "arguments": arguments}))
            return "https://hub/me/mine"

        return call


def test_push_uploads_the_whole_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: an upload of half an export, to a public page that nobody asked for, under another name than the
    card's.
    """
    fake = Hub()
    monkeypatch.setattr(hub, "client", lambda: fake)
    assert main([str(run), "-o", str(tmp_path / "out"), "--push", "me/mine"]) == 0
    assert [name for name, _ in fake.calls] == ["whoami", "create_repo", "upload_folder"]
    (_, made), (_, sent) = fake.calls[1:]
    assert made["arguments"] == ("me/mine",) and made["private"] is True and made["exist_ok"] is True
    assert sent["repo_id"] == "me/mine" and sent["folder_path"] == tmp_path / "out"
    assert 'model="me/mine"' in (tmp_path / "out/README.md").read_text()
    assert "uploaded to https://hub/me/mine" in capsys.readouterr().out


def test_a_hub_that_goes_away_leaves_the_export(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[..., str]
) -> None:
    """Prevents: an export thrown away with the connection."""
    monkeypatch.setattr(hub, "client", lambda: Hub(fails="upload_folder"))
    line = said(main, run, "-o", tmp_path / "out", "--push", "me/mine")
    assert "ConnectionError: no route to host" in line and f"`hf upload me/mine {tmp_path / 'out'}`" in line
    assert (tmp_path / "out/model.safetensors").is_file()


def test_a_class_that_is_no_model_is_not_made(out: Path, tmp_path: Path) -> None:
    """Prevents: a downloaded folder that names any function of any package, and has it called."""
    (tmp_path / "shipped.json").write_text(json.dumps({"class": "subprocess.Popen"}))
    with pytest.raises(UserError, match="does not say how to read this student"):
        load(tmp_path)
