"""Hidden states and values kept by hooks, against what the models give out when asked."""

from __future__ import annotations

import pytest
import torch

from rwkd_lightning.systems.text.models import load_classifier
from rwkd_lightning.utils.errors import UserError
from tests.systems.text.models.conftest import TASK


@pytest.fixture
def batch():
    ids = torch.tensor([[0, 5, 6, 7, 2], [0, 8, 2, 1, 1], [0, 9, 10, 2, 1]])
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


@pytest.mark.parametrize(
    "kind",
    [
        "bert",
        "roberta",
        "mpnet",
        "electra",
        "deberta-v2",
        "distilbert",
        "xlm-roberta",
        "gpt2",
        "longformer",
        "xlnet",
        "llama",
        "big_bird",
    ],
)
def test_hidden_states(save, batch, kind):
    """Prevents the states of another block, of padding, or before the block's last normalisation."""
    student = load_classifier(str(save(kind)), TASK).eval()
    network = student.network
    theirs = network(**{n: batch[n] for n in student.inputs if n in batch}, output_hidden_states=True).hidden_states
    last = 1 if kind in ("gpt2", "llama") else 2  # GPT-2 gives its last state out after one more normalisation
    student.keep("tokens", range(last))
    student.keep("hidden", range(last), "cls")
    student.keep("means", range(last)[::-1], "mean")
    outputs = student(batch)
    for j in range(last):
        torch.testing.assert_close(outputs["tokens"][:, j], theirs[j + 1])
        torch.testing.assert_close(outputs["hidden"][:, j], theirs[j + 1][:, 0])
        mean = torch.stack([theirs[j + 1][i, : int(n)].mean(0) for i, n in enumerate(batch["attention_mask"].sum(1))])
        torch.testing.assert_close(outputs["means"][:, last - 1 - j], mean)


@pytest.mark.parametrize(("kind", "name"), [
    ("bert", "attention.self.value"), ("roberta", "attention.self.value"), ("mpnet", "attention.attn.v"),
    ("electra", "attention.self.value"), ("deberta-v2", "attention.self.value_proj"), ("distilbert", "attention.v_lin"),
    ("xlm-roberta", "attention.self.value"),
])  # fmt: skip
def test_values(save, batch, kind, name):
    """Prevents queries or keys in place of values, and attention that leaves its fused kernel to be looked at."""
    student = load_classifier(str(save(kind)), TASK).eval()
    attention = student.network.config._attn_implementation
    student.keep("tokens", [0])
    student.keep("values", [1], values=True)
    outputs = student(batch)
    blocks = next(m for n, m in student.network.named_modules() if isinstance(m, torch.nn.ModuleList))
    expected = blocks[1].get_submodule(name)(outputs["tokens"][:, 0])
    torch.testing.assert_close(outputs["values"][:, 0], expected)
    assert student.network.config._attn_implementation == attention


def test_logits_are_the_same_and_hooks_go(save, batch):
    """Prevents a student that changes by being looked at, and hooks that stay."""
    student = load_classifier(str(save()), TASK).eval()
    before = student(batch)
    student.keep("hidden", [0], "cls")
    student.keep("hidden", [1], "cls")  # again: in place of the first
    looked_at = student(batch)
    assert torch.equal(before["logits"], looked_at["logits"])
    assert looked_at["hidden"].shape == (3, 1, 16)
    student.drop("hidden")
    assert set(student(batch)) == set(before)
    assert not any(m._forward_hooks for m in student.network.modules())


def test_functional_call_and_forward_mode(save, batch):
    """Prevents tangents of a finished pass that leak into the next one, and taps that miss perturbed parameters."""
    student = load_classifier(str(save()), TASK).eval()
    student.keep("hidden", [0, 1], "cls")
    theta = {n: p.detach().double() for n, p in student.named_parameters()}
    student.double()
    g = torch.Generator().manual_seed(0)
    direction = {n: torch.randn(p.shape, generator=g, dtype=torch.float64) for n, p in theta.items()}

    def hidden(parameters):
        return torch.func.functional_call(student, parameters, (batch,))["hidden"]

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, tangent = torch.func.jvp(hidden, (theta,), (direction,))
        ahead, behind = (hidden({n: p + e * direction[n] for n, p in theta.items()}) for e in (1e-6, -1e-6))
    torch.testing.assert_close(tangent, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "options", "message"), [
    ("bert", {"layers": [2]}, "layer 2: this bert has the blocks 0 to 1"),
    ("bert", {"layers": [-1]}, "layer -1"),
    ("albert", {"layers": [0]}, "albert runs the same block several times"),
    ("gpt2", {"layers": [0], "values": True}, "gpt2 has no projection of its own for the values"),
    ("modernbert", {"layers": [0], "values": True}, "modernbert has no projection of its own"),
    ("bert", {"layers": [0], "pool": "max"}, "pool='max' is not known"),
    ("bart", {"layers": [0]}, "a bart has an encoder and a decoder"),
])  # fmt: skip
def test_what_cannot_be_kept(save, kind, options, message):
    """Prevents states of the wrong block, or of a block that ran last of several times."""
    student = load_classifier(str(save(kind)), TASK)
    with pytest.raises(UserError, match=message):
        student.keep("hidden", **options)


def test_blocks_that_no_hook_sees(save, batch):
    """Prevents: an error of torch in place of a reason, from a network that calls its blocks in a way of its own."""
    student = load_classifier(str(save("squeezebert")), TASK)
    student.keep("hidden", [0])
    with pytest.raises(UserError, match="do not show their states"):
        student(batch)
