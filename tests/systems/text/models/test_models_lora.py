"""Students of which low-rank updates are trained: what is frozen, what is merged, what is refused."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from rwkd_lightning.systems.text.export import save as save_student
from rwkd_lightning.systems.text.models import Classifier, load_classifier, load_tokenizer, lora
from rwkd_lightning.systems.text.models.lora import Lora, adapt, lora_of, merge, merged, told
from rwkd_lightning.utils import adapters
from rwkd_lightning.utils.errors import UserError
from tests.systems.text.models.conftest import TASK

pytest.importorskip("peft")


def moved(student: Classifier) -> Classifier:
    """The student as a training leaves it: every trained parameter elsewhere."""
    generator = torch.Generator().manual_seed(3)
    for parameter in student.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return student


def test_settings() -> None:
    """Prevents: a scale of the update other than the documented one."""
    assert lora_of(None) is None
    assert lora_of(8) == lora_of({"rank": 8}) == Lora(8, 16, 0.0, None)
    assert lora_of({"rank": 4, "alpha": 1, "dropout": 0.1, "targets": ["query"]}) == Lora(4, 1, 0.1, ["query"])


@pytest.mark.parametrize(
    "kind", ["bert", "distilbert", "roberta", "mpnet", "deberta-v2", "albert", "gpt2", "llama", "bart", "t5", "xlnet"]
)
@torch.no_grad()
def test_the_merged_student_says_what_the_adapted_one_says(save: Any, batch: Any, tmp_path: Any, kind: str) -> None:
    """Prevents: a shipped student without its updates, with a lost scale, or whose weights plain transformers reads
    as another model's.
    """
    from transformers import AutoModelForSequenceClassification

    folder = str(save(kind, initializer_range=0.2) if kind not in ("t5", "bart", "gpt2") else save(kind))
    rows = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    rows["input_ids"][:, -1] = 2  # the end token that BART and T5 look for
    bare = load_classifier(folder, TASK).eval()
    before, keys = bare(rows)["logits"], set(bare.network.state_dict())
    adapt(bare, Lora(4, 12, 0.5))
    torch.testing.assert_close(bare(rows)["logits"], before, msg="an untrained update changes nothing")
    expected = moved(bare).eval()(rows)["logits"]
    assert not torch.allclose(expected, before, atol=1e-2)
    save_student(tmp_path / "student", bare, load_tokenizer(folder))
    again = Classifier(AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")).eval()
    torch.testing.assert_close(again(rows)["logits"], expected, atol=1e-4, rtol=1e-4)  # of float32; unmerged: 1e-2
    assert lora.adapted(bare.network)  # a copy was merged
    merge(bare.network)
    assert set(bare.network.state_dict()) == keys and merged(bare.network) is bare.network
    torch.testing.assert_close(bare(rows)["logits"], expected, atol=1e-4, rtol=1e-4)


def test_what_is_trained(save: Any) -> None:
    """Prevents: a frozen head, a frozen pooler that was never trained, a body that moves, a count that is made up."""
    student = load_classifier(str(save(labels=None)), TASK)
    bare = {name: p.numel() for name, p in student.network.named_parameters()}
    assert student.fresh == {"classifier.weight", "classifier.bias"}
    student.fresh.add("bert.pooler.dense.bias")  # as of a checkpoint without a pooler
    adapt(student, Lora(2, 4, targets=["query", "1.output.dense"]))
    trained = {name: p.numel() for name, p in student.network.named_parameters() if p.requires_grad}
    names = {name for name in trained if "lora_" not in name}
    assert names == {"classifier.weight", "classifier.bias", "bert.pooler.dense.bias"}
    updated = {name.partition(".lora_")[0].removeprefix("bert.encoder.layer.") for name in set(trained) - names}
    assert updated == {"0.attention.self.query", "1.attention.self.query", "1.output.dense"}
    updates = 2 * 2 * (16 + 16) + 2 * (32 + 16)  # rank * (in + out)
    count, whole = updates + 3 * 16 + 3 + 16, updates + sum(bare.values())
    assert sum(trained.values()) == count
    assert told(student, Lora(2, 4)) == (
        f"LoRA of rank 2 in 3 linear layers (query, dense): {count:,} of {whole:,} parameters are trained "
        f"({count / whole:.1%})"
    )


def test_all_linear_layers_of_the_body(save: Any) -> None:
    """Prevents: a default that leaves layers out, or that adapts the head beside training it."""
    student = load_classifier(str(save()), TASK)
    adapt(student, Lora(2, 4))
    every = [name for name, m in student.network.named_modules() if isinstance(m, torch.nn.Linear)]
    assert {name for name, _ in lora.adapted(student.network)} == {
        name.removesuffix(".base_layer") for name in every if name.startswith("bert.") and "lora_" not in name
    }
    assert student.head is student.network.classifier and student.head.weight.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            Lora(2, 4, targets=["q_proj"]),
            "targets: no linear layer is called 'q_proj'; the linear layers of this bert are query, key, value, dense",
        ),
        (Lora(2, 4, targets=["uery"]), "no linear layer is called 'uery'"),
        (Lora(2, 4, targets=["word_embeddings"]), "no linear layer is called 'word_embeddings'"),
        (Lora(2, 4, targets=["query", "classifier"]), "'classifier' belongs to the head, which is trained in full"),
        (Lora(17, 4), "the rank 17 is more than 16, the full rank of '.*query'; give pair.student.lora=16 or less"),
    ],
)
def test_refused(save: Any, settings: Lora, message: str) -> None:
    """Prevents: hours of training of what no update reaches, or a traceback of PEFT."""
    student = load_classifier(str(save()), TASK)
    with pytest.raises(UserError, match=message):
        adapt(student, settings)
    assert all(p.requires_grad for p in student.parameters())


def test_tied_weights_are_refused(save: Any) -> None:
    """Prevents: an update that the merge writes into a second layer, which never had it."""
    student = load_classifier(str(save()), TASK)
    layers = student.network.bert.encoder.layer
    layers[0].attention.self.query.weight = layers[1].attention.self.query.weight
    with pytest.raises(UserError, match="0.attention.self.query' shares its weights with another layer"):
        adapt(student, Lora(2, 4))
    adapt(student, Lora(2, 4, targets=["value"]))


def test_without_peft(save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a traceback in place of the name of the extra."""
    real = importlib.util.find_spec
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None if name == "peft" else real(name))
    with pytest.raises(UserError, match=r'pair.student.lora needs PEFT, .*; pip install "rwkd_lightning\[lora\]"'):
        adapt(load_classifier(str(save()), TASK), Lora(2, 4))


@torch.no_grad()
def test_states_inside_an_adapted_student(save: Any, batch: Any) -> None:
    """Prevents: terms over layers and values that read a layer without its update, or none at all."""
    student = load_classifier(str(save()), TASK).eval()
    student.keep("values", [1], values=True)
    before = student(batch)["values"]
    student.drop("values")
    adapt(student, Lora(2, 4))
    student.keep("values", [1], values=True)
    torch.testing.assert_close(student(batch)["values"], before)
    assert not torch.allclose(moved(student).eval()(batch)["values"], before, atol=1e-2)
    assert student.block_names()[0].startswith("network.bert.encoder.layer.1.attention.self.query.lora_A")
