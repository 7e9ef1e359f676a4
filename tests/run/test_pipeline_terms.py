"""Terms that look inside the models, through the whole staged run."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.models import Classifier
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_pairs import roberta, run_in  # noqa: F401 (a fixture)


@pytest.fixture
def small(backbone: Path, tmp_path: Path) -> Path:
    """Half as wide, three blocks, the same tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    tokenizer.save_pretrained(tmp_path / "small")
    torch.manual_seed(2)
    BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=32,
            max_position_embeddings=64,
        )
    ).save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def columns(folder: Path) -> dict[str, Any]:
    return {
        n: torch.tensor([math.nan if value is None else value for value in c])
        for n, c in pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict().items()
        if n.startswith(("w_", "loss_", "influence_"))
    }


def test_hidden_states_between_widths(
    arguments: list[str], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: states computed again by each run, of other rows than the batch's, or a projection shipped with the
    student.
    """
    pair = [*arguments, f"pair.student.path={small}", "pair.student.layers=null", "terms=[ce,kd,hidden]"]
    run_in(tmp_path / "a", *pair, "weighting=kd", "weighting.beta=0.5")
    found = columns(tmp_path / "a")
    assert set(found["w_hidden"].tolist()) == {0.5}
    assert 0 < float(found["loss_hidden"].max()) <= 8
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "a/student")
    assert not any("projection" in name for name in load_file(tmp_path / "a/student/model.safetensors"))
    (kept,) = (tmp_path / "cache/states").glob("*/states.safetensors")
    assert load_file(kept)["hidden"].shape == (64, 2, 32)

    def again(*_: Any) -> None:
        raise AssertionError("the teacher was asked again")

    run_in(tmp_path / "c", *pair, "weighting=kd", "loss_terms.hidden.pool=mean", "trainer.max_epochs=1")
    assert len(list((tmp_path / "cache/states").glob("*/states.safetensors"))) == 2  # other states, not those of before
    monkeypatch.setattr("rwkd_lightning.systems.text.teacher_states.predict", again)
    run_in(tmp_path / "b", *pair, "weighting=rwkd", "meta=all")
    found = columns(tmp_path / "b")
    torch.testing.assert_close(found["w_ce"] + found["w_kd"] + found["w_hidden"], torch.ones(64))
    assert float(found["influence_hidden"].abs().max()) > 0


def test_cached_states_are_the_teachers(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a student that is its teacher at a distance from itself, by states of other rows, layers or tokens."""
    network: list[Any] = []
    load = stages.load
    monkeypatch.setattr(stages, "load", lambda *a: network.append(load(*a)) or network[-1])
    run_in(
        tmp_path / "a",
        *arguments,
        "pair.student.path=teacher",
        "pair.student.layers=null",
        "weighting=kd",
        "terms=[ce,kd,hidden]",
        "loss_terms.hidden.layers=[[0,0],[1,1]]",
        "trainer.max_epochs=1",
        "optimizer.lr=1e-12",
        "scheduler.warmup=0",
    )
    # dropout moves a student that is being trained off its own states, by far less than another row's are away
    assert float(columns(tmp_path / "a")["loss_hidden"].median()) < 0.5
    assert len(network) == 3 and not any(its.kept_layers for its in network)  # for logits, states and scores


def test_value_relations_with_the_teacher_along(
    arguments: list[str], small: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a teacher that runs along without the token types that it was fine-tuned on, and influences of 0."""
    shutil.copytree(backbone, tmp_path / "types")
    names = ["input_ids", "token_type_ids", "attention_mask"]
    for folder, given in ((tmp_path / "types", names), (small, names[::2])):  # as BERT's beside DistilBERT's
        AutoTokenizer.from_pretrained(folder, model_input_names=given).save_pretrained(folder)
    read = []
    forward = Classifier.forward
    monkeypatch.setattr(
        Classifier, "forward", lambda self, batch: read.append((self, set(batch))) or forward(self, batch)
    )
    run_in(
        tmp_path / "a",
        *arguments,
        f"pair.teacher.path={tmp_path / 'types'}",
        f"pair.student.path={small}",
        "pair.student.layers=null",
        "weighting=rwkd",
        "meta=all",
        "terms=[ce,kd,hidden,value_relation]",
        "loss_terms.value_relation.heads=8",
    )
    found = columns(tmp_path / "a")
    assert float(found["loss_value_relation"].min()) > 0
    assert float(found["influence_value_relation"].abs().max()) > 0
    of_teacher = [names for model, names in read if model.kept_layers.get("values") and model.num_blocks == 2]
    assert of_teacher and all("token_type_ids" in names for names in of_teacher)
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(tmp_path / "a/student").model_input_names


def test_hidden_states_across_tokenizers(arguments: list[str], roberta: Path, tmp_path: Path) -> None:  # noqa: F811
    """Prevents: a refusal of what is compared text by text, and a teacher that reads the student's token ids."""
    run_in(
        tmp_path / "a",
        *arguments,
        f"pair.student.path={roberta}",
        "pair.student.layers=null",
        "weighting=kd",
        "terms=[ce,kd,hidden]",
        "loss_terms.hidden.pool=mean",
        "trainer.max_epochs=1",
    )
    assert float(columns(tmp_path / "a")["loss_hidden"].min()) > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["terms=[ce,kd,hidden]"], "'hidden' reads the student's hidden, which do not depend.*meta=bank.*use meta=all"),
        (["terms=[ce,kd,hidden]", "weighting=gradnorm"], "'hidden' does not depend on the student's last layer"),
        (
            ["terms=[ce,kd,hidden]", "weighting=annealed"],
            "'hidden' would weigh nothing; use weighting=kd with weighting.beta",
        ),
        (
            ["terms=[ce,kd,hidden]", "weighting=kd", "loss_terms.hidden.layers=[[0,7]]"],
            "the teacher's: layer 7.*blocks 0 to 1",
        ),
        (
            ["terms=[ce,kd,hidden]", "weighting=kd", "loss_terms.hidden.layers=[[1,1]]"],
            "the student's: layer 1.*blocks 0 to 0",
        ),
        (
            ["terms=[ce,value_relation]", "weighting=dwa", "loss_terms.value_relation.heads=5"],
            "heads is 5.*1, 2, 4, 8, 16, 32 do",
        ),
        (["terms=[ce,kd,hidden]", "weighting=kd", "weighting.beta=-1"], "weighting.beta is -1"),
    ],
)
def test_refused_before_the_teacher_is_trained(
    arguments: list[str], tmp_path: Path, overrides: list[str], message: str
) -> None:
    """Prevents: hours of a teacher's training, and then an error, or a term that weighs nothing."""
    with pytest.raises(UserError, match=message):
        run_in(tmp_path / "a", *arguments, *overrides)
    assert not (tmp_path / "cache/teacher").exists()


def test_terms_over_tokens_need_one_tokenizer(arguments: list[str], roberta: Path, tmp_path: Path) -> None:  # noqa: F811
    """Prevents: the third token of one text compared with another's."""
    message = r"'value_relation' compares.*token by token, and the tokenizers.*differ.*the term hidden"
    with pytest.raises(UserError, match=message):
        run_in(
            tmp_path / "a",
            *arguments,
            f"pair.student.path={roberta}",
            "pair.student.layers=null",
            "weighting=kd",
            "terms=[ce,kd,value_relation]",
        )
    assert not (tmp_path / "cache/teacher").exists()
