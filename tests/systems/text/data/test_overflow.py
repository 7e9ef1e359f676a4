"""Texts longer than the model reads: which of their tokens stay."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rwkd_lightning.export.shipped import FILE
from rwkd_lightning.predict.__main__ import main as predict
from rwkd_lightning.systems.text.data.encoding import encode
from rwkd_lightning.systems.text.data.overflow import check, head_tail, shares
from rwkd_lightning.systems.text.data.task import TaskSpec, build_split
from rwkd_lightning.utils.errors import UserError
from tests.run.conftest import arguments, backbone, tweets  # noqa: F401 (fixtures)
from tests.run.test_pipeline_run import finished

WORDS = ["bad", "sad", "table", "chair", "good", "happy", "the", "is"]


def texts_of(count: int, longest: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(count)]


def middle_left_out(ids: list[int], room: int) -> list[int]:
    return ids if len(ids) <= room else ids[: (room + 1) // 2] + ids[len(ids) - room // 2 :]


@pytest.mark.parametrize("room", [1, 2, 7, 8])
def test_one_text_against_its_token_ids(room: int, backbone: Path) -> None:  # noqa: F811
    """Prevents: a middle that stays, a token at the cut that is read twice, special tokens that are cut off."""
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    texts = texts_of(60, 20, room)
    task = TaskSpec("t", ("text",), ("a", "b"), ("accuracy",), "accuracy", ())
    split = build_split(task, {"idx": range(60), "label": [0] * 60, "text": texts})
    table = encode(split, tokenizer, ["text"], room + 2, overflow="head_tail")
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    for text, ids in zip(texts, table["input_ids"].to_pylist(), strict=True):
        whole = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == [cls, *middle_left_out(whole, room), sep]
    longer = sum(len(text.split()) > room for text in texts)
    assert int(table.schema.metadata[b"cut"]) == longer and longer


def test_two_texts_against_their_token_ids(backbone: Path) -> None:  # noqa: F811
    """Prevents: a short second text that is cut although the long first one has the room."""
    tokenizer, room = AutoTokenizer.from_pretrained(backbone), 9
    first, second = texts_of(80, 12, 1), texts_of(80, 12, 2)
    found, shortened = head_tail([first, second], tokenizer, room + 3)
    assert shortened == sum(len(a.split()) + len(b.split()) > room for a, b in zip(first, second, strict=True)) > 0
    for a, b, cut_a, cut_b in zip(first, second, *found, strict=True):
        sizes = [len(a.split()), len(b.split())]
        kept = list(sizes)
        while sum(kept) > room:  # token by token off the longer one, off the second of two as long
            kept[1 if kept[1] >= kept[0] else 0] -= 1
        assert [len(cut_a.split()), len(cut_b.split())] == kept
        assert shares(sizes, room) == kept or sum(sizes) <= room
        assert cut_a.split() == middle_left_out(a.split(), kept[0])  # type: ignore[arg-type, comparison-overlap]


def test_what_cannot_be(backbone: Path) -> None:  # noqa: F811
    """Prevents: a way that is taken for another one."""

    class Slow:
        is_fast, name_or_path = False, "mine"

    with pytest.raises(UserError, match="the tokenizer 'mine' is a slow one, which does not say; use data.overflow=tr"):
        check("head_tail", Slow())
    with pytest.raises(UserError, match="data.overflow is 'middle'; known are truncate, head_tail, windows"):
        check("middle", AutoTokenizer.from_pretrained(backbone))


def test_a_run_and_its_student(arguments: list[str], tmp_path: Path) -> None:  # noqa: F811
    """Prevents: a student that is asked for other tokens of a text than it was trained on, by whoever ships it."""
    rows: list[dict[str, Any]] = [
        {"text": f"{'good' if i % 2 else 'bad'} {' '.join(texts_of(1, 30, i))} {i % 9}", "label": "yn"[i % 2]}
        for i in range(120)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    own = [a for a in arguments if not a.startswith(("task", "data.path", "data.max_length"))]
    table = ["task=table", f"data.train={tmp_path / 'a.jsonl'}", "data.max_length=10", "pair.teacher.epochs=1"]
    finished([*own, *table, "data.overflow=head_tail"], tmp_path / "run", "weighting=kd")
    assert json.loads((tmp_path / "run/student" / FILE).read_text())["overflow"] == "head_tail"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/student")
    texts = [row["text"] for row in rows[:20]]
    (short,), shortened = head_tail([texts], tokenizer, 10)
    assert shortened > 5
    for name, given in (("long", texts), ("short", short)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in given))
        assert (
            predict([str(tmp_path / "run"), str(tmp_path / f"{name}.jsonl"), "-o", str(tmp_path / f"{name}.out.jsonl")])
            == 0
        )
    answers = [
        [json.loads(line)["probability_y"] for line in (tmp_path / f"{name}.out.jsonl").read_text().splitlines()]
        for name in ("long", "short")
    ]
    assert answers[0] == pytest.approx(answers[1], abs=1e-6)
