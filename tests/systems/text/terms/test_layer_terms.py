"""Terms over the answers of layers: against loops per sample in float64, and the identities that they must obey."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PretrainedConfig

from rwkd_lightning.systems.text.heads.train import EPOCHS, train_heads
from rwkd_lightning.systems.text.terms import Assistants, LayerCrossEntropy, LayerKD
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.utils.errors import UserError

B, M, L, C, H = 5, 2, 4, 3, 6


class Model:
    """What a term asks of a model."""

    def __init__(self, num_blocks: int) -> None:
        self.network: Any = torch.nn.Module()
        self.network.config = PretrainedConfig(num_labels=C)
        self.num_blocks, self.width, self.asked = num_blocks, H, {}  # type: ignore[var-annotated]

    def keep(self, name: str, layers: Any, pool: str) -> None:
        self.asked[name] = (list(layers), pool)


def connected(term: Any, mine: int = M + 1, theirs: int = L) -> Any:
    torch.manual_seed(3)
    term.connect(Model(mine), Model(theirs))
    return term.double()


def rows(pool: str = "cls") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    states, answers, logits = (
        torch.randn(*shape, generator=draw, dtype=torch.float64) * 2 for shape in ((B, M, H), (B, L, C), (B, C))
    )
    batch = {
        f"teacher_layer_logits_{pool}": answers,
        "labels": torch.tensor([0, 2, -1, 1, 1]),
        "index": torch.arange(B),
    }
    return {"layer_kd": states, "layer_ce": states, "logits": logits}, batch


def kl(t: Tensor, s: Tensor, temperature: float) -> Tensor:
    q, p = (t / temperature).softmax(0), (s / temperature).softmax(0)
    return (q * (q / p).log()).sum()


@pytest.mark.parametrize("energy", ["dot", "divergence", "learned", "uniform", "permuted"])
@pytest.mark.parametrize("over", ["logits", "losses"])
def test_the_formula_of_layer_kd(energy: str, over: str) -> None:
    """Prevents: an attention over the student's layers, over samples, or of logits that are not centred."""
    term = connected(LayerKD(energy, over, temperature=1.5))
    outputs, batch = rows()
    if energy == "learned":
        with torch.no_grad():
            term.scores.normal_()
    expected = []
    for i in range(B):
        parts = []
        for j in range(M):
            s = term.weight[j] @ outputs["layer_kd"][i, j] + term.bias[j]
            teacher = batch["teacher_layer_logits_cls"][i]
            energies = []
            for k in range(L):
                t = teacher[k]
                found = {
                    "divergence": -kl(t, s, 1.5),
                    "learned": term.scores[j, k] if energy == "learned" else torch.zeros(()),
                    "uniform": torch.zeros((), dtype=torch.float64),
                }.get(energy, (s - s.mean()) @ (t - t.mean()) / C**0.5)
                energies.append(found)
            a = torch.stack(energies).softmax(0)
            a = torch.stack([a[(k - 1) % L] for k in range(L)]) if energy == "permuted" else a
            if over == "logits":
                parts.append(kl(sum(a[k] * teacher[k] for k in range(L)), s, 1.5))  # type: ignore[arg-type]
            else:
                parts.append(sum(a[k] * kl(teacher[k], s, 1.5) for k in range(L)))  # type: ignore[arg-type]
        expected.append(1.5**2 * torch.stack(parts).mean())
    torch.testing.assert_close(term(outputs, batch), torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_the_attention_is_differentiated_or_not() -> None:
    """Prevents: a loss that falls by looking away, where that was not asked for."""
    outputs, batch = rows()
    gradients = []
    for attention in (True, False):
        term = connected(LayerKD(attention_gradient=attention))
        states = outputs["layer_kd"].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(term({"layer_kd": states}, batch).sum(), states)
        gradients.append(gradient)
    term = connected(LayerKD())
    states = outputs["layer_kd"].clone().requires_grad_()
    mine = torch.einsum("bmh,mch->bmc", states, term.weight) + term.bias
    theirs = batch["teacher_layer_logits_cls"]
    target = (term.attention(mine, theirs).detach() @ theirs / 2).softmax(2)
    fixed = 4 * (target * (target.log() - (mine / 2).log_softmax(2))).sum(2).mean(1)
    (expected,) = torch.autograd.grad(fixed.sum(), states)
    torch.testing.assert_close(gradients[1], expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(gradients[0], gradients[1])


def test_what_over_means() -> None:
    """Prevents: the two forms swapped. For a fixed a the losses' optimum is the arithmetic mean of the teacher's
    distributions, and that of the logits the normalised geometric one.
    """
    _, batch = rows()
    theirs = batch["teacher_layer_logits_cls"]
    q = (theirs / 2).softmax(2)
    mean, geometric = q.mean(1).log() * 2, q.log().mean(1) * 2
    states = torch.zeros(B, 1, H, dtype=torch.float64)
    for over, optimum in (("losses", mean), ("logits", geometric)):
        term = connected(LayerKD("uniform", over, student_layers=[0]))
        found = []
        for s in (mean, geometric):
            with torch.no_grad():
                term.bias.copy_(s[:1] - s[:1].mean())
            found.append(term({"layer_kd": states}, batch)[0].item())
        assert (found[0] < found[1]) == (optimum is mean)
    assert min(found) < 1e-12


def test_one_layer_is_plain_kd_and_layer_ce_is_ce() -> None:
    """Prevents: a factor T² that is lost, or a mean over rows."""
    outputs, batch = rows()
    term = connected(LayerKD("uniform", teacher_layers=[L - 1], student_layers=[1]))
    states = outputs["layer_kd"][:, 1:]
    s = states[:, 0] @ term.weight[0].T + term.bias[0]
    batch["teacher_logits"] = batch["teacher_layer_logits_cls"][:, -1]
    torch.testing.assert_close(term({"layer_kd": states}, batch), DistillationKL(2.0)({"logits": s}, batch))
    labels = connected(LayerCrossEntropy())
    each = [outputs["layer_ce"][:, j] @ labels.weight[j].T + labels.bias[j] for j in range(M)]
    expected = torch.stack([CrossEntropy()({"logits": x}, batch) for x in each]).mean(0)
    torch.testing.assert_close(labels(outputs, batch), expected)
    assert labels.valid(batch).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("mix", ["attention", "mean", "ascending"])
def test_the_formula_of_assistants(mix: str) -> None:
    """Prevents: a mixture over other layers than the teacher's, or one that grows the wrong way."""
    term = connected(Assistants(mix, temperature=1.5))
    outputs, batch = rows()
    batch["progress"] = torch.tensor(0.5)
    for i in range(B):
        s, teacher = outputs["logits"][i], batch["teacher_layer_logits_cls"][i]
        if mix == "attention":
            a = torch.stack([(s - s.mean()) @ (t - t.mean()) / C**0.5 for t in teacher]).softmax(0)
            expected = kl((a[:, None] * teacher).sum(0), s, 1.5)
        elif mix == "mean":
            expected = torch.stack([kl(t, s, 1.5) for t in teacher]).mean()
        else:  # halfway of four layers: the second and the third
            expected = (kl(teacher[1], s, 1.5) + kl(teacher[2], s, 1.5)) / 2
        torch.testing.assert_close(term(outputs, batch)[i], 1.5**2 * expected, rtol=1e-10, atol=1e-12)
    if mix == "ascending":
        batch["progress"] = torch.tensor(1.0)
        last = {**batch, "teacher_logits": batch["teacher_layer_logits_cls"][:, -1]}
        torch.testing.assert_close(term(outputs, batch), DistillationKL(1.5)(outputs, last))


def test_which_layers(caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: heads on other blocks than those that are named."""
    for layers, blocks, asked in (
        ("inner", 3, [0, 1]),
        ("all", 3, [0, 1, 2]),
        ("inner", 1, [0]),
        ([2], 3, [2]),
    ):
        student = Model(blocks)
        term = LayerKD(student_layers=layers, pool="mean")  # type: ignore[arg-type]
        term.connect(student, Model(L))
        assert student.asked == {"layer_kd": (asked, "mean")} and term.weight.shape == (len(asked), C, H)
    student = Model(4)
    term = LayerKD(part=1, name="layer_kd.1")
    term.connect(student, Model(L))
    assert student.asked == {"layer_kd.1": ([1], "cls")}
    with pytest.raises(UserError, match=r"'layer_kd.7' names part 7, and the student has 3, .*give layer_kd.0 to .2"):
        LayerKD(part=7, name="layer_kd.7").connect(Model(4), Model(L))
    with pytest.raises(UserError, match=r"teacher_layers=\[4\]: the teacher has the blocks 0 to 3"):
        LayerKD(teacher_layers=[4]).connect(Model(3), Model(L))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (LayerKD, {"energy": "cosine"}, "`energy='cosine'` is not known; known are dot"),
        (LayerKD, {"over": "both"}, "`over='both'` is not known"),
        (LayerKD, {"pool": "max"}, "`pool='max'` is not known; known are cls, mean"),
        (LayerKD, {"student_layers": "outer"}, "give inner, all, or a list"),
        (LayerKD, {"teacher_layers": "last"}, "give all, or a list"),
        (LayerKD, {"temperature": 0}, "it must be above 0"),
        (Assistants, {"mix": "max"}, "known are attention, mean, ascending"),
        (LayerCrossEntropy, {"student_layers": []}, "give inner, all, or a list"),
    ],
)
def test_options_that_there_are_not(kind: Any, options: dict[str, Any], message: str) -> None:
    """Prevents: a word that is taken for the default."""
    with pytest.raises(UserError, match=message):
        kind(**options)


def test_heads_are_those_that_are_trained_alone() -> None:
    """Prevents: heads of different blocks that share a gradient, and a scale of states that decides who learns."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=draw)
    signal = torch.nn.functional.one_hot(labels, 3).float()
    noise = torch.randn(300, 3, 8, generator=draw)
    scale = torch.tensor([0.01, 1.0, 50.0])[:, None]
    states = noise * scale
    for block, strength in enumerate((0.0, 0.7, 3.0)):
        states[:, block, :3] += strength * scale[block] * signal
    heads = train_heads(states, labels, 3, seed=1)
    right = (heads(states).argmax(2) == labels[:, None]).float().mean(0)
    assert right[0] < 0.55 < right[1] < right[2] and right[2] > 0.9 and EPOCHS == 10
    again = train_heads(states, labels, 3, seed=1)
    assert torch.equal(heads.weight, again.weight) and torch.equal(heads.bias, again.bias)
    other = states.clone()
    other[:, 0] = 7.0  # a block whose states say nothing
    torch.testing.assert_close(train_heads(other, labels, 3, seed=1).weight[1:], heads.weight[1:])
