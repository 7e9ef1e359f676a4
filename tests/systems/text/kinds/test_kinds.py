"""Networks that are no transformers: against loops and other libraries, and as transformers' Auto classes see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from rwkd_lightning.systems.text.kinds import KINDS
from rwkd_lightning.systems.text.kinds.bilstm import Both
from rwkd_lightning.systems.text.kinds.cnn import Gated
from rwkd_lightning.systems.text.models.classifier import Classifier

every = pytest.mark.parametrize("name", sorted(KINDS))
LENGTHS = (7, 1, 4)


def network(name: str, seed: int = 0, **sizes: Any) -> Any:
    torch.manual_seed(seed)
    kind = KINDS[name]
    return kind(kind.config_class(**{"vocab_size": 20, "embedding_size": 6, "hidden_size": 8, "num_labels": 3} | sizes))


def batch(longest: int = 7) -> dict[str, Tensor]:
    ids = torch.randint(1, 20, (len(LENGTHS), longest), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(longest) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": mask * (torch.arange(longest) > 2)}


@every
def test_a_text_is_answered_alone_as_beside_longer_ones(name: str) -> None:
    """Prevents: a backward direction that starts in the padding, a largest state or a convolution that reads it."""
    model = network(name).eval().double()
    rows = batch()
    together = model(**rows).logits
    for row, length in enumerate(LENGTHS):
        alone = model(**{key: x[row : row + 1, :length] for key, x in rows.items()}).logits
        torch.testing.assert_close(alone[0], together[row], rtol=1e-12, atol=1e-12)
    junk = {**rows, "input_ids": torch.where(rows["attention_mask"] == 0, 9, rows["input_ids"])}
    torch.testing.assert_close(model(**junk).logits, together, rtol=1e-12, atol=1e-12)


def test_both_directions_are_torchs_own() -> None:
    """Prevents: a second direction that reads its tokens in another order."""
    layer = Both(6, 4, 0.0).double().eval()
    theirs = nn.LSTM(6, 4, batch_first=True, bidirectional=True).double()
    with torch.no_grad():
        for mine, suffix in ((layer.forwards, ""), (layer.backwards, "_reverse")):
            for part in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
                getattr(theirs, part + suffix).copy_(getattr(mine, part))
    states, lengths = torch.randn(3, 7, 6, dtype=torch.float64), torch.tensor(LENGTHS)
    there = (torch.arange(7) < lengths[:, None])[..., None].double()
    packed = nn.utils.rnn.pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    torch.testing.assert_close(layer(states * there, there), expected, rtol=1e-12, atol=1e-12)


def test_a_gate_is_the_papers() -> None:
    """Prevents: halves of the convolution in the other order, or a window that is not centred."""
    block = Gated(8, 8, 3, 0.0).double().eval()
    states = torch.randn(1, 5, 8, dtype=torch.float64)
    normal = nn.functional.layer_norm(states, (8,), block.norm.weight, block.norm.bias)[0]
    weight, bias = block.convolution.weight, block.convolution.bias
    rows = []
    for t in range(5):
        seen = sum(weight[:, :, k] @ normal[t + k - 1] for k in range(3) if 0 <= t + k - 1 < 5) + bias
        rows.append(states[0, t] + seen[:8] * torch.sigmoid(seen[8:]))
    there = torch.ones(1, 5, 1, dtype=torch.float64)
    torch.testing.assert_close(block(states, there)[0], torch.stack(rows), rtol=1e-12, atol=1e-12)


def test_a_mean_is_weighted_by_words() -> None:
    """Prevents: weights over places, or padding that takes a share."""
    model = network("static").double().eval()
    rows = batch()
    with torch.no_grad():
        model.body.scores.normal_()
        for row, length in enumerate(LENGTHS):
            ids = rows["input_ids"][row, :length]
            shares = model.body.scores[ids].exp()
            mean = (model.body.words.weight[ids] * (shares / shares.sum())[:, None]).sum(0)
            expected = model.head(nn.functional.gelu(model.body.blocks[0].linear(mean)))
            torch.testing.assert_close(model(**rows).logits[row], expected, rtol=1e-10, atol=1e-12)


@every
def test_a_folder_loads_as_any_other(name: str, tmp_path: Path) -> None:
    """Prevents: a student that only the process that made it can read."""
    model = network(name, id2label={0: "a", 1: "b", 2: "c"}).eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(again) is type(model) and again.config.id2label == {0: "a", 1: "b", 2: "c"}
    torch.testing.assert_close(again(**batch()).logits, model(**batch()).logits)


@every
def test_the_rest_of_the_package_sees_it(name: str) -> None:
    """Prevents: a head that no bank finds, or blocks that no term can read."""
    student = Classifier(network(name)).eval()
    assert student.head is student.network.head
    outputs = student(batch())
    torch.testing.assert_close(student.head(outputs["features"]), outputs["logits"])
    last = set(student.block_names())
    assert {"network.head.weight", "network.head.bias"} < last and "network.body.words.weight" not in last
    student.keep("hidden", [student.num_blocks - 1], pool="mean")
    hidden = student(batch())["hidden"]
    assert hidden.shape == (3, 1, 8) and bool(hidden.isfinite().all())


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives(name: str, dtype: torch.dtype) -> None:
    """Prevents: forward mode that fails in a fused layer, or a double backward that is of something else."""
    model = network(name).to(dtype).eval()
    theta = {key: value.detach() for key, value in model.named_parameters()}
    generator = torch.Generator().manual_seed(3)
    direction = {key: torch.randn(x.shape, dtype=dtype, generator=generator) for key, x in theta.items()}
    rows = batch()

    def logits(parameters: dict[str, Tensor]) -> Tensor:
        said: Tensor = torch.func.functional_call(model, parameters, kwargs=rows).logits
        return said

    _, forward = torch.func.jvp(logits, (theta,), (direction,))
    wanted = {key: x.clone().requires_grad_() for key, x in theta.items()}
    dummy = torch.zeros_like(forward, requires_grad=True)
    first = torch.autograd.grad(logits(wanted), list(wanted.values()), dummy, create_graph=True, allow_unused=True)
    total = sum((g * direction[key]).sum() for key, g in zip(wanted, first, strict=True) if g is not None)
    (double,) = torch.autograd.grad(total, dummy)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(forward, double, rtol=tolerance, atol=tolerance)
