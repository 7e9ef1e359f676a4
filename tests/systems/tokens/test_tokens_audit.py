"""The sentences of a finished run, the least trusted first, each with the word to look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable
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
from rwkd_lightning.systems.tokens import teacher
from rwkd_lightning.systems.tokens.audit import worst
from rwkd_lightning.systems.tokens.data import TokenData
from tests.audit.test_audit import mean_of_epochs, page_of, rows_of
from tests.run.test_pipeline_run import finished
from tests.systems.tokens.test_tokens_export import alone, system_of

TAGS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def test_the_ranking_of_a_run(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: the scores of one word beside another, a mean that hides one wrong tag in a long sentence, clean tags
    or a teacher without its noise in place of those trained with.
    """
    run, cache = tmp_path / "run", tmp_path / "cache"
    noise = ["data.label_noise=0.3", "data.teacher_noise=0.2", f"cache_dir={cache}"]
    finished([*tiny, *noise], run, "weighting=rwkd", "data.max_length=12")
    capsys.readouterr()
    assert main([str(run)]) == 0
    said = capsys.readouterr().out
    assert "has learnt some of their wrong tags: --folds 5" in said
    table = pq.read_table(run / "weights.parquet").to_pandas()
    sentences = system_of(run).data.splits["train"].tokens
    (file,) = (cache / "token_logits").glob("*/logits.safetensors")
    flat, begin = load_file(file)["train"].astype(np.float64), 0
    follows = np.exp(-mean_of_epochs(run, "loss_kd") / 2)
    scores, places, parts = [], [], []
    students = alone(run / "student", sentences, 12)
    for row, words in enumerate(sentences):
        labels = [label for label in table.label[row][: len(words)] if label >= 0]
        taught = flat[begin : begin + len(labels)]
        begin += len(words)
        if table.teacher_corrupted[row]:
            taught = np.roll(taught, 1, axis=1)
        student = students[row].double().numpy()
        own, theirs = (-log_softmax(logits, 1)[range(len(labels)), labels] for logits in (student, taught))
        each = follows[row] * theirs + (1 - follows[row]) * own
        scores.append(each.max())
        places.append(int(each.argmax()))
        parts.append((labels, taught, student))
    assert min(len(labels) / len(words) for (labels, _, _), words in zip(parts, sentences, strict=True)) < 1
    rows = rows_of(run / "audit/labels.csv")
    assert sorted(int(row["idx"]) for row in rows) == sorted(table.idx)
    at = {int(idx): row for row, idx in enumerate(table.idx)}
    for row in rows:
        i = at[int(row["idx"])]
        (labels, taught, student), place = parts[i], places[i]
        assert float(row["score"]) == pytest.approx(scores[i], abs=1e-3) and float(row["place"]) == place
        assert (row["sentence"], row["word"]) == (" ".join(sentences[i]), sentences[i][place])
        assert row["label"] == TAGS[labels[place]] and row["suggested"] == TAGS[taught[place].argmax()]
        assert row["student"] == TAGS[student[place].argmax()]
        assert float(row["other_tags"]) == sum(taught.argmax(1) != labels)
    ranked = [float(row["score"]) for row in rows]
    assert ranked == sorted(ranked, reverse=True)
    found = {int(row["idx"]): float(row["score"]) for row in rows}
    area = roc_auc_score(table.label_flipped, [found[idx] for idx in table.idx])
    assert f"label_flipped: area under the ROC curve {area:.3f}" in said and area > 0.8
    divergence = rows_of(run / "audit/teacher.csv")
    assert [float(row["score"]) for row in divergence] == pytest.approx(sorted(table.loss_kd, reverse=True), abs=1e-5)
    page = page_of(run / "audit/index.html")
    first = min(page["rows"], key=lambda row: row["ranks"]["label"])
    assert page["columns"] == ["sentence", "word"] and first["idx"] == int(rows[0]["idx"])
    assert first["text"] == [rows[0]["sentence"], rows[0]["word"]] and first["label"] == rows[0]["label"]


def test_a_sentence_is_its_worst_word() -> None:
    """Prevents: a word that is not read, or one of the next sentence, as the one to look at."""
    nan = torch.nan
    score, place = worst(torch.tensor([nan, 2.0, 1.0, 9.0, nan, nan, 0.5]), [3, 2, 1, 1])
    torch.testing.assert_close(score, torch.tensor([2.0, 9.0, nan, 0.5]), equal_nan=True)
    assert place.tolist()[:2] == [1, 0] and place.tolist()[3] == 0


def test_out_of_fold(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a teacher that is asked for sentences which it was trained on, or of whose words it has seen a copy."""
    source = Path(tiny[1].partition("=")[2]).read_text().strip()
    (tmp_path / "copies.conll").write_text(f"{source}\n\n{source.upper()}\n")
    given = [f"data.train={tmp_path / 'copies.conll'}", f"cache_dir={tmp_path / 'cache'}", "pair.teacher.epochs=1"]
    finished([*tiny, *given, "data.label_noise=0.2"], tmp_path / "run", "weighting=kd", "trainer.max_epochs=1")
    assert main([str(tmp_path / "run")]) == 0
    plain = rows_of(tmp_path / "run/audit/labels.csv")
    seen: list[set[str]] = []

    def noted(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            data = next(one for one in arguments if isinstance(one, TokenData))
            seen.append({" ".join(words).casefold() for words in data.splits["train"].tokens})
            return real(*arguments)

        return call

    monkeypatch.setattr(teacher, "teacher_of", noted(teacher.teacher_of))
    monkeypatch.setattr(teacher, "logits", noted(teacher.logits))
    assert main([str(tmp_path / "run"), "--folds", "2"]) == 0
    assert len(seen) == 4 and all(seen) and not seen[0] & seen[1] and not seen[2] & seen[3]
    assert seen[0] | seen[1] == {row["sentence"].casefold() for row in plain}
    asked = rows_of(tmp_path / "run/audit/labels.csv")
    assert {row["idx"] for row in asked} == {row["idx"] for row in plain} and asked != plain
    assert "each asked for sentences that it has not seen" in capsys.readouterr().out


def test_what_cannot_be_audited(tiny: list[str], token_run: Path, tmp_path: Path, said: Callable[..., str]) -> None:
    """Prevents: hours of a teacher's training for a run whose teacher is gone, folds of a teacher that has not learnt
    these tags, other sentences beside the run's weights.
    """
    shutil.copytree(token_run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    config = tmp_path / "run/config.yaml"
    kept = config.read_text()
    config.write_text(
        "\n".join(line if "cache_dir" not in line else f"cache_dir: {tmp_path}" for line in kept.split("\n"))
    )
    assert said(main, tmp_path / "run").startswith("the audit asks the run's teacher, and it is not in the cache")
    table = pq.read_table(tmp_path / "run/weights.parquet")
    pq.write_table(table.slice(1), tmp_path / "run/weights.parquet")
    config.write_text(kept)
    assert "holds other sentences than the training split" in said(main, tmp_path / "run")
    assert "--folds=90: there are too few distinct sentences" in said(main, token_run, "--folds", 90)
    more = [f"pair.teacher.path={token_run}", "pair.teacher.epochs=0", "weighting=kd", "trainer.max_epochs=1"]
    finished(tiny, tmp_path / "two", *more)
    assert "it has not learnt these tags; leave --folds out" in said(main, tmp_path / "two", "--folds", 2)
