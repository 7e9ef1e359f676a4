"""The passes of a student of text and picture, and the meta step over its head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rwkd_lightning.bilevel import Jvp, RandomState
from rwkd_lightning.meta import HeadWithBank, MetaStep
from rwkd_lightning.systems.multimodal.bank import HeadOverModalities, over_modalities
from rwkd_lightning.systems.multimodal.corruption import swaps_of
from rwkd_lightning.systems.multimodal.datamodule import MultimodalDataModule
from rwkd_lightning.systems.multimodal.formats import load_pairs
from rwkd_lightning.systems.multimodal.fusion import PASSES, Fusion, ModalityDropout
from rwkd_lightning.systems.multimodal.loading import begin, load_network
from rwkd_lightning.systems.multimodal.terms import ModalityKL, ModalityMSE
from rwkd_lightning.systems.text.models.loading import load_tokenizer
from rwkd_lightning.terms import CrossEntropy, DistillationKL, stack

OF_TEXT, OF_IMAGE = {"output": "logits_text", "mask": "has_text"}, {"output": "logits_image", "mask": "has_image"}
TERMS = [CrossEntropy(), DistillationKL(2.0), ModalityKL(2.0, **OF_TEXT), ModalityMSE("mse_image", **OF_IMAGE)]


@pytest.fixture(scope="module")
def data(pairs: Path, text_model: Path) -> MultimodalDataModule:
    whole = load_pairs(str(pairs)).held_out(0.2, 0)
    g = torch.Generator().manual_seed(0)
    features = torch.randn(len(whole.pictures), 4, 16, generator=g).double()
    teacher = {name: torch.randn(len(rows), 3, 3, generator=g) for name, rows in whole.splits.items()}
    tokenizer = load_tokenizer(str(text_model))
    return MultimodalDataModule(whole, features, tokenizer, max_length=12, teacher=teacher, meta_batch_size=4)


@pytest.fixture(scope="module")
def student(text_model: Path, data: MultimodalDataModule) -> Fusion:
    torch.manual_seed(1)
    network = load_network(str(text_model), data.data.classes, 16, features=data.features)
    torch.nn.init.normal_(network.cls.weight, std=0.5)
    return Fusion(network.double(), 3).eval()


def batch_of(data: MultimodalDataModule, rows: Sequence[int]) -> dict[str, Tensor]:
    split = data.rows("train")
    return data.collator([split[row] for row in rows])


def test_a_pass_sees_its_own_modality_alone(student: Fusion, data: MultimodalDataModule) -> None:
    """Prevents: a picture that the text's pass sees, and a text whose length tells the picture's."""
    batch = batch_of(data, range(12))
    said = student(batch)
    others = {**batch, "visual_embeds": torch.randn_like(batch["visual_embeds"])}
    torch.testing.assert_close(student(others)["logits_text"], said["logits_text"])
    assert float((student(others)["logits"] - said["logits"]).abs().max().detach()) > 1e-3
    longer = {**batch, "input_ids": batch["input_ids"].flip(0), "attention_mask": batch["attention_mask"].flip(0)}
    torch.testing.assert_close(student(longer)["logits_image"], said["logits_image"])


def test_a_row_without_a_modality_is_that_of_the_other_alone(student: Fusion, data: MultimodalDataModule) -> None:
    """Prevents: zeros for a picture, or the prompt of an empty text, that the model reads as if they were there."""
    batch = batch_of(data, range(12))
    none = torch.zeros(12, dtype=torch.bool)
    whole = {**batch, "has_text": ~none, "has_image": ~none}
    said = student(whole)
    without_text, without_image = student({**whole, "has_text": none}), student({**whole, "has_image": none})
    torch.testing.assert_close(without_text["logits"], said["logits_image"])
    torch.testing.assert_close(without_image["logits"], said["logits_text"])


def test_a_row_says_the_same_alone_as_in_a_batch(student: Fusion, data: MultimodalDataModule) -> None:
    """Prevents: padding that reaches a row's answer."""
    together = student(batch_of(data, range(20)))
    for row in (0, 4, 9, 17):
        alone = student(batch_of(data, [row]))
        for name in ("logits", "logits_text", "logits_image"):
            torch.testing.assert_close(alone[name][0], together[name][row])


