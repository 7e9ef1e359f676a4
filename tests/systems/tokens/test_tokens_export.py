"""A finished tagger answers in every form as its run has scored it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from seqeval.metrics import f1_score
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer, pipeline

from rwkd_lightning.export import compare
from rwkd_lightning.export.__main__ import main, onnx_form
from rwkd_lightning.export.shipped import Card, Shipment, load
from rwkd_lightning.export.shipped import describe as describe_shipped
from rwkd_lightning.systems.tokens.shipped import TokenModel
from rwkd_lightning.systems.tokens.spans import entities
from rwkd_lightning.systems.tokens.system import TokenSystem
from tests.run.test_pipeline_run import finished
from tests.systems.text.models import conftest as models

TAGS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
SENTENCES = [["w1", "w2"], ["w3"], ["w4", "w5", "w6", "w7", "w8"], ["w1", "w1", "w9", "w2", "w3", "w5", "w4"]]


def system_of(run: Path) -> TokenSystem:
    from omegaconf import OmegaConf

    system = TokenSystem(OmegaConf.load(run / "config.yaml"))  # type: ignore[arg-type]
    system.read()
    return system


def alone(folder: Path, sentences: list[list[str]], max_length: int = 64) -> list[torch.Tensor]:
    """By transformers alone, sentence by sentence: the logits of each read word's first token ``(words, C)``."""
    network = AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for words in sentences:
        encoded = tokenizer(
            words, is_split_into_words=True, truncation=True, max_length=max_length, return_tensors="pt"
        )
        ids = encoded.word_ids(0)
        with torch.no_grad():
            logits = network(**encoded).logits[0]
        found.append(logits[[ids.index(word) for word in sorted({*ids} - {None})]])
    return found


