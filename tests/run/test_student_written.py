"""The student's folder: written and loaded once before the teacher is trained, so that the end of a run holds no
surprise.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from rwkd_lightning.systems.text import system as text
from rwkd_lightning.systems.text.build import data_of
from rwkd_lightning.systems.text.data.collate import Collator
from rwkd_lightning.systems.text.export import try_writing
from rwkd_lightning.systems.text.models import load_classifier, load_tokenizer
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_pairs import config, run_in

LABELS = {
    "id2label": {0: "negative", 1: "neutral", 2: "positive"},
    "label2id": {"negative": 0, "neutral": 1, "positive": 2},
}
SMALL = {"vocab_size": 24, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def saved(folder: Path, backbone: Path, kind: str, *, head: bool = False, **options: object) -> Path:
    """A random model of a kind with the backbone's tokenizer, padding on the left."""
    torch.manual_seed(0)
    described = AutoConfig.for_model(kind, **SMALL, **options, **(LABELS if head else {}))
    (AutoModelForSequenceClassification if head else AutoModel).from_config(described).save_pretrained(folder)
    AutoTokenizer.from_pretrained(backbone, padding_side="left").save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).padding_side == "left"
    return folder


@pytest.fixture
def qwen(backbone: Path, tmp_path: Path) -> Path:
    """Four blocks, each with its own kind of attention in the config."""
    return saved(
        tmp_path / "qwen",
        backbone,
        "qwen3",
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        head_dim=8,
        num_key_value_heads=1,
        intermediate_size=32,
    )


def test_an_encoder_decoder_teaches_a_cut_decoder(
    arguments: list[str], backbone: Path, qwen: Path, tmp_path: Path
) -> None:
    """Prevents: BART refused as a teacher for tokens that the product tried it with; a training that ends without a
    student, because its config lists more blocks than it has; kept logits that depend on the batch.
    """
    bart = saved(
        tmp_path / "bart",
        backbone,
        "bart",
        head=True,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        decoder_start_token_id=3,
        forced_eos_token_id=3,
        init_std=0.3,
    )
    pair = [
        *arguments,
        f"pair.teacher.path={bart}",
        "pair.teacher.epochs=0",
        f"pair.student.path={qwen}",
        "pair.student.layers=[0,2]",
        "weighting=kd",
        "trainer.max_epochs=1",
    ]
    result = run_in(tmp_path / "run", *pair)
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student")
    assert student.config.num_hidden_layers == len(student.config.layer_types) == len(student.model.layers) == 2
    assert 0 < result["student"]["test"]["accuracy"] <= 1
    kept = load_file(next((tmp_path / "cache").rglob("logits.safetensors")))["test"]
    own, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(bart).eval(),
        AutoTokenizer.from_pretrained(bart),
    )
    texts = list(data_of(config(*pair)).splits["test"]["text"])
    with torch.no_grad():
        alone = torch.cat(
            [own(**tokenizer(one, return_tensors="pt", return_token_type_ids=False)).logits for one in texts]
        )
    torch.testing.assert_close(kept, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", ["null", "[1,3]"])
def test_a_student_that_cannot_be_written_is_refused_before_the_teacher(
    layers: str, arguments: list[str], qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a teacher trained and a student distilled that no one can load."""
    real = text.check_student

    def broken(*args: object) -> object:
        student, tokenizer = real(*args)  # type: ignore[arg-type]
        student.network.config.num_hidden_layers = 3
        return student, tokenizer

    monkeypatch.setattr(text, "check_student", broken)
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=f"pair.student.path={qwen}: this model cannot be written.*layer") as caught:
        run_in(folder, *arguments, f"pair.student.path={qwen}", f"pair.student.layers={layers}", "weighting=kd")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.safetensors")) and not list(folder.glob(".student-*"))


def test_a_student_that_says_other_things_once_loaded_is_refused(
    qwen: Path, arguments: list[str], tmp_path: Path
) -> None:
    """Prevents: a student whose scores nobody can repeat; and random numbers of the run drawn by the trial."""
    student, tokenizer = load_classifier(str(qwen), data_of(config(*arguments)).task), load_tokenizer(str(qwen))
    before = torch.get_rng_state()
    try_writing(tmp_path, student, tokenizer, "pair.student.path=mine")
    assert torch.equal(before, torch.get_rng_state()) and not list(tmp_path.glob(".student-*"))
    student.network.score.register_forward_hook(lambda module, args, out: out + 1)
    with pytest.raises(UserError, match="pair.student.path=mine: written and loaded again, .*says other things"):
        try_writing(tmp_path, student, tokenizer, "pair.student.path=mine")
    assert Collator(tokenizer).left is False  # as it was saved, and as the model needs it
