"""Students that are no transformers, exported, and trained in two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rwkd_lightning.export import compare
from rwkd_lightning.export.__main__ import onnx_form
from rwkd_lightning.export.shipped import describe, load
from rwkd_lightning.systems.text.kinds import KINDS
from rwkd_lightning.systems.text.models import load_tokenizer
from rwkd_lightning.systems.text.shipped import TextModel
from tests.distributed.two_runs import check_one, two_and_one
from tests.export.test_export import shipment_of
from tests.run.tiny import WORDS

ALL = [word for group in WORDS.values() for word in group]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_onnx_answers_as_the_student(name: str, backbone: Path, tmp_path: Path) -> None:
    """Prevents: an ONNX file for one size of batch or one length of text, or one that reads padding."""
    torch.manual_seed(0)
    kind, tokenizer = KINDS[name], load_tokenizer(str(backbone))
    sizes = {"vocab_size": len(tokenizer), "embedding_size": 6, "hidden_size": 8}
    kind(kind.config_class(**sizes, id2label={0: "neg", 1: "mid", 2: "pos"})).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    describe(tmp_path, TextModel, text=["text"], max_length=16)
    model = load(tmp_path)
    shipment = shipment_of(model)  # type: ignore[arg-type]
    ours = compare.outputs(model, compare.torch_call(model), shipment.columns, "")
    form, difference = onnx_form(tmp_path / "model.onnx", shipment, ours)
    assert difference < 1e-5
    texts = [" ".join(ALL * 3), "good", "bad wall"] * 4  # longer ones, more of them, cut at max_length
    few = compare.outputs(model, compare.torch_call(model), [texts], "", size=1)
    torch.testing.assert_close(compare.outputs(model, form.call, [texts], "", size=12), few)


def test_two_processes_are_one(warm: list[str], tmp_path: Path) -> None:
    """Prevents: words that begin differently in each process."""
    given = [
        *warm,
        "pair.student.kind={name: bilstm, hidden_size: 8, dropout: 0.0}",
        "pair.student.layers=null",
        "pair.student.table=none",
        "weighting=rwkd",
        "meta=all",
        "meta.start=0",
        "trainer.precision=64-true",
        "trainer.max_epochs=2",
        "optimizer.lr=1e-2",
    ]
    check_one(two_and_one(given, tmp_path), ("w_ce", "w_kd", "influence_ce", "influence_kd"))