def test_the_text_pass_begins_as_the_bert_that_it_is_made_of(text_model: Path, data: MultimodalDataModule) -> None:
    """Prevents: weights that are lost on the way from a BERT to a VisualBERT, which would train from noise."""
    from transformers import AutoModel

    bert = AutoModel.from_pretrained(text_model).eval()
    mine = Fusion(load_network(str(text_model), ["a", "b"], 16), 3).eval()
    batch = batch_of(data, [row for row in range(12) if data.rows("train").extras["has_text"][row]])
    theirs = bert(batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
    torch.testing.assert_close(mine.features(batch, "text"), theirs)


def test_the_map_begins_with_standardised_features() -> None:
    """Prevents: features of large means that drown the words at the first step."""
    torch.manual_seed(0)
    features = torch.randn(500, 6) * torch.tensor([1.0, 5, 0.1, 2, 3, 0]) + torch.arange(6)
    before = torch.nn.Linear(6, 4)
    after = torch.nn.Linear(6, 4)
    after.load_state_dict(before.state_dict())
    with torch.no_grad():
        begin(after, features)
    z = (features - features.mean(0)).numpy() / np.maximum(features.std(0).numpy(), 1e-9)
    expected = torch.from_numpy(z @ before.weight.detach().numpy().T)
    torch.testing.assert_close(after(features), expected.float(), atol=1e-5, rtol=1e-4)


def test_modality_dropout_leaves_out_one_of_two(text_model: Path, data: MultimodalDataModule) -> None:
    """Prevents: a teacher that is shown nothing at all, or that loses modalities when it is asked."""
    seen: list[tuple[Tensor, Tensor]] = []

    class Noted(ModalityDropout):
        def features(self, batch: Any, kind: str) -> Tensor:
            seen.append((batch["has_text"], batch["has_image"]))
            return super().features(batch, kind)

    network = load_network(str(text_model), ["a", "b"], 16)
    teacher = Noted(network, 3, 0.5)
    batch = {name: x.repeat_interleave(40, 0) for name, x in batch_of(data, range(15)).items()}
    torch.manual_seed(0)
    teacher.train()(batch)
    teacher.eval()(batch)
    (text, image), (text_later, image_later) = seen
    assert bool((text | image).all())
    both = batch["has_text"] & batch["has_image"]
    for there in (text, image):
        assert float((~there)[both].float().mean()) == pytest.approx(0.25, abs=0.06)
    torch.testing.assert_close(text_later, batch["has_text"])
    torch.testing.assert_close(image_later, batch["has_image"])


@pytest.mark.parametrize("loss", [TERMS[:1], [TERMS[0], TERMS[1], TERMS[2]]], ids=["hard", "mix"])
def test_influence_of_all_terms_against_a_backward_for_each(
    loss: Any, student: Fusion, data: MultimodalDataModule
) -> None:
    """Prevents: weights of a modality that are learned from another one's features."""
    batch = batch_of(data, range(10))
    meta = over_modalities(MetaStep(Jvp(), HeadWithBank(), loss, data.meta_stream), student)
    assert isinstance(meta.theta, HeadOverModalities)
    meta.build(student)
    found = meta.influence(
        student,
        batch,
        lambda: student(batch),
        lambda outputs: stack(TERMS, outputs, batch),
        torch.ones(10, 4).double(),
        RandomState.capture(torch.device("cpu")),
    )
    head = list(student.head.parameters())
    held_out = next(data.meta_stream.all(1000))
    v = torch.autograd.grad(stack(loss, student(held_out), held_out).sum(1).mean(), head)
    losses = stack(TERMS, student(batch), batch)
    expected = torch.zeros(10, 4).double()
    for row in range(10):
        for k in range(4):
            own = torch.autograd.grad(losses[row, k], head, retain_graph=True, allow_unused=True)
            expected[row, k] = sum(
                ((a * b).sum() for a, b in zip(v, own, strict=True) if b is not None), torch.zeros(())
            )
    torch.testing.assert_close(found.double(), expected, atol=1e-10, rtol=1e-8)
    assert float(found[:, 2:].abs().max()) > 0


def test_terms_of_a_modality_have_no_value_without_it(student: Fusion, data: MultimodalDataModule) -> None:
    """Prevents: a row without a picture that is trained on what the teacher says of none."""
    batch = batch_of(data, range(20))
    losses = stack(TERMS, student(batch), batch)
    assert not bool(batch["has_text"].all()) and not bool(batch["has_image"].all())
    torch.testing.assert_close(TERMS[2].valid(batch), batch["has_text"])
    torch.testing.assert_close(losses[:, 2] == 0, ~batch["has_text"])
    torch.testing.assert_close(losses[:, 3] == 0, ~batch["has_image"])
    p, q = (x.softmax(1) for x in (student(batch)["logits_text"] / 2, batch["teacher_logits_text"].double() / 2))
    expected = 4 * (q * (q.log() - p.log())).sum(1)
    torch.testing.assert_close(losses[:, 2][batch["has_text"]], expected[batch["has_text"]], atol=1e-5, rtol=1e-5)


def test_swaps_deal_rows_round_and_are_flagged(data: MultimodalDataModule, text_model: Path) -> None:
    """Prevents: a probe whose flags are of other rows than those that were changed."""
    rows = data.data.splits["train"]
    swaps = swaps_of(rows, 0.4, 0.3, seed=5)
    tokenizer = load_tokenizer(str(text_model))
    loaders = MultimodalDataModule(data.data, data.features, tokenizer, max_length=12, swaps=swaps)
    seen, flags = loaders.examples("train"), loaders.train_flags
    assert sorted(seen.texts) == sorted(rows.texts) and sorted(seen.pictures) == sorted(rows.pictures)
    for row in range(len(rows)):
        assert bool(flags["text_swapped"][row]) == (seen.texts[row] != rows.texts[row])
        assert bool(flags["image_swapped"][row]) == (seen.pictures[row] != rows.pictures[row])
        assert bool(seen.texts[row]) == bool(rows.texts[row])
    there = sum(bool(text) for text in rows.texts)
    assert int((swaps.texts != np.arange(len(rows))).sum()) == round(0.4 * there)
    assert loaders.examples("meta") is data.data.splits["meta"]


def test_all_passes_are_one_network(student: Fusion) -> None:
    """Prevents: a picture's pass with a head of its own, of which the bank would know nothing."""
    assert student.passes == PASSES and student.head is student.network.cls
