"""BART, T5 and Pegasus of random weights: loading, cutting, decoding, and the meta step on their heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rwkd_lightning.bilevel import Jvp, RandomState
from rwkd_lightning.data.batching import MetaStream
from rwkd_lightning.meta import MetaStep
from rwkd_lightning.systems.summaries.bank import HeadWithTokenBank
from rwkd_lightning.systems.summaries.datamodule import Pairs, put_together
from rwkd_lightning.systems.summaries.decode import decoded, generation_config
from rwkd_lightning.systems.summaries.loading import (
    check_summariser,
    load_summariser,
    load_summary_tokenizer,
    probe_batch,
    same_tokens,
    save,
    start_of,
    try_writing,
)
from rwkd_lightning.systems.summaries.summariser import Summariser
from rwkd_lightning.systems.summaries.terms import Smooth, TokenCrossEntropy
from rwkd_lightning.systems.summaries.tokenizer import byte_pairs
from rwkd_lightning.terms import stack
from rwkd_lightning.utils.errors import UserError


def tokenizer_of(texts: list[str]) -> Any:
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=byte_pairs(texts, 300), **special, model_max_length=64)


def network_of(kind: str, size: int) -> Any:
    import transformers as t

    torch.manual_seed(0)
    tokens = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1}
    if kind == "t5":
        config = t.T5Config(
            vocab_size=size, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_decoder_layers=3, num_heads=2, **tokens
        )
        return t.T5ForConditionalGeneration(config)
    options = dict(
        vocab_size=size,
        d_model=16,
        encoder_layers=3,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=64,
        init_std=0.3,
        forced_eos_token_id=None,
        **tokens,
    )
    if kind == "pegasus":
        return t.PegasusForConditionalGeneration(t.PegasusConfig(**options))
    return t.BartForConditionalGeneration(t.BartConfig(bos_token_id=1, **options))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    tokenizer = tokenizer_of(["the lamp shines and the door opens"] * 3)
    for kind in ("bart", "t5", "pegasus"):
        folder = tmp_path_factory.mktemp(kind)
        save(folder, Summariser(network_of(kind, len(tokenizer))), tokenizer)
        found[kind] = folder
    return found


@pytest.mark.parametrize("kind", ["bart", "t5", "pegasus"])
def test_models_of_the_hubs_kinds_are_read_cut_and_written(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Prevents: a config of other blocks than the weights have; a student that writes otherwise elsewhere."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    path, tokenizer = str(folders[kind]), load_summary_tokenizer(str(folders[kind]))
    whole, student = load_summariser(path), load_summariser(path, [0, 2], [0])
    assert same_tokens(tokenizer, tokenizer_of(["the lamp shines and the door opens"] * 3))
    for summariser in (whole, student):
        check_summariser(summariser, tokenizer, 20, 8, path)
        try_writing(tmp_path, summariser, tokenizer, "pair.student.path")
    assert student.num_blocks == 1 and sum(p.numel() for p in student.parameters()) < sum(
        p.numel() for p in whole.parameters()
    )
    batch = probe_batch(student, tokenizer, 9, 5)
    outputs = student.eval()(batch)
    assert student.head is not None
    torch.testing.assert_close(F.linear(outputs["features"], student.head.weight), outputs["logits"])
    names = student.block_names()
    assert names and not any(".encoder." in name or "embed" in name or "shared" in name for name in names)
    how = generation_config(student, tokenizer, {"beams": 1, "length_penalty": 1.0, "no_repeat_ngram": 0}, 8)
    asked = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ids = student.network.generate(**asked, generation_config=how)
    student.network.generation_config = how
    save(tmp_path / "written", student, tokenizer)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "written").eval()
    assert torch.equal(again.generate(**asked), ids)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "written")
    assert decoded(theirs, ids) == decoded(tokenizer, ids)


@pytest.mark.parametrize("kind", ["bart", "t5", "pegasus"])
def test_a_noisy_pass_differs_and_a_plain_one_does_not(kind: str, folders: dict[str, Path]) -> None:
    """Prevents: a teacher without noise, because its kind calls the rate by another name."""
    noisy, tokenizer = load_summariser(str(folders[kind]), dropout=0.4), load_summary_tokenizer(str(folders[kind]))
    batch = probe_batch(noisy, tokenizer, 9, 5)
    one, other = (noisy.train()(batch)["logits"] for _ in range(2))
    assert not torch.allclose(one, other)
    still = load_summariser(str(folders[kind]), dropout=0.0).train()
    torch.testing.assert_close(still(batch)["logits"], noisy.eval()(batch)["logits"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "encoder", "decoder", "message"),
    [
        ("bart", [3], None, r"encoder_layers=\[3\]: name each block once, from 0 to 2"),
        ("bart", None, [], r"decoder_layers=\[\]: name each block once"),
        ("t5", [1, 2], None, r"the first block of a t5 differs from the others; keep 0 first"),
    ],
)
def test_blocks_that_cannot_be_kept_are_named(
    kind: str, encoder: list[int] | None, decoder: list[int] | None, message: str, folders: dict[str, Path]
) -> None:
    """Prevents: a T5 without the biases of its positions."""
    with pytest.raises(UserError, match=message):
        load_summariser(str(folders[kind]), encoder, decoder)


def test_models_of_other_kinds_and_broken_ones_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    """Prevents: a model that is filled up with random weights."""
    import shutil

    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path / "bert"
    )
    with pytest.raises(UserError, match=r"is a bert, for which transformers has no encoder-decoder"):
        load_summariser(str(tmp_path / "bert"))
    shutil.copytree(folders["bart"], tmp_path / "half")
    kept = load_file(tmp_path / "half/model.safetensors")
    save_file({n: v for n, v in kept.items() if "decoder.layers.1" not in n}, tmp_path / "half/model.safetensors")
    with pytest.raises(UserError, match=r"its weights lack \d+ tensors, as model.decoder.layers.1"):
        load_summariser(str(tmp_path / "half"))
    with pytest.raises(UserError, match=r"cannot read 200 tokens.*lower data.document_length"):
        tokenizer = load_summary_tokenizer(str(folders["bart"]))
        check_summariser(load_summariser(str(folders["bart"])), tokenizer, 200, 8, "x")


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_the_influence_is_that_of_a_backward_a_summary(kind: str, folders: dict[str, Path]) -> None:
    """Prevents: a mean over padding, or over other held-out tokens than all; the table's other role in ⟨v, ∇l⟩."""
    student = load_summariser(str(folders[kind])).double().eval()
    draw = np.random.default_rng(0)
    start = start_of(student, load_summary_tokenizer(str(folders[kind])))

    def pairs(count: int) -> Pairs:
        documents, targets = ([draw.integers(4, 280, draw.integers(2, 9)) for _ in range(count)] for _ in range(2))
        return Pairs(documents, targets, start, 0)

    train, held = pairs(4), pairs(5)
    terms = [TokenCrossEntropy(), Smooth()]
    meta = MetaStep(Jvp(), HeadWithTokenBank(10**6), [TokenCrossEntropy()], MetaStream(held, put_together, 2, 0))
    meta.build(student)
    batch = train.batch(range(4), [0] * 4)
    state = RandomState.capture(torch.device("cpu"))
    outputs = student(batch)
    found = meta.influence(student, batch, outputs, lambda o: stack(terms, o, batch), torch.ones(4, 2) / 2, state)
    head = student.head
    assert head is not None
    weight = head.weight.detach().clone().requires_grad_()
    losses, count = torch.zeros((), dtype=torch.float64), 0
    for row in range(5):
        one = held.batch([row], [0])
        logits = F.linear(student(one)["features"].detach(), weight)[0]
        losses, count = losses + F.cross_entropy(logits, one["labels"][0], reduction="sum"), count + len(logits)
    (v,) = torch.autograd.grad(losses / count, weight)
    for row in range(4):
        one = train.batch([row], [0])
        logits = {"logits": F.linear(student(one)["features"].detach(), weight)}
        for column, term in enumerate(terms):
            (slope,) = torch.autograd.grad(term(logits, one).sum(), weight, retain_graph=True)
            torch.testing.assert_close(found[row, column], (v * slope).sum(), rtol=1e-6, atol=1e-9)


def test_a_head_with_an_offset_is_refused_for_the_bank(folders: dict[str, Path]) -> None:
    """Prevents: an influence of other logits than the student's."""
    student = load_summariser(str(folders["bart"]))
    student.network.final_logits_bias += 1.0
    with pytest.raises(UserError, match=r"final_logits_bias.*use `theta=All"):
        HeadWithTokenBank().build(student, MetaStream([], put_together, 2, 0))
