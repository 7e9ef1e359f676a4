"""A teacher given as an adapter (LoRA) beside its base."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rwkd_lightning.systems.text.data.tweets import TWEETS
from rwkd_lightning.systems.text.models import find, fingerprint, load_classifier, load_tokenizer
from rwkd_lightning.utils import adapters
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import finished

peft: Any = pytest.importorskip("peft")


@pytest.fixture
def adapter(backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LoRA of three classes on the tiny BERT, its weights drawn anew, as PEFT saves it."""
    from transformers import AutoModelForSequenceClassification

    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    torch.manual_seed(5)
    base = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=3)
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=["query", "value"])
    model = peft.get_peft_model(base, settings)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "classifier" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    folder = tmp_path / "adapter"
    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(backbone)}))
    torch.save(model.eval(), tmp_path / "whole.pt")
    return folder


def test_the_merged_model_says_what_the_adapter_says(adapter: Path, tmp_path: Path) -> None:
    """Prevents: a base without its adapter, a head that is drawn anew, a scale (alpha/r) that is lost."""
    model = torch.load(tmp_path / "whole.pt", weights_only=False)  # of this test
    labels = ["positive", "negative", "neutral"]
    classifier = load_classifier(str(adapter), TWEETS, trained=True, labels=labels)
    tokenizer = load_tokenizer(str(adapter))
    tokens = tokenizer(["the good table", "bad"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**tokens).logits
        found = classifier.eval()({**tokens, "index": torch.arange(2)})["logits"]
    torch.testing.assert_close(found, expected[:, [1, 2, 0]], atol=1e-5, rtol=1e-5)
    again, first = find(str(adapter)), fingerprint(find(str(adapter)))
    assert again == find(str(adapter)) and "model.safetensors" in first
    with torch.no_grad():
        moved = {name: 2 * x for name, x in peft.utils.load_peft_weights(adapter).items()}
    from safetensors.torch import save_file

    save_file(moved, adapter / "adapter_model.safetensors")
    assert find(str(adapter)) != again  # another adapter at the same place


def test_a_run_with_an_adapter(adapter: Path, arguments: list[str], tmp_path: Path) -> None:
    """Prevents: an adapter that loads and cannot teach."""
    given = [f"pair.teacher.path={adapter}", "pair.teacher.epochs=0", "pair.teacher.labels=[negative,neutral,positive]"]
    result = finished([*arguments, *given], tmp_path / "run", "weighting=kd")
    assert 0 <= result["teacher"]["test"]["accuracy"] <= 1 and result["cost"]["teacher_bytes"] > 0


def test_what_cannot_be_merged(adapter: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a pickle that is read, a traceback of PEFT, a message without the way out."""
    config = json.loads((adapter / "adapter_config.json").read_text())

    def named(base: Any) -> None:
        (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))

    named(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"is an adapter to '.*nowhere', which is needed too: "):
        find(str(adapter))
    named(None)
    with pytest.raises(UserError, match="does not say which; give base_model_name_or_path there"):
        find(str(adapter))
    named(str(backbone))
    with monkeypatch.context() as without:
        real = importlib.util.find_spec
        without.setattr(adapters.importlib.util, "find_spec", lambda name: None if name == "peft" else real(name))
        with pytest.raises(UserError, match="merging the two needs PEFT; pip install"):
            find(str(adapter))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UserError, match=r"has no adapter_model.safetensors; .*adapter_model.bin, is not read"):
        find(str(adapter))
    (adapter / "adapter_model.bin").rename(adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(
        json.dumps({**config, "peft_type": "NONE", "base_model_name_or_path": str(backbone)})
    )
    with pytest.raises(UserError, match="and does not fit it .*give its own base, or a merged model"):
        find(str(adapter))
    assert not list((tmp_path / "assets").rglob(".part-*"))
