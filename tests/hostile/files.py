"""Hostile files where a model, a tokenizer or a result in the cache is expected."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from rwkd_lightning.cache import store as stores
from rwkd_lightning.cache.__main__ import entries, table
from rwkd_lightning.cache.store import Store, tensors
from rwkd_lightning.systems.text.data.encoding import encode, encode_kept
from rwkd_lightning.systems.text.data.tweets import TWEETS, load_tweets
from rwkd_lightning.systems.text.models import check_inputs, load_classifier, load_tokenizer
from tests.hostile.common import ACCEPTED, REFUSED, Step, folder, listing, recipes, refusal
from tests.hostile.models import backbone
from tests.hostile.models import tokenizer as make_tokenizer

SETTINGS = [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "architectures",
    "hidden_act",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "pad_token_id",
    "type_vocab_size",
    "auto_map",
    "dtype",
    "torch_dtype",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "is_decoder",
    "tie_word_embeddings",
    "transformers_version",
    "classifier_dropout",
    "initializer_range",
    "use_cache",
    "output_hidden_states",
    "return_dict",
    "base_model_tp_plan",
    "_name_or_path",
    "chunk_size_feed_forward",
    "tokenizer_class",
    "model_max_length",
    "padding_side",
    "truncation_side",
    "pad_token",
    "unk_token",
    "cls_token",
    "added_tokens_decoder",
    "extra",
]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    3,
    10**7,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    1e300,
    "",
    "x",
    "os.system",
    "own.Own",
    "../x",
    "bert",
    "gpt2",
    "kernels-community/flash-attn",
    [],
    ["own--own.Own"],
    {"AutoModel": "own.Own"},
    {"AutoConfig": "x/y--own.Own"},
    {"AutoTokenizer": ["own.Own", None]},
    {"0": "a", "1": "b"},
    {"a": "b"},
    {"quant_method": "bitsandbytes"},
    "float16",
    "[MASK]",
    2**63,
]
JUNK = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"5",
    b'"x"',
    b"\xff\xfe",
    b"\0",
    b"[" * 100_000,
    b'{"a": ' * 50_000,
    b"{}",
    b'{"weight_map": {}}',
    b"PK\x03\x04",
    b'{"weight_map": {"x": "../../x.safetensors"}}',
    b'{"weight_map": {"x": 5}}',
    b'{"weight_map": []}',
    b'{"files": {}, "key": {}}',
    b'{"key": {"a": 1}, "files": {"../../x": "y"}}',
    b'{"key": 5, "files": []}',
    b"1" * 10_000,
    b'{"model_type": ["bert"]}',
    b'{"model_type": "own"}',
]
RAN = "ran"


class Payload:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def payload(root: Path, b: int = 0) -> bytes:
    """It, as pickle writes it or as torch does."""
    if b % 2:
        torch.save(Payload(str(root / RAN)), root / "payload.bin")
        return (root / "payload.bin").read_bytes()
    return pickle.dumps(Payload(str(root / RAN)))


@cache
def sound() -> dict[str, bytes]:
    """The files of a model."""
    return {path.name: path.read_bytes() for path in backbone().iterdir() if path.suffix in (".json", ".safetensors")}


def damaged(data: bytes, a: int, b: int, root: Path) -> bytes:
    """Cut off, overwritten, replaced by junk or by a pickle."""
    place = (a * 4096 + b) % (len(data) + 1)
    return [
        lambda: data[:place],
        lambda: data[:place] + bytes([b % 256]) + data[place + 1 :],
        lambda: JUNK[b % len(JUNK)],
        lambda: payload(root, b),
        lambda: data + b"x",
        lambda: struct.pack("<Q", [0, 1, 2**40, 2**63, 8][b % 5]) + data[8:],
    ][a % 6]()


def setting(file: str) -> Callable[[Path, int, int], None]:
    def step(model: Path, a: int, b: int) -> None:
        try:
            content = json.loads((model / file).read_text())
            content[SETTINGS[a % len(SETTINGS)]] = VALUES[b % len(VALUES)]
        except (ValueError, TypeError, OSError, RecursionError):
            return
        (model / file).write_text(json.dumps(content))

    return step


def part_of_tokenizer(model: Path, a: int, b: int) -> None:
    try:
        content = json.loads((model / "tokenizer.json").read_text())
        content[sorted(content)[a % len(content)]] = VALUES[b % len(VALUES)]
    except (ValueError, TypeError, OSError, RecursionError):
        return
    (model / "tokenizer.json").write_text(json.dumps(content))


def bytes_of(model: Path, a: int, b: int) -> None:
    name = sorted(sound())[b % len(sound())]
    if (model / name).is_file():
        (model / name).write_bytes(damaged((model / name).read_bytes(), a, b // 7, model.parent))


def weights(model: Path, a: int, b: int) -> None:
    """A tensor left out, of another shape or type, NaN, or under another name."""
    try:
        state = load_file(model / "model.safetensors")
    except Exception:
        return
    name = sorted(state)[b % len(state)] if state else None
    if name is None:
        return
    x = state[name].float()
    changed = [
        None,
        x[:-1].clone(),
        x.double(),
        torch.full_like(x, float("nan")),
        x.half(),
        (x * 100).to(torch.int64),
        x[None].clone(),
        torch.full_like(x, float("inf")),
        x.new_zeros(0),
    ][a % 9]
    del state[name]
    if changed is not None:
        state[name if a % 5 else f"{name}.more"] = changed
    (model / "model.safetensors").write_bytes(save(state, metadata={"format": "pt"} if a % 11 else None))


def only_pickle(model: Path, a: int, b: int) -> None:
    (model / "model.safetensors").unlink(missing_ok=True)
    name = [
        "pytorch_model.bin",
        "model.pt",
        "tf_model.h5",
        "flax_model.msgpack",
        "pytorch_model.bin.index.json",
        "model.ckpt",
        "model.pkl",
    ][a % 7]
    (model / name).write_bytes(payload(model.parent, b))


def index(model: Path, a: int, b: int) -> None:
    """An index of weights in several files, that leads elsewhere."""
    (model / "model.safetensors").unlink(missing_ok=True)
    (model.parent / "outside.safetensors").write_bytes(sound()["model.safetensors"])
    (model / "pytorch_model.bin").write_bytes(payload(model.parent, b))
    name = [
        "../outside.safetensors",
        str(model.parent / "outside.safetensors"),
        "pytorch_model.bin",
        5,
        None,
        "x" * 300,
        "a\nb.safetensors",
        "./../outside.safetensors",
    ][a % 8]
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"x": name}}))


def own_code(model: Path, a: int, b: int) -> None:
    """Classes of its own beside the model."""
    (model / "own.py").write_text(f"open({str(model.parent / RAN)!r}, 'w')\nclass Own: pass\n")
    for file, key in (
        ("config.json", "AutoConfig"),
        ("config.json", "AutoModelForSequenceClassification"),
        ("tokenizer_config.json", "AutoTokenizer"),
    ):
        try:
            content = json.loads((model / file).read_text())
            content["auto_map"] = {
                **content.get("auto_map", {}),
                key: ["own.Own", "own.Own"] if "Tok" in key else "own.Own",
            }
            if b % 2:
                content["model_type"] = "own"
        except (ValueError, TypeError, AttributeError, OSError, RecursionError):
            continue
        (model / file).write_text(json.dumps(content))


def in_its_place(model: Path, a: int, b: int) -> None:
    path = model / sorted(sound())[a % len(sound())]
    if path.is_file():
        path.unlink()
        if b % 3 == 0:
            path.mkdir()
        elif b % 3 == 1:
            os.symlink(path, path)


MODEL: dict[str, Callable[[Path, int, int], None]] = {
    "config": setting("config.json"),
    "tokenizer_config": setting("tokenizer_config.json"),
    "tokenizer": part_of_tokenizer,
    "bytes": bytes_of,
    "weights": weights,
    "only_pickle": only_pickle,
    "index": index,
    "own_code": own_code,
    "place": in_its_place,
    "adapter": lambda model, a, b: (model / "adapter_config.json").write_bytes(JUNK[b % len(JUNK)]) and None,
}
CACHE = ["bytes", "place", "forge", "tensor"]
strategy = st.one_of(st.tuples(st.just("model"), recipes(list(MODEL))), st.tuples(st.just("cache"), recipes(CACHE)))


def check(example: tuple[str, list[Step]]) -> str:
    """Loaded as it is in the files, or refused in one line; nothing runs, nothing is written."""
    kind, recipe = example
    with folder() as root:
        result = (check_model if kind == "model" else check_cache)(root, recipe)
        assert not (root / RAN).exists(), "a payload was run"
    return result


def check_model(root: Path, recipe: list[Step]) -> str:
    model = root / "model"
    model.mkdir()
    for name, data in sound().items():
        (model / name).write_bytes(data)
    for name, a, b in recipe:
        MODEL[name](model, a, b)
    before = listing(root)

    def load() -> Any:
        classifier, tokenizer = load_classifier(str(model), TWEETS), load_tokenizer(str(model))
        check_inputs(classifier, tokenizer, 16, str(model))
        return classifier, encode(some_tweets().splits["test"], tokenizer, ["text"], 16)

    loaded, message = refusal(load)
    assert listing(root) == before, "something was written beside the model"
    if loaded is None:
        assert (
            recipe and message and (str(model) in message or "data.max_length" in message or "no token" in message)
        ), message
        return REFUSED
    network = loaded[0].network
    state, stored = network.state_dict(), load_file(model / "model.safetensors")
    own = {name: x for name, x in state.items() if name.startswith(network.base_model_prefix)}
    pooler = f"{network.base_model_prefix}.pooler"
    for name, x in own.items():
        given = stored.get(name, stored.get(name.removeprefix(f"{network.base_model_prefix}.")))
        assert given is not None or name.startswith(pooler), f"{name} is not in the file and was made up"
        assert given is None or torch.equal(x.float(), given.float()) or given.dtype != x.dtype, (
            f"{name} is not what the file holds"
        )
    return ACCEPTED


@cache
def some_tweets() -> Any:
    return load_tweets(
        str(backbone() / "tweets.csv"), {"teacher_train": 60, "train": 30, "meta": 30, "validation": 5, "test": 5}
    )


def check_cache(root: Path, recipe: list[Step]) -> str:
    """An entry of tokens and one of logits, each damaged and read again."""
    store, key = Store(root / "cache"), {"of": "logits"}
    data, tokens, logits = some_tweets(), make_tokenizer(), torch.arange(15.0).reshape(5, 3)
    sound_tokens = encode_kept(
        data, "test", tokens, 16, store
    ).to_pydict()  # a copy: the file under the table is overwritten
    entry = store.get("logits", key, lambda part: save_file({"test": logits}, part / "logits.safetensors"))
    files = sorted(path for path in (root / "cache").glob("*/*/*") if path.is_file())
    for name, a, b in recipe:
        spoil(name, files[a % len(files)], a // 3, b, root)
    stores._verified.clear()  # as another process
    before = listing(root)
    table(entries(root / "cache"))
    read, _ = refusal(lambda: encode_kept(data, "test", tokens, 16, store))
    found, _ = refusal(lambda: tensors(store.get("logits", key, never) / "logits.safetensors", {"test": (5, 3)}))
    for name, size in ((row[1], row[3]) for row in listing(root) if row not in before):
        assert name in ("key.json", "tokens", "logits") or name.endswith(".lock") or size, f"{name} was written"
    forged = any(name in ("forge", "tensor") for name, _, _ in recipe)
    if read is not None and not forged:
        assert read.to_pydict() == sound_tokens
    if found is not None and not forged:
        assert torch.equal(found["test"], logits)
    assert recipe or (read is not None and found is not None and entry.is_dir())
    return REFUSED if read is None or found is None else ACCEPTED


def never(part: Path) -> None:
    """A result that was removed is built anew."""
    save_file({"test": torch.arange(15.0).reshape(5, 3)}, part / "logits.safetensors")


def spoil(name: str, file: Path, a: int, b: int, root: Path) -> None:
    """Damage a file of the cache; forged: with its digest in key.json made right again."""
    if not file.is_file():
        return
    if name == "place":
        file.unlink()
        if b % 2:
            file.mkdir()
        return
    if name == "tensor" and file.suffix == ".safetensors":
        save_file(
            [{}, {"test": torch.zeros(5, 4)}, {"test": torch.zeros(4, 3)}, {"other": torch.zeros(5, 3)}][b % 4], file
        )
    else:
        file.write_bytes(damaged(file.read_bytes(), a, b, root))
    key = file.with_name("key.json")
    if name != "bytes" and file != key and key.is_file():
        try:
            content = json.loads(key.read_text())
            content["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        except (ValueError, TypeError, KeyError, RecursionError):
            return
        key.write_text(json.dumps(content))
