"""Classifiers whose network is wrapped: by an adapter, which passes on what it is given, or by ``torch.compile``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rwkd_lightning.systems.text.models import Classifier, load_classifier
from tests.systems.text.models.conftest import TASK


class LowRank(nn.Module):
    """A linear layer with a trained update of rank 2, as PEFT puts it in the layer's place."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.Linear(base.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class Tuner(nn.Module):
    """Holds the model with the layers exchanged; calls its ``forward`` past the hooks, as PEFT's does."""

    def __init__(self, model):
        super().__init__()
        self.model = model.requires_grad_(False)
        model.classifier.requires_grad_(True)
        for name, module in list(model.named_modules()):
            if name.endswith((".query", ".value")):
                setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], LowRank(module))

    def forward(self, *args, **kwargs):
        return self.model.forward(*args, **kwargs)


class Adapter(nn.Module):
    """The outermost wrapper: names two of the inputs, takes the others as keywords."""

    def __init__(self, model):
        super().__init__()
        self.base_model = Tuner(model)

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        return self.base_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


WRAPPERS = {
    "adapter": Adapter,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled adapter": lambda model: torch.compile(Adapter(model), backend="eager"),
}
wrappers = pytest.mark.parametrize("wrapper", WRAPPERS)


@pytest.fixture(autouse=True)
def fresh():
    """No compiled code of the test before."""
    torch._dynamo.reset()


@pytest.fixture
def pair(save):
    """The same classifier bare and wrapped, ready for evaluation."""

    def make(wrapper, kind="bert", **options):
        folder = str(save(kind, labels=["neg", "mid", "pos"], initializer_range=0.5, **options))
        bare, inside = (load_classifier(folder, TASK).eval() for _ in range(2))
        return bare, Classifier(WRAPPERS[wrapper](inside.network)).eval()

    return make


@pytest.mark.parametrize(("kind", "wrapper"), [*(("bert", wrapper) for wrapper in WRAPPERS), ("deberta-v2", "adapter"),
                                              ("distilbert", "adapter")])  # fmt: skip
@torch.no_grad()
def test_inputs(pair, batch, kind, wrapper):
    """Prevents: pairs of sentences that lose their segments, silently, because a wrapper names fewer inputs than its
    model.
    """
    bare, wrapped = pair(wrapper, kind, **({"type_vocab_size": 2} if kind == "deberta-v2" else {}))
    assert wrapped.inputs == bare.inputs
    segments = batch | {"token_type_ids": (torch.arange(9) > 4).long().expand(4, 9)}
    for rows in (batch, segments):
        torch.testing.assert_close(wrapped(rows)["logits"], bare(rows)["logits"])
    moved = float((wrapped(segments)["logits"] - wrapped(batch)["logits"]).abs().max())
    assert (moved > 1e-3) == (kind != "distilbert")  # which has no segments


@wrappers
@torch.no_grad()
def test_blocks_and_states(pair, batch, wrapper):
    """Prevents: an adapter's model without a head, blocks, hidden states or values, or with values without the
    update.
    """
    bare, wrapped = pair(wrapper)
    assert (wrapped.width, wrapped.num_blocks) == (bare.width, bare.num_blocks) == (16, 2)
    assert wrapped.head is not None and wrapped.head.weight.requires_grad
    for model in (bare, wrapped):
        model.keep("hidden", [0, 1], "cls")
        model.keep("values", [1], values=True)
    assert wrapped.describe("values") == bare.describe("values")
    ours, theirs = wrapped(batch), bare(batch)
    for name in ("logits", "features", "hidden", "values"):
        torch.testing.assert_close(ours[name], theirs[name])
    if "adapter" in wrapper:
        next(p for n, p in wrapped.named_parameters() if "layer.1" in n and "value.lora_B" in n).fill_(0.1)
        assert not torch.allclose(wrapped(batch)["values"], theirs["values"])


def test_block_names_of_frozen_blocks(save):
    """Prevents: all of the student taken for its last block where that has nothing to train."""
    student = load_classifier(str(save()), TASK)
    whole = student.block_names()
    assert whole[0].startswith("network.bert.encoder.layer.1.") and whole[-1] == "network.classifier.bias"
    student.network.bert.encoder.layer[1].requires_grad_(False)
    assert student.block_names() == [n for n in whole if ".layer.1." not in n]
    student.network.bert.pooler.requires_grad_(False)
    student.network.classifier.requires_grad_(False)
    assert student.block_names() == []
