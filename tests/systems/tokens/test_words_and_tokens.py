"""What stands between sentences and losses: first tokens, lost words, the bank of words, features, models' tags."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from rwkd_lightning.systems.tokens.bank import WordBank
from rwkd_lightning.systems.tokens.data import Split, TokenData, load_tokens
from rwkd_lightning.systems.tokens.datamodule import TokenDataModule
from rwkd_lightning.systems.tokens.evaluate import names_of
from rwkd_lightning.systems.tokens.features import WordFeatures
from rwkd_lightning.systems.tokens.loading import check_tagger, load_tagger, load_word_tokenizer
from rwkd_lightning.systems.tokens.tagger import first_tokens
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import ClassificationFeatures
from rwkd_lightning.weighting.base import Step
from tests.systems.tokens.conftest import tokenizer

TAGS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


@pytest.fixture(scope="module")
def data(conll: Path) -> TokenData:
    return load_tokens(str(conll))


def finished_teacher(bert: Path, folder: Path, tags: tuple[str, ...]) -> Path:
    """A token classifier of these tags, with random weights."""
    tagger = load_tagger(str(bert), tags)
    torch.manual_seed(1)
    torch.nn.init.normal_(tagger.head.weight)  # type: ignore[union-attr]
    tagger.network.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_a_word_is_its_first_token(data: TokenData, bert: Path) -> None:
    """Prevents: the tag of a word learnt at another word's token, or at its own second one."""
    words = load_word_tokenizer(str(bert))
    loaders, tagger = TokenDataModule(data, words, max_length=24), load_tagger(str(bert), data.tags).eval()
    batch = loaders.meta_stream[0]
    outputs = tagger(batch)
    for row, index in enumerate(batch["index"].tolist()):
        sentence = data.splits["meta"].tokens[index]
        ids = words(sentence, is_split_into_words=True, return_tensors="pt")
        logits = tagger.network(**{n: ids[n] for n in tagger.inputs if n in ids}).logits[0]
        of_words = [words.tokenize(word) for word in sentence]
        place = 1
        for number, parts in enumerate(of_words):
            assert outputs["logits"][row, number].allclose(logits[place], atol=1e-5)
            assert int(batch["labels"][row, number]) == data.splits["meta"].tags[index][number]
            place += len(parts)
        assert (batch["labels"][row, len(sentence) :] == -1).all() and not batch["words"][row, len(sentence) :].any()
    assert outputs["logits"].allclose(F.linear(outputs["features"], tagger.head.weight, tagger.head.bias), atol=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_may_stand_on_either_side(side: str, data: TokenData, bert: Path) -> None:
    """Prevents: a model padded on the left whose words are those of the padding."""
    words = load_word_tokenizer(str(bert))
    words.padding_side = side
    batch = TokenDataModule(data, words, max_length=24).meta_stream[0]
    places = first_tokens(batch["starts"], batch["attention_mask"])
    for row, index in enumerate(batch["index"].tolist()):
        first = [words.convert_tokens_to_ids(words.tokenize(word)[0]) for word in data.splits["meta"].tokens[index]]
        assert batch["input_ids"][row, places[row, : len(first)]].tolist() == first


def test_lost_words_are_counted_and_have_no_tag(bert: Path, conll: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: words cut off that are learnt at the last token, or scored as if they had been read."""
    caplog.set_level(logging.INFO)
    split = Split([["Ann", "Lee", "the", "Rome"], ["a", "​", "to"]], [[3, 4, 0, 1], [0, 0, 0]], [0, 1])
    data = TokenData(TAGS, "iob2", dict.fromkeys(("train", "meta", "validation", "test"), split))
    loaders = TokenDataModule(data, load_word_tokenizer(str(bert)), max_length=6)
    rows = loaders.rows("test")
    assert loaders.width == 3 and rows.labels.tolist()[0] == [3, 4, -1]
    assert rows.extras["words"].tolist()[0] == [True, True, False]
    assert "train: 2 of 7 words are beyond max_length=6 and are not read" in caplog.text
    logits = torch.zeros(2, 3, 5)
    logits[..., 3] = 1
    flat = loaders.flat("test", logits)
    assert flat.shape == (7, 5) and flat.isnan().any(1).tolist()[:4] == [False, False, True, True]
    assert names_of(data, "test", flat)[0] == ["B-PER", "B-PER", "O", "O"]


def test_a_sentence_is_the_mean_of_its_words(data: TokenData, bert: Path) -> None:
    """Prevents: a long sentence with a larger loss than a short one, and padding that counts."""
    split = data.splits["train"]
    said = torch.randn(split.words, len(data.tags), generator=torch.Generator().manual_seed(0)).half()
    loaders = TokenDataModule(data, load_word_tokenizer(str(bert)), max_length=24, teacher={"train": said})
    batch = next(iter(loaders.train_dataloader()))
    logits = torch.randn(*batch["labels"].shape, len(data.tags), generator=torch.Generator().manual_seed(1))
    ce = CrossEntropy()({"logits": logits}, batch)
    kd = DistillationKL(2.0, mask="taught")({"logits": logits}, batch)
    begins = torch.tensor([0, *map(len, split.tokens)]).cumsum(0)
    for row, index in enumerate(batch["index"].tolist()):
        count, labels = len(split.tokens[index]), torch.tensor(split.tags[index])
        teacher = (said[begins[index] : begins[index] + count].double() / 2).softmax(1)
        own = (logits[row, :count].double() / 2).log_softmax(1)
        assert float(ce[row]) == pytest.approx(float(F.cross_entropy(logits[row, :count].double(), labels)), rel=1e-5)
        expected = 4 * (teacher * (teacher.log() - own)).sum(1).mean()
        assert float(kd[row]) == pytest.approx(float(expected), rel=1e-4)


def test_features_are_means_over_words() -> None:
    """Prevents: features that depend on the padding of a batch."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 4, 3, generator=draw) for _ in range(2))
    labels = torch.tensor([[0, 2, -1, -1], [1, 1, 0, 2]])
    batch = {"labels": labels, "teacher_logits": teacher, "taught": labels >= 0, "index": torch.arange(2)}
    found = WordFeatures()(Step(torch.zeros(2, 2), torch.ones(2, 2), ["ce", "kd"], {"logits": student}, batch))
    for row, count in enumerate((2, 4)):
        words = {"labels": labels[row, :count], "teacher_logits": teacher[row, :count], "index": torch.arange(count)}
        step = Step(torch.zeros(count, 2), torch.ones(count, 2), ["ce", "kd"], {"logits": student[row, :count]}, words)
        each = ClassificationFeatures()(step)
        assert found[row, :8].allclose(each.mean(0), atol=1e-6) and found[row, 8].isclose(each[:, 3].min())


def test_the_bank_holds_every_word_once() -> None:
    """Prevents: a word's features kept at another word's tag."""
    read = torch.tensor([[True, True, False], [True, False, True], [True, True, True]])
    bank, labels = WordBank(read, 2), torch.arange(9).reshape(3, 3)
    features = torch.stack([labels, -labels], -1).float()
    for rows in ([2, 0], [1]):
        batch = {"index": torch.tensor(rows), "labels": labels[rows], "words": read[rows]}
        bank.place(batch)
        bank.refresh(features[rows], batch)
    assert bank.filled and bank.targets["labels"].tolist() == labels[read].tolist()
    assert torch.equal(bank.features, features[read])


def test_a_finished_teacher_in_another_order_is_mapped(bert: Path, tmp_path: Path, data: TokenData) -> None:
    """Prevents: a teacher whose persons are taken for places."""
    folder = finished_teacher(bert, tmp_path / "teacher", TAGS[::-1])
    mapped = load_tagger(str(folder), TAGS, trained=True).eval()
    batch = TokenDataModule(data, load_word_tokenizer(str(folder)), max_length=24).meta_stream[0]
    plain = load_tagger(str(folder), TAGS[::-1], trained=True).eval()
    assert torch.equal(mapped(batch)["logits"], plain(batch)["logits"].flip(-1))


def test_models_that_do_not_fit_are_named(bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: a teacher of other tags that trains the student in silence."""
    other = finished_teacher(bert, tmp_path / "other", ("O", "B-ORG"))
    with pytest.raises(
        UserError, match=r"has the tags O, B-ORG, and the data have O, B-LOC, I-LOC, B-PER, I-PER; give"
    ):
        load_tagger(str(other), TAGS, trained=True)
    with pytest.raises(UserError, match=r"has no trained head of a token classifier .* pair.teacher.epochs=3"):
        load_tagger(str(bert), TAGS, trained=True)
    with pytest.raises(UserError, match=r"pair.teacher.labels=\['O'\] names 1 tags, model .* has 2 outputs"):
        load_tagger(str(other), TAGS, trained=True, names=["O"])
    turned = finished_teacher(bert, tmp_path / "turned", TAGS[::-1])
    with pytest.raises(UserError, match=r"has the tags in another order .* pair.student.new_head=true"):
        load_tagger(str(turned), TAGS)
    assert load_tagger(str(turned), TAGS, new_head=True).order is None
    unnamed = finished_teacher(bert, tmp_path / "unnamed", tuple(f"LABEL_{i}" for i in range(5)))
    load_tagger(str(unnamed), TAGS, trained=True)
    assert "does not name its tags; they are taken as O, B-LOC" in caplog.text


def test_a_slow_tokenizer_is_refused(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a failure in the middle of the encoding, without a way out."""
    from rwkd_lightning.systems.tokens import loading

    class Slow:
        is_fast = False

    monkeypatch.setattr(loading, "load_tokenizer", lambda path: Slow())
    with pytest.raises(
        UserError, match=r"its tokenizer \(Slow\) is a slow one, which does not tell which word a token is"
    ):
        load_word_tokenizer(str(bert))


def test_other_kinds_of_models_are_refused(tmp_path: Path) -> None:
    """Prevents: transformers' list of a hundred classes as an answer."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"is a whisper, for which transformers has no token classifier"):
        load_tagger(str(tmp_path), TAGS)


def test_a_tokenizer_takes_words(bert: Path, data: TokenData) -> None:
    """Prevents: a max_length that no sentence fits into, told by a stack of calls."""
    words: Any = load_word_tokenizer(str(bert))
    for length in (2, 65):
        with pytest.raises(UserError, match=rf"data.max_length is {length}; this tokenizer takes 3 to 64 tokens"):
            TokenDataModule(data, words, max_length=length)


def test_words_of_a_byte_level_tokenizer_begin_with_a_blank(tmp_path: Path) -> None:
    """Prevents: RoBERTa's words read as parts of one long word, or refused by its tokenizer."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel

    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(["so Ann went to Rome"] * 9, 300, 1, special_tokens=[*special.values(), "<mask>"])
    made.save(str(tmp_path / "tokenizer.json"))
    made.save_model(str(tmp_path))
    settings = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": False, "model_max_length": 40, **special}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "cls_token": "<s>", "sep_token": "</s>"}))
    config = RobertaConfig(
        vocab_size=len(vocabulary(tmp_path)),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    RobertaModel(config).save_pretrained(tmp_path)
    words = load_word_tokenizer(str(tmp_path))
    found = words(["Ann", "went", "to"], is_split_into_words=True)
    assert found.tokens() == ["<s>", "ĠAnn", "Ġwent", "Ġto", "</s>"]
    check_tagger(load_tagger(str(tmp_path), TAGS), words, 24, str(tmp_path))


def vocabulary(folder: Path) -> dict[str, int]:
    """The tokens of a byte-level vocabulary."""
    found: dict[str, int] = json.loads((folder / "vocab.json").read_text())
    return found
