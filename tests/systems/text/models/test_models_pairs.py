"""Any kind of sequence classifier as student or teacher, and the meaning of its outputs."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoModelForSequenceClassification

from rwkd_lightning.systems.text.models import check_inputs, find, fingerprint, load_classifier, load_tokenizer
from rwkd_lightning.utils.errors import UserError
from tests.systems.text.models.conftest import KINDS, SCORES, TASK, tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_loads_cuts_and_reads_its_head(kind, save, batch, tmp_path):
    """Prevents: a kind of model whose head inputs are another layer's, or whose cut copy says other things when
    reloaded.
    """
    student = load_classifier(str(save(kind)), TASK, layers=[1]).eval()
    outputs = student(batch)
    assert outputs["logits"].shape == (4, 3)
    if kind != "gpt2":  # whose logits are picked from those of all tokens
        torch.testing.assert_close(
            F.linear(outputs["features"], student.head.weight, student.head.bias), outputs["logits"]
        )
    student.network.save_pretrained(tmp_path / "cut")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cut").eval()
    given = {name: batch[name] for name in student.inputs}
    torch.testing.assert_close(again(**given).logits, outputs["logits"])
    assert again.config.id2label == {0: "neg", 1: "mid", 2: "pos"}
    assert any(".0." in name for name in student.block_names()) and not any(
        ".1." in name for name in student.block_names()
    )


def test_blocks_that_cannot_be_taken_apart_are_refused(save):
    """Prevents: a cut student that scores well and, once saved and loaded, says something else."""
    with pytest.raises(UserError, match="share weights"):
        load_classifier(str(save("albert")), TASK, layers=[0])
    with pytest.raises(UserError, match="not alike"):
        load_classifier(
            str(save("modernbert")), TASK, layers=[1]
        )  # attention to all tokens in block 0, to a window in block 1


def test_a_tokenizer_without_padding_pads_with_its_end_of_text(save):
    """Prevents: GPT-2 refused, or taking one text at a time."""
    folder = save("gpt2")
    bare = tokenizer()
    bare.pad_token, bare.eos_token = None, "[SEP]"
    bare.save_pretrained(folder)
    model, loaded = load_classifier(str(folder), TASK), load_tokenizer(str(folder))
    check_inputs(model, loaded, 40, str(folder))
    assert loaded.pad_token == "[SEP]" and model.network.config.pad_token_id is not None


def test_a_checkpoint_in_half_precision_is_trained_in_single(save, tmp_path):
    """Prevents: bfloat16 weights from the hub updated in bfloat16, where small steps vanish."""
    folder = save(labels=["neg", "mid", "pos"])
    AutoModelForSequenceClassification.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    assert {p.dtype for p in load_classifier(str(folder), TASK).parameters()} == {torch.float32}


def test_teacher_as_it_is_speaks_in_the_order_of_the_task(save, batch):
    """Prevents: distilling contradiction as entailment because the teacher numbers its classes otherwise."""
    folder = save(labels=["POS", "Neg", "mid"])
    own = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    expected = own(**given).logits[:, [1, 2, 0]]
    torch.testing.assert_close(load_classifier(str(folder), TASK, trained=True).eval()(batch)["logits"], expected)
    with pytest.raises(UserError, match="another order"):
        load_classifier(str(folder), TASK)  # to be trained on: its head would start from the wrong classes
    nameless = save(labels=3, name="told")  # LABEL_0, LABEL_1, LABEL_2; the same random weights
    teacher = load_classifier(str(nameless), TASK, trained=True, labels=["pos", "neg", "mid"]).eval()
    torch.testing.assert_close(teacher(batch)["logits"], expected)


def test_classes_without_names_are_taken_in_order_and_said_so(save, caplog):
    """Prevents: a guess about the meaning of outputs that nobody is told about."""
    with caplog.at_level(logging.WARNING):
        teacher = load_classifier(str(save(labels=3)), TASK, trained=True)
    assert teacher.order == [0, 1, 2]
    assert "neg, mid, pos" in caplog.text and "pair.teacher.labels" in caplog.text


@pytest.mark.parametrize(
    ("labels", "task", "trained", "words"),
    [
        (["a", "b", "c"], TASK, True, ["a, b, c", "neg, mid, pos"]),
        (["a", "b", "c"], TASK, False, ["a, b, c", "new_head=true"]),
        (2, TASK, True, ["2 labels", "toy has 3"]),
        (["entailment", "not_entailment"], TASK, False, ["2 labels (entailment, not_entailment)", "new_head=true"]),
        (1, TASK, True, ["a regression head", "a classification"]),
        (3, SCORES, True, ["a classification head", "a regression"]),
        (None, TASK, True, ["no trained head", "pair.teacher.epochs=3"]),
    ],
)
def test_heads_for_something_else_are_refused(labels, task, trained, words, save):
    """Prevents: a teacher whose outputs mean something else, or a student that starts from another task's decisions."""
    with pytest.raises(UserError) as caught:
        load_classifier(str(save(labels=labels)), task, trained=trained)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [
    {"problem_type": "multi_label_classification"},
    {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
    {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"},
], ids=["problem_type", "cross_encoder", "older_cross_encoder"])  # fmt: skip
@pytest.mark.parametrize(("labels", "task"), [(["neg", "mid", "pos"], TASK), (3, TASK), (1, SCORES)])
def test_sigmoid_heads_are_refused_by_name(settings, labels, task, save):
    """Prevents: independent yes-or-no outputs that go through a softmax, and scores before their sigmoid taken for
    ratings.
    """
    folder = str(save(labels=labels, **settings))
    for how in ({"trained": True}, {"trained": False}, {"trained": True, "labels": ["neg", "mid", "pos"]}):
        with pytest.raises(
            UserError, match="a multi-label or sigmoid head.*pair.student.new_head=true.*pair.teacher.new_head"
        ):
            load_classifier(folder, task, **how)
    anew = load_classifier(folder, task, new_head=True)  # the way out
    assert anew.network.config.problem_type != "multi_label_classification"


def test_cross_encoders_of_classes_are_taken(save, batch):
    """Prevents: cross-encoders whose outputs are plain logits refused along with those of sigmoids."""
    folder = str(
        save(labels=["neg", "mid", "pos"], sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})
    )
    assert load_classifier(folder, TASK, trained=True)(batch)["logits"].shape == (4, 3)


