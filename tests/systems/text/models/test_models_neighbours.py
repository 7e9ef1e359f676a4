"""A row's answer is its own: alone, beside longer rows, at any place of the batch, for every kind of model that is
taken.
"""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rwkd_lightning.systems.text.data.collate import Collator
from rwkd_lightning.systems.text.models import check_inputs, load_classifier, load_tokenizer
from rwkd_lightning.utils.errors import UserError
from tests.systems.text.models.conftest import KINDS, ODD, TASK

LABELS = ["neg", "mid", "pos"]
MIXED = ("fnet", "funnel", "nystromformer", "convbert", "yoso")
"""Kinds in which padding reaches the tokens: by Fourier transforms, pooling, convolutions, hashing."""
STACKS = [kind for kind in {**KINDS, **ODD} if kind not in (*MIXED, "canine")]
LOUD = {"initializer_range": 0.3, "init_std": 0.3}  # differences of a freshly drawn model would be small
ROWS = [[0, 5, 6, 7, 2], [0, *range(4, 20), 5, 9, *range(4, 14), 2], [0, 8, 2], [0, 9, 4, 4, 11, 12, 2]]


def row(ids):
    return {"input_ids": np.array(ids), "label": torch.tensor(0), "index": 0}


def padded_on(folder, side):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": side}))
    assert AutoTokenizer.from_pretrained(folder).padding_side == side
    return str(folder)


@pytest.mark.parametrize("kind", STACKS)
@torch.no_grad()
def test_a_row_is_answered_as_if_alone(kind, save):
    """Prevents: cached logits, scores, features and hidden states that depend on what else was in the batch."""
    folder = padded_on(save(kind, LABELS, **LOUD), "right" if kind == "xlnet" else "left")  # the wrong one
    own = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected = torch.cat([own(input_ids=torch.tensor([ids])).logits for ids in ROWS])  # nothing is padded
    model, loaded = load_classifier(folder, TASK, trained=True).eval(), load_tokenizer(folder)
    check_inputs(model, loaded, 38, folder)
    if kind not in ("albert", "squeezebert") and not own.config.is_encoder_decoder:
        for pool in ("cls", "mean"):
            model.keep(pool, [0], pool)
    collator = Collator(loaded)
    alone = [model(collator([row(ids)])) for ids in ROWS]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 0]):
        together = model(collator([row(ROWS[i]) for i in order]))
        torch.testing.assert_close(together["logits"], expected[order], rtol=1e-5, atol=1e-5)
        for name in together:
            torch.testing.assert_close(together[name], torch.cat([alone[i][name] for i in order]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MIXED)
def test_kinds_whose_padding_reaches_the_text_are_refused(kind, save):
    """Prevents: logits kept of a teacher whose answers depend on the longest text of their batch."""
    folder = str(save(kind, LABELS, **LOUD))
    with pytest.raises(UserError, match=f"a {kind} says of a text depends on the padding.* another kind"):
        check_inputs(load_classifier(folder, TASK, trained=True), load_tokenizer(folder), 30, folder)


def test_a_kind_that_takes_no_short_text(save):
    """Prevents: a traceback at the first text of fewer characters than CANINE takes together."""
    folder = str(save("canine", LABELS))
    with pytest.raises(UserError, match="a canine cannot read some of its tokenizer's texts"):
        check_inputs(load_classifier(folder, TASK, trained=True), load_tokenizer(folder), 30, folder)


def test_a_tokenizer_on_the_wrong_side_is_seen(save):
    """Prevents: a tokenizer that was not loaded here, whose padding moves the positions of the text."""
    folder = str(save("gpt2", LABELS, **LOUD))
    model, loaded = load_classifier(folder, TASK, trained=True), load_tokenizer(folder)
    check_inputs(model, loaded, 38, folder)
    loaded.padding_side = "left"
    with pytest.raises(UserError, match="depends on the padding"):
        check_inputs(model, loaded, 38, folder)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "opt", "llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("named", [None, 7])
@torch.no_grad()
def test_the_last_token_is_found_whatever_padding_the_config_names(kind, named, save):
    """Prevents: a decoder that answers for a padding token, or refuses batches, where config.json names another padding
    than the tokenizer uses, or none; and a text's last word taken for padding.
    """
    folder = str(save(kind, LABELS, **LOUD | {"pad_token_id": named}))
    ids = [[0, 5, 6, 7], [0, 8, 9, 10, 11, 12]]
    own = AutoModelForSequenceClassification.from_pretrained(folder, pad_token_id=1).eval()
    expected = torch.cat([own(input_ids=torch.tensor([one])).logits for one in ids])
    model = load_classifier(folder, TASK, trained=True).eval()  # a second time of a run: nothing but the file tells
    torch.testing.assert_close(model(Collator(load_tokenizer(folder))([row(one) for one in ids]))["logits"], expected)


@pytest.mark.parametrize("kind", ["bart", "t5"])
@torch.no_grad()
def test_end_tokens_within_a_text(kind, save):
    """Prevents: a training that stops at the first text that spells out the end token, which BART and T5 count."""
    folder = str(save(kind, LABELS, **LOUD))
    model, collator = load_classifier(folder, TASK, trained=True).eval(), Collator(load_tokenizer(folder))
    rows = [row([0, 5, 2]), row([0, 5, 2, 6, 7, 2]), row([0, 9, 10, 2]), row([0, 2, 2, 8, 2])]
    expected = torch.cat([model.network(input_ids=torch.tensor(one["input_ids"])[None]).logits for one in rows])
    together = model(collator(rows))
    torch.testing.assert_close(together["logits"], expected)
    torch.testing.assert_close(together["features"], torch.cat([model(collator([one]))["features"] for one in rows]))


def test_sparse_attention_is_made_full_and_said_so(save, caplog):
    """Prevents: a BigBird whose attention is sparse from the first batch with a long text on, and full before."""
    folder = str(save("big_bird", LABELS))
    with caplog.at_level(logging.INFO):
        network = load_classifier(folder, TASK, trained=True).network
    assert network.config.attention_type == "original_full" and "attention_type=original_full" in caplog.text


@pytest.mark.parametrize(
    "kind",
    ["roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text", "bert", "gpt2", "opt", "bart"],
)
def test_the_limit_that_is_named_is_taken(kind, save):
    """Prevents: advice to give fewer tokens than a number that is too many itself (RoBERTa leaves two positions
    unused).
    """
    folder = str(save(kind, LABELS))
    model, loaded = load_classifier(folder, TASK, trained=True), load_tokenizer(folder)
    limit = 38 if kind in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text") else 40
    for asked in (limit + 1, limit + 2, 90):
        with pytest.raises(
            UserError, match=f"is {asked}, but .* takes {limit} tokens at most; give data.max_length={limit}"
        ):
            check_inputs(model, loaded, asked, folder)
    check_inputs(model, loaded, limit, folder)


def test_a_tokenizer_without_the_models_end_token(save):
    """Prevents: BART refused at some length or other, where its tokenizer ends no text as it needs."""
    folder = str(save("bart", LABELS, eos_token_id=3))
    with pytest.raises(UserError, match="a bart cannot read some of its tokenizer's texts"):
        check_inputs(load_classifier(folder, TASK, trained=True), load_tokenizer(folder), 38, folder)