def test_a_pipeline_and_onnx_runtime_tag_as_the_student(token_run: Path, token_export: Path) -> None:
    """Prevents: a folder that loads and gives other tags, or tags of other words, than those that were scored; an ONNX
    file that is right for the length it was traced with only.
    """
    data = system_of(token_run).data
    sentences, truth = data.splits["test"].tokens, data.named("test")
    metrics = json.loads((token_run / "metrics.json").read_text())
    said = [[data.tags[n] for n in logits.argmax(1).tolist()] for logits in alone(token_export, sentences)]
    assert f1_score(truth, said) == pytest.approx(metrics["student"]["test"]["f1"]) and f1_score(truth, said) > 0.5
    tag = pipeline("token-classification", model=str(token_export), aggregation_strategy="first")
    for words, tags in zip(sentences, said, strict=True):
        found = [(one["entity_group"], re.sub(" |##", "", one["word"])) for one in tag(" ".join(words))]
        assert found == [(kind, "".join(words[a : b + 1])) for kind, a, b in entities(tags)]
    assert AutoTokenizer.from_pretrained(token_export).model_max_length == 24  # where the pipeline cuts
    session = onnxruntime.InferenceSession(token_export / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape == ["batch", "length", 5]
    tokenizer = AutoTokenizer.from_pretrained(token_export)
    network = AutoModelForTokenClassification.from_pretrained(token_run / "student").eval()
    for chunk in (slice(0, 1), slice(1, 4), slice(0, None)):
        given = tokenizer(sentences[chunk], is_split_into_words=True, padding=True, return_tensors="pt")
        (logits,) = session.run(["logits"], {one.name: given[one.name].numpy() for one in session.get_inputs()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, network(**given).logits, atol=1e-5)


def test_the_table_and_its_json_are_true(
    token_run: Path, token_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: F1 of other sentences, words counted as rows, a difference that is not printed."""
    assert main([str(token_run), "--int8", "--compare", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((token_run / "metrics.json").read_text())
    compared = json.loads((tmp_path / "out/comparison.json").read_text())
    forms, rows = compared["models"], compared["rows"]
    assert list(forms) == ["teacher", "student", "ONNX", "ONNX int8"] and compared["split"] == "test"
    assert rows == len(system_of(token_run).data.splits["test"])
    assert forms["teacher"]["f1"] == metrics["teacher"]["test"]["f1"]
    assert forms["student"]["f1"] == forms["ONNX"]["f1"] == metrics["student"]["test"]["f1"]
    for name, file in (("student", "model.safetensors"), ("ONNX", "model.onnx"), ("ONNX int8", "model_int8.onnx")):
        assert forms[name]["bytes"] == (tmp_path / "out" / file).stat().st_size
        assert 0 < forms[name]["batch_1_p50_ms"] <= forms[name]["batch_1_p95_ms"]
    assert re.search(rf"largest difference from PyTorch \d\.\de-0[5-9] on {rows} rows of test", printed)
    assert re.search(r"ONNX int8: test f1 0\.\d{4}, with floats 0\.\d{4}", printed)


def test_the_model_card_is_the_hubs_and_its_example_runs(token_run: Path, token_export: Path) -> None:
    """Prevents: a card of a text classifier; scores of the teacher; an example with a pipeline that takes no such
    model.
    """
    card = ModelCard.load(token_export / "README.md")
    metrics = json.loads((token_run / "metrics.json").read_text())
    assert card.data.pipeline_tag == "token-classification" and card.data.library_name == "transformers"
    scored = {(one.dataset_split, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert scored == {(s, m): value for s, scores in metrics["student"].items() for m, value in scores.items()}
    for wanted in ("one of 5 tags (scheme `iob2`): O, B-LOC, I-LOC", "cut at 24 tokens", "`weighting=kd`"):
        assert wanted in card.content, wanted
    (example,) = re.findall(r"```python\n(.*?)```", card.content, re.S)
    names: dict[str, Any] = {}
    exec(example.replace("tokens-kd", str(token_export)), names)
    assert {one["entity_group"] for one in names["tag"]("Ann went to Rome")} <= {"PER", "LOC"}


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "distilbert", "deberta-v2", "electra", "modernbert", "xlnet", "gpt2"]
)
def test_kinds_of_models(kind: str, tmp_path: Path) -> None:
    """Prevents: words read at the padding's place, on either side; a size that was traced."""
    torch.manual_seed(0)
    made = {**models.SMALL, **(models.KINDS | models.ODD)[kind], "id2label": dict(enumerate(TAGS))}
    if kind == "xlnet":
        made.pop("max_position_embeddings")
    config = AutoConfig.for_model(kind, **made, label2id={tag: i for i, tag in enumerate(TAGS)})
    AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path / "model")
    words = models.tokenizer()
    words.padding_side = "left" if kind in ("xlnet", "gpt2") else "right"
    words.save_pretrained(tmp_path / "model")
    describe_shipped(tmp_path / "model", TokenModel, tokens="tokens", max_length=16)
    model = load(tmp_path / "model")
    shipment = Shipment(model, "test", [SENTENCES], "none", lambda x: 0.0, Card({}, "", "", ""))
    ours = compare.outputs(model, compare.torch_call(model), [SENTENCES], "")
    torch.testing.assert_close(ours, torch.cat(alone(tmp_path / "model", SENTENCES)), atol=1e-5, rtol=1e-4)
    form, difference = onnx_form(tmp_path / "model.onnx", shipment, ours)
    assert difference < 1e-5 * max(1.0, float(ours.abs().max()))
    longer = [["w5"] * 30, ["w9"], ["w2", "w3"]] * 4  # cut at max_length
    few = compare.outputs(model, compare.torch_call(model), [longer], "", size=1)
    torch.testing.assert_close(compare.outputs(model, form.call, [longer], "", size=12), few, equal_nan=True)
    assert few[:30].isnan().all(1).tolist() == [place >= 14 for place in range(30)]


def test_words_without_a_token(tmp_path: Path) -> None:
    """Prevents: the tag of the word beside a lost one, a crash for a sentence of lost words alone."""
    from tokenizers import normalizers, processors

    config = AutoConfig.for_model("bert", **models.SMALL, **models.WIDTHS, id2label=dict(enumerate(TAGS)))
    AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path)
    words = models.tokenizer()
    words.backend_tokenizer.normalizer = normalizers.Replace("lost", "")
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    words.save_pretrained(tmp_path)
    describe_shipped(tmp_path, TokenModel, tokens="tokens", max_length=16)
    model, sentences = load(tmp_path), [["lost"], ["w1", "lost", "w2"]]
    for size in (1, 2):
        found = compare.outputs(model, compare.torch_call(model), [sentences], "", size=size)
        assert found.isnan().all(1).tolist() == [True, False, True, False]
        torch.testing.assert_close(found[[1, 3]], alone(tmp_path, [["w1", "w2"]])[0], atol=1e-5, rtol=1e-4)
    assert model.answers(found, [sentences])["predicted_tags"][0] == ["O"]


def test_plain_tags_and_a_finished_teacher(tiny: list[str], token_run: Path, tmp_path: Path) -> None:
    """Prevents: an example that joins plain tags to entities; a teacher that is timed with another order of tags."""
    more = [f"pair.teacher.path={token_run}", "pair.teacher.epochs=0", "weighting=kd", "data.scheme=plain"]
    result = finished(tiny, tmp_path / "run", *more)
    assert main([str(tmp_path / "run"), "--compare"]) == 0
    compared = json.loads((tmp_path / "run/export/comparison.json").read_text())
    assert compared["metric"] == "accuracy"
    assert compared["models"]["student"]["accuracy"] == result["student"]["test"]["accuracy"]
    assert "aggregation_strategy" not in (tmp_path / "run/export/README.md").read_text()


def test_a_teacher_that_is_gone_is_not_timed(
    token_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: minutes of a teacher's training for a table."""
    shutil.copytree(token_run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    config = tmp_path / "run/config.yaml"
    config.write_text(re.sub("cache_dir: .*", f"cache_dir: {tmp_path / 'empty'}", config.read_text()))
    assert main([str(tmp_path / "run"), "--compare"]) == 0
    assert "the teacher is not timed: it is not in the cache" in capsys.readouterr().out


def test_other_sentences_than_the_runs_are_refused(
    token_run: Path, conll: Path, tmp_path: Path, said: Callable[..., str]
) -> None:
    """Prevents: a score on other sentences beside the run's."""
    shutil.copytree(token_run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    (tmp_path / "other.conll").write_text(conll.read_text().replace("Rome", "Oslo"))
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace(str(conll), str(tmp_path / "other.conll")))
    assert re.search(r"the data of .* are others now: split .*; put them back", said(main, tmp_path / "run"))