def test_a_new_head_is_no_sigmoid_once_saved(save, tmp_path):
    """Prevents: a student refused as a teacher of the next one for what the model that it started from was."""
    folder = save(
        labels=1,
        sbert_ce_default_activation_function="torch.nn.modules.activation.Sigmoid",
        sentence_transformers={"activation_fn": "torch.nn.modules.activation.Sigmoid"},
    )
    load_classifier(str(folder), TASK, new_head=True).network.save_pretrained(folder)
    load_classifier(str(folder), TASK, trained=True)


def test_new_head_replaces_the_old_one_and_keeps_the_backbone(save):
    """Prevents: `new_head=true` that keeps the old decisions, or throws away what was learnt below them."""
    for labels in (["a", "b", "c"], 2, 1):
        folder = save("roberta", labels=labels, name=f"m{labels if isinstance(labels, int) else 'x'}")
        before = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
        after = load_classifier(str(folder), TASK, new_head=True).network.state_dict()
        for name, value in after.items():
            same = value.shape == before[name].shape and torch.equal(value, before[name])
            assert same == name.startswith("roberta."), name


def test_wrong_names_for_the_outputs(save):
    """Prevents: `pair.teacher.labels` of another length read as the first classes."""
    with pytest.raises(UserError, match="names 2 classes.* 3 outputs"):
        load_classifier(str(save(labels=3)), TASK, trained=True, labels=["neg", "pos"])


def test_unsuitable_tokenizer_and_length(save):
    """Prevents: an index error in the embedding hours into the training, or on a GPU, where it kills the process."""
    folder = str(save("roberta"))
    model = load_classifier(folder, TASK)
    check_inputs(model, load_tokenizer(folder), 38, folder)  # 40 positions, of which RoBERTa leaves two unused
    with pytest.raises(UserError, match="data.max_length is 39.* 38 tokens at most; give data.max_length=38"):
        check_inputs(model, load_tokenizer(folder), 39, folder)
    other = tokenizer()
    other.add_tokens([f"new{i}" for i in range(9)])
    with pytest.raises(UserError, match="29 tokens, its embedding 24"):
        check_inputs(model, other, 20, folder)


def test_run_folder_stands_for_its_student(save, tmp_path):
    """Prevents: a run's folder refused as a model, so that chains of distillation need to know where the student
    lies.
    """
    folder = save(labels=["neg", "mid", "pos"], name="student")
    (tmp_path / "metrics.json").write_text("{}")
    assert find(str(tmp_path)) == folder


def test_fingerprint_sees_weights_and_tokenizer(save):
    """Prevents: logits of one teacher served for another, where only a shard or the vocabulary differs."""
    folder = save()
    first = fingerprint(folder)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(first)
    tokenizer(shift=1).save_pretrained(folder)
    assert {n for n, d in fingerprint(folder).items() if first[n] != d} == {"tokenizer.json"}
    model = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="4KB")
    assert len([n for n in fingerprint(folder) if n.endswith(".safetensors")]) > 1
    load_classifier(str(folder), TASK)
