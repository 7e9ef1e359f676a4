"""Models that are not there, not whole, or not to be trusted: one line each, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rwkd_lightning.systems.text.models import load_classifier, load_tokenizer
from rwkd_lightning.utils.errors import UserError
from tests.systems.text.models.conftest import TASK


def edit(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.ones(1)}, folder / "pytorch_model.bin")


def half(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "model-00001-of-00002.safetensors"}})
    )


def other_weights(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"bert.something": torch.ones(1)}, folder / "model.safetensors", metadata={"format": "pt"})


def adapter(folder: Path, base: object = "org/base", config: bool = False) -> None:
    for file in folder.iterdir():
        if file.name != "config.json" or not config:
            file.unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(b"")


def other_format(folder: Path, *names: str, config: bool = True) -> None:
    (folder / "model.safetensors").unlink()
    if not config:
        (folder / "config.json").unlink()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")


def inner(folder: Path) -> None:
    files = list(folder.iterdir())
    (folder / "0_Transformer").mkdir()
    for file in files:
        file.rename(folder / "0_Transformer" / file.name)
    (folder / "modules.json").write_text("[]")


BREAK = {
    "adapter": (adapter, ["adapter to 'org/base'", ": "]),
    "adapter_beside_a_config": (lambda f: adapter(f, config=True), ["adapter to 'org/base'", ": "]),
    "adapter_of_nothing": (
        lambda f: adapter(f, base=None),
        ["adapter to other weights", "give base_model_name_or_path"],
    ),
    "gguf": (
        lambda f: other_format(f, "model-q4.gguf", config=False),
        ["llama.cpp (model-q4.gguf)", "cannot be trained"],
    ),
    "onnx": (lambda f: other_format(f, "onnx/model.onnx"), ["ONNX (onnx/model.onnx)", "cannot be trained"]),
    "openvino": (
        lambda f: other_format(f, "openvino_model.xml", "openvino_model.bin"),
        ["OpenVINO", "cannot be trained"],
    ),
    "tensorflow": (lambda f: other_format(f, "tf_model.h5"), ["TensorFlow (tf_model.h5)"]),
    "flax": (lambda f: other_format(f, "flax_model.msgpack"), ["Flax (flax_model.msgpack)"]),
    "sentence_transformers_of_old": (inner, ["0_Transformer; give "]),
    "no_classifier": (lambda f: edit(f, model_type="whisper"), ["is a whisper", "no sequence classifier"]),
    "numbers_missing": (lambda f: edit(f, num_attention_heads=3), ["cannot be loaded"]),
    "remote_code": (
        lambda f: edit(f, model_type="own", auto_map={"AutoModel": "own.Own"}),
        ["code of its own", "never run"],
    ),
    "unknown_kind": (lambda f: edit(f, model_type="brand_new"), ["no known kind", "'brand_new'"]),
    "pickled_weights": (pickled, ["pytorch_model.bin", "save_pretrained"]),
    "interrupted_download": (
        lambda f: (f / "model.safetensors").unlink(),
        ["model.safetensors is missing", "fetch it again"],
    ),
    "lost_shard": (lost_shard, ["model-00001-of-00002.safetensors is missing"]),
    "half_weights": (half, ["cannot be loaded", "fetch it again"]),
    "half_config": (lambda f: (f / "config.json").write_text('{"model_type": "be'), ["config.json is not JSON"]),
    "other_weights": (other_weights, ["lack", "transformer blocks"]),
    "no_config": (lambda f: (f / "config.json").unlink(), ["no config.json"]),
}


@pytest.mark.parametrize("case", BREAK)
def test_bad_model(case, save):
    """Prevents: running a stranger's code, random weights taken for trained ones, and tracebacks."""
    folder = save(labels=["neg", "mid", "pos"])
    change, words = BREAK[case]
    change(folder)
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(UserError) as caught:
        load_classifier(str(folder), TASK)
    message = str(caught.value)
    assert all(word in message for word in [*words, str(folder)]) and "\n" not in message
    assert (
        case in ("interrupted_download", "half_weights", "half_config")
        or "fetch it again" not in message
        or "shard" in case
    )
    assert sorted(p.name for p in folder.iterdir()) == before


def test_no_tokenizer(save):
    """Prevents: an empty vocabulary that turns every text into unknown tokens."""
    folder = save()
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="tokenizer") as caught:
        load_tokenizer(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("RepositoryNotFoundError", ["no public model of that name", "spelling"]),
        ("GatedRepoError", ["accepted its terms"]),
        ("LocalEntryNotFoundError", ["cannot be reached"]),
        ("ConnectionResetError", ["could not be fetched", "run again to go on"]),
    ],
)
def test_hub_answers(error, words, monkeypatch):
    """Prevents: pages of a client's traceback for a typo, a private model or a network that breaks off."""
    from huggingface_hub import errors

    def answer(*args, **kwargs):
        kind = getattr(errors, error, ConnectionResetError)
        raise kind.__new__(kind, "peer\nreset")  # its __init__ wants the response object of one HTTP library or another

    monkeypatch.setattr("huggingface_hub.snapshot_download", answer)
    with pytest.raises(UserError) as caught:
        load_classifier("google-bert/bert-bas-uncased", TASK)
    assert all(word in str(caught.value) for word in [*words, "bert-bas-uncased"]) and "\n" not in str(caught.value)


def test_a_hub_that_has_no_safetensors(save, monkeypatch):
    """Prevents: a download that is called broken off, where the hub has the weights in a format that is not fetched."""
    folder = save(labels=3)
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: str(folder))
    with pytest.raises(UserError, match="no model.safetensors came from the hub.* another format; give a directory"):
        load_classifier("owner/model", TASK)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("./no/such/folder", ["is not a directory"]),
        ("no such model", ["is not a directory"]),
        ("package:not_installed/model", ["pip install not-installed"]),
        ("package:transformers/nothing", ["no config.json"]),
        ("no-such/model", ["hub cannot be reached", "HF_HUB_OFFLINE"]),
    ],
)
def test_bad_path(path, words):
    """Prevents: a mistyped folder asked for at the hub, with its wait and its message about something else."""
    with pytest.raises(UserError) as caught:
        load_classifier(path, TASK)
    assert all(word in str(caught.value) for word in [*words, path]) and "\n" not in str(caught.value)
