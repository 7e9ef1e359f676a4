"""Meta-Weight-Net, L2RW and TGeo-KD against their bi-level formulation by double backward, and Annealing-KD by its
formula.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from scipy.special import expit, softmax
from torch import nn
from torch.func import functional_call

from rwkd_lightning.bilevel import Jvp, RandomState
from rwkd_lightning.meta import All, MetaStep
from rwkd_lightning.run.build import terms_of, weighting_of
from rwkd_lightning.terms import AnnealedMSE, CrossEntropy, DistillationKL, LogitMSE, SquaredError, stack
from rwkd_lightning.training.compatibility import check_terms
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import AnnealingKD, LearningToReweight, MetaWeightNet, Step, TrilateralGeometry, masked
from tests.meta.conftest import Stream

TERMS = [CrossEntropy(), DistillationKL(2.0)]
CLASSES = 3


class Student(nn.Module):
    """Two layers, float64."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(3)
        self.body, self.head = nn.Linear(4, 6).double(), nn.Linear(6, CLASSES).double()
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=g, dtype=p.dtype)

    def forward(self, batch):
        return {"logits": self.head(torch.tanh(self.body(batch["x"])))}


def rows(size, seed, hidden=()):
    """Random rows; those in ``hidden`` have no label."""
    g = torch.Generator().manual_seed(seed)
    batch = {
        "x": torch.randn(size, 4, generator=g, dtype=torch.float64),
        "labels": torch.arange(size) % CLASSES,
        "teacher_logits": 2 * torch.randn(size, CLASSES, generator=g, dtype=torch.float64),
        "index": torch.arange(size),
    }
    batch["labels"][list(hidden)] = -1
    return batch


def by_the_book(logits, batch):
    """CE and 4·KL at T = 2, plainly."""
    log_p, log_q = ((x / 2).log_softmax(1) for x in (logits, batch["teacher_logits"]))
    ce = F.cross_entropy(logits, batch["labels"], reduction="none", ignore_index=-1)
    return torch.stack([ce, 4 * (log_q.exp() * (log_q - log_p)).sum(1)], 1)


def setting(size=7, hidden=(4,)):
    """A student, a batch, held-out rows, and the step with u as the package's engine gives it."""
    student, batch, held_out = Student(), rows(size, 1, hidden), rows(6, 2)
    meta = MetaStep(Jvp(), All(), [CrossEntropy()], Stream(held_out, 6))
    state, outputs = RandomState.capture(torch.device("cpu")), student(batch)
    losses = stack(TERMS, outputs, batch)
    u = meta.influence(
        student, batch, outputs, lambda o: stack(TERMS, o, batch), torch.full_like(losses, 0.5).detach(), state
    )
    valid = torch.stack([term.valid(batch) for term in TERMS], 1)
    step = Step(losses, valid, ("ce", "kd"), {"logits": outputs["logits"].detach()}, batch, influence=u)
    return student, batch, held_out, step


def after_one_step(student, batch, held_out, objective, a):
    """The meta loss after the SGD step θ − a·∇_θ objective(losses), with the graph of that step."""
    theta = {n: p.detach().requires_grad_() for n, p in student.named_parameters()}
    losses = by_the_book(functional_call(student, theta, (batch,))["logits"], batch)
    gradient = torch.autograd.grad(objective(losses), list(theta.values()), create_graph=True)
    hat = {n: p - a * g for (n, p), g in zip(theta.items(), gradient, strict=True)}
    return F.cross_entropy(functional_call(student, hat, (held_out,))["logits"], held_out["labels"])


def randomise(method, seed=0):
    """Away from the zero start."""
    g = torch.Generator().manual_seed(seed)
    for p in method.double().parameters():
        p.data = 0.5 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    return method


def mwn(alpha=0.3, **options):
    return randomise(MetaWeightNet(alpha, **options))


def tgeo(training_set=None, **options):
    method = TrilateralGeometry(**options)
    method.prepare(training_set or rows(20, 5, hidden=(0, 7)))
    return randomise(method)


def mwn_weights(method, batch, losses, alpha=0.3):
    """v·(0.7, 0.3), for the row without a label v·(0, 1), with the MLP written out."""
    known = (batch["labels"] >= 0)[:, None]
    shares = torch.tensor([[1 - alpha, alpha], [0.0, 1.0]], dtype=torch.float64)
    fixed = torch.where(known, shares[0], shares[1])
    first, _, last = method.network
    loss = (fixed * losses.detach()).sum(1, keepdim=True)
    return ((loss @ first.weight.T + first.bias).clamp_min(0) @ last.weight.T + last.bias).sigmoid() * fixed


def tgeo_features(step, training_set):
    """The nine features in numpy."""
    t_all, y_all = softmax(training_set["teacher_logits"].numpy(), 1), training_set["labels"].numpy()
    s, t = softmax(step.outputs["logits"].numpy(), 1), softmax(step.batch["teacher_logits"].numpy(), 1)
    g, mean = np.zeros_like(s), np.tile(t_all.mean(0), (len(s), 1))
    for i, y in enumerate(step.batch["labels"].tolist()):
        if y >= 0:
            g[i, y] = 1
            if (y_all == y).any():
                mean[i] = t_all[y_all == y].mean(0)
    return np.concatenate(
        [s, t, g, mean, (mean - s) ** 2, (g - s) ** 2, (t - s) ** 2, (t - g) ** 2, (mean - g) ** 2], 1
    )


def tgeo_weights(method, step, training_set):
    alpha = method.network(torch.from_numpy(tgeo_features(step, training_set))).sigmoid()
    known = (step.batch["labels"] >= 0)[:, None]
    return torch.where(known, torch.cat([1 - alpha, alpha], 1), torch.tensor([0.0, 1.0]).double())


@pytest.mark.parametrize("name", ["mwn", "tgeo"])
def test_gradient_of_phi_equals_double_backward(name):
    """Prevents a φ that descends something else than the meta loss after the student's step, or that does not move.

    own_loss works on u over its mean absolute value, so its gradient is the reference's over a·mean|u|.
    """
    student, batch, held_out, step = setting()
    a, training_set = 0.7, rows(20, 5, hidden=(0, 7))
    method = mwn() if name == "mwn" else tgeo(training_set)
    phi = list(method.network.parameters())

    def objective(losses):
        w = mwn_weights(method, batch, losses) if name == "mwn" else tgeo_weights(method, step, training_set)
        torch.testing.assert_close(masked(method(step), step.valid), w)
        return ((w - w.detach()) * losses).sum(1).mean()

    expected = torch.autograd.grad(after_one_step(student, batch, held_out, objective, a), phi)
    found = torch.autograd.grad(method.own_loss(step), phi)
    for x, y in zip(found, expected, strict=True):
        assert float(y.abs().max()) > 1e-6
        torch.testing.assert_close(x * a * step.influence.abs().mean(), y, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", ["mwn", "tgeo"])
def test_the_network_trains_from_its_zero_start(name):
    """Prevents a controller that never trains: the released TGeo-KD computes α without a graph."""
    *_, step = setting(hidden=())
    method = MetaWeightNet(lr=0.02).double() if name == "mwn" else TrilateralGeometry(lr=0.02)
    method.prepare(rows(20, 5))
    method.double()
    start, before = method(step).detach(), [p.detach().clone() for p in method.parameters()]
    assert torch.equal(start, torch.full_like(start, 0.25 if name == "mwn" else 0.5))
    optimizer = method.own_optimizer()
    for _ in range(5):
        optimizer.zero_grad()
        method.own_loss(step).backward()
        optimizer.step()
    assert all(not torch.equal(p, q) for p, q in zip(method.parameters(), before, strict=True))
    gain = (step.influence * (method(step).detach() - start)).sum()
    assert float(gain) > 0 and float(method(step).std(0).max().detach()) > 1e-3


def test_mwn_by_hand():
    """Prevents a network that reads another loss, and weights off the label and teacher columns or in another
    proportion.
    """
    method = MetaWeightNet(0.25, 0.5, hidden=2)
    first, _, last = method.network
    first.weight.data, first.bias.data = torch.tensor([[2.0], [-1.0]]), torch.tensor([-1.0, 3.0])
    last.weight.data, last.bias.data = torch.tensor([[1.0, -2.0]]), torch.tensor([0.5])
    losses = torch.tensor([[9.0, 1.0, 4.0], [7.0, 5.0, 1.0]])
    found = method(Step(losses, losses > 0, ("other", "kd", "ce"), {}, {})).detach()
    loss = np.array([0.5 * 9 + 0.25 * 1 + 0.75 * 4, 0.5 * 7 + 0.25 * 5 + 0.75 * 1])
    v = expit(np.maximum(2 * loss - 1, 0) - 2 * np.maximum(3 - loss, 0) + 0.5)
    np.testing.assert_allclose(found, v[:, None] * np.array([[0.5, 0.25, 0.75]]), rtol=1e-6)
    assert method.entropy == 0 and len(MetaWeightNet().network[0].bias) == 100


@pytest.mark.parametrize("a", [0.1, 5.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_l2rw_equals_the_original_formulation(alpha, a):
    """Prevents weights of the wrong sign, of single terms in place of the sample's loss, or normalised within the
    sample.

    ε_i on the fixed-α loss of sample i, the student's step at ε = 0, −∂L_meta/∂ε clipped at 0 and normalised to a sum
    of 1; the student minimises a mean, so ours sum to n.
    """
    hidden = (4,) if alpha else ()  # with α = 0 a row without a label has no loss at all
    student, batch, held_out, step = setting(size=9, hidden=hidden)
    fixed = torch.tensor([1 - alpha, alpha], dtype=torch.float64).repeat(9, 1)
    fixed[list(hidden)] = torch.tensor([0.0, 1.0]).double()
    epsilon = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    meta = after_one_step(student, batch, held_out, lambda x: (epsilon * (fixed * x).sum(1)).sum(), a)
    clipped = (-torch.autograd.grad(meta, epsilon)[0]).clamp_min(0)
    assert 2 <= int((clipped > 0).sum()) < 9
    expected = 9 * clipped[:, None] / clipped.sum() * fixed
    torch.testing.assert_close(LearningToReweight(alpha)(step), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(masked(LearningToReweight(alpha)(step), step.valid), expected, rtol=1e-9, atol=1e-12)


def test_l2rw_without_use_for_any_sample_does_not_move_the_student():
    """Prevents NaN, or weight on harmful samples, where no influence is above 0; weights before the first meta step;
    and weights of 0 for an influence that is no number, which would stop the training in silence.
    """
    student, _, _, step = setting()
    method = LearningToReweight(0.3)
    step.influence = -step.influence.abs()
    weights = masked(method(step), step.valid)
    assert torch.equal(weights, torch.zeros_like(weights))
    (weights * step.losses).sum(1).mean().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in student.parameters())
    step.influence = None
    assert method(step)[0].tolist() == pytest.approx([0.7, 0.3]) and method(step)[4].tolist() == pytest.approx(
        [0.0, 1.0]
    )
    step.influence = torch.full_like(step.losses, float("nan")).detach()
    step.influence[1] = 1.0
    assert bool(method(step)[1].isnan().all())


def test_l2rw_normalises_over_all_ranks(monkeypatch):
    """Prevents a rank whose samples are all nearly useless from training as much as the one with the good ones."""
    *_, step = setting(size=8, hidden=())
    whole = LearningToReweight()(step)
    clipped = step.influence.sum(1).clamp_min(0) / 2
    monkeypatch.setattr(
        "rwkd_lightning.weighting.l2rw.all_reduce_mean", lambda _: clipped.mean()
    )  # of two ranks of four
    part = slice(0, 4)
    rank = Step(step.losses[part], step.valid[part], step.terms, {}, {}, influence=step.influence[part])
    torch.testing.assert_close(LearningToReweight()(rank), whole[part])


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_tgeo_features(classes):
    """Prevents a feature that is something else than its name; T̄ of the batch, of another class, or NaN for an empty
    class.
    """
    g = torch.Generator().manual_seed(0)
    draw = lambda n: 2 * torch.randn(n, classes, generator=g, dtype=torch.float64)  # noqa: E731
    training_set = {
        "labels": torch.arange(40) % max(2, classes - 1),
        "teacher_logits": draw(40),
    }  # of 3, 5: the last is empty
    training_set["labels"][::7] = -1
    batch = {"labels": torch.arange(8) % classes, "teacher_logits": draw(8)}
    batch["labels"][2] = -1
    step = Step(torch.zeros(8, 2), torch.ones(8, 2) > 0, ("ce", "kd"), {"logits": draw(8)}, batch)
    method = TrilateralGeometry()
    method.prepare(training_set)
    found, expected = method.features(step).numpy(), tgeo_features(step, training_set)
    assert found.shape == (8, 9 * classes)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    sizes = [(p.shape[1], p.shape[0]) for n, p in method.network.named_parameters() if "weight" in n]
    assert sizes == [(9 * classes, 32), (32, 16), (16, 1)] and "means" in method.state_dict()


def test_tgeo_leaves_the_generator_alone():
    """Prevents a student that sees other dropout masks under tgeo than under any other method of the same seed."""
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        method = TrilateralGeometry()
        method.prepare(rows(20, 5))
        networks.append(method.network[0].weight)
        assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(seed).get_state())
    assert torch.equal(networks[0], networks[1]) and not torch.equal(networks[0], networks[2])


def test_tgeo_entropy():
    """Prevents a τ that widens nothing: the weights are a distribution over the terms, and their entropy is
    rewarded.
    """
    *_, step = setting(hidden=())
    plain, with_entropy, w = tgeo(), tgeo(entropy=0.5), tgeo()(step).detach()
    difference = with_entropy.own_loss(step) - plain.own_loss(step)
    assert float(difference.detach()) == pytest.approx(float(0.5 * (w * w.log()).sum(1).mean()), rel=1e-9)


def test_tgeo_needs_the_training_set():
    """Prevents a traceback, or an optimizer of nothing, in a loop of one's own."""
    with pytest.raises(UserError, match=r"prepare\(\.\.\.\)"):
        TrilateralGeometry().own_optimizer()
    with pytest.raises(UserError, match=r"prepare\(\.\.\.\)"):
        TrilateralGeometry()(setting()[3])
    with pytest.raises(UserError, match="teacher_logits"):
        TrilateralGeometry().prepare({"labels": torch.zeros(3)})


@pytest.mark.parametrize("build", [mwn, LearningToReweight, tgeo, AnnealingKD])
def test_terms_that_make_no_sense_are_refused(build):
    """Prevents a teacher that is fine-tuned for hours before the first step finds that a term is missing."""
    method, second = build(), "annealed_mse" if build is AnnealingKD else "kd"
    method.check(("ce", second))
    method.check((second, "ce"))
    if build in (tgeo, AnnealingKD):
        with pytest.raises(UserError, match=r"'hidden' would weigh nothing; use `FixedAlpha\(\)` with `weight"):
            method.check((second, "ce", "hidden"))
    else:
        method.check((second, "ce", "hidden"))
    with pytest.raises(UserError, match=f"no {'annealed' if build is AnnealingKD else 'teacher'} term"):
        method.check(("ce",))
    if build in (tgeo, AnnealingKD):
        with pytest.raises(UserError, match="no label term"):
            method.check((second,))
    else:  # they weigh samples
        method.check((second,))
    of_scores = [SquaredError(), AnnealedMSE() if build is AnnealingKD else LogitMSE()]
    if build is tgeo:
        with pytest.raises(UserError, match="tgeo.*for classes, and this task is a regression; use `RWKD"):
            check_terms(of_scores, {"numbers"}, method)
    else:
        check_terms(of_scores, {"numbers"}, method)


def test_masked_keeps_totals_other_than_one():
    """Prevents a mask that turns a sample's weight into 1, or a sum of weights above 1 into 1."""
    w = torch.tensor([[0.06, 0.14], [3.0, 4.0], [1e-20, 3e-20], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(masked(w, torch.ones(4, 2) > 0), w, rtol=1e-12, atol=0)
    without = masked(w, torch.tensor([[False, True]] * 4))
    expected = torch.tensor([[0, 0.2], [0, 7], [0, 4e-20], [0, 0]], dtype=torch.float64)
    torch.testing.assert_close(without, expected, rtol=1e-12, atol=0)


# Annealing-KD


def annealed(progress, classes=3, **options):
    """Student's and teacher's logits and the term."""
    g = torch.Generator().manual_seed(classes)
    s, t = (torch.randn(5, classes, generator=g, dtype=torch.float64) for _ in range(2))
    batch = {"teacher_logits": t, "progress": torch.tensor(progress, dtype=torch.float64), "index": torch.arange(5)}
    return s.numpy(), t.numpy(), AnnealedMSE(**options)({"logits": s}, batch).numpy()


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(
    "progress,temperature", [(0.0, 10.0), (0.25, 7.0), (0.375, 5.5), (0.5, 4.0), (0.75, 1.0), (0.9, 1.0)]
)
def test_annealed_mse(progress, temperature, classes):
    """Prevents a T that rises, that ends elsewhere than at 1, or at another time; a sum over the classes."""
    s, t, found = annealed(progress, classes)
    np.testing.assert_allclose(found, ((s - (1 - (temperature - 1) / 10) * t) ** 2).mean(1), rtol=1e-12)


def test_annealed_mse_from_a_tenth_of_the_teacher_to_all_of_it():
    """Prevents a φ that starts at 0 or ends below 1; and options that are not used."""
    for progress, phi, options in (
        (0.0, 0.1, {}),
        (0.75, 1.0, {}),
        (0.0, 0.25, {"max_temperature": 4.0}),
        (0.25, 1 - 4.5 / 10, {"stage_one": 0.5}),
        (0.3, 1.0, {"max_temperature": 1.0}),
    ):
        s, t, found = annealed(progress, **options)
        np.testing.assert_allclose(found, ((s - phi * t) ** 2).mean(1), rtol=1e-12)


@pytest.mark.parametrize("label_term,classes", [(CrossEntropy(), 3), (SquaredError(), 1)])
def test_annealing_kd_stages(label_term, classes):
    """Prevents a student of stage 2 that still follows the teacher, and one of stage 1 that follows the labels."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, classes, generator=g).requires_grad_()

    def gradient(progress, teacher, labels):
        batch = {
            "labels": labels,
            "teacher_logits": teacher,
            "index": torch.arange(4),
            "progress": torch.tensor(progress),
        }
        terms = [AnnealedMSE(), label_term]
        losses = stack(terms, {"logits": logits}, batch)
        step = Step(losses, losses >= 0, tuple(t.name for t in terms), {}, batch, progress)
        return torch.autograd.grad((masked(AnnealingKD()(step), step.valid) * losses).sum(1).mean(), logits)[0]

    teachers = [torch.randn(4, classes, generator=g) for _ in range(2)]
    labels = [(torch.arange(4) + k) % 2 for k in range(2)]
    for early in (0.0, 0.4, 0.7499):
        assert torch.equal(gradient(early, teachers[0], labels[0]), gradient(early, teachers[0], labels[1]))
        assert not torch.equal(gradient(early, teachers[0], labels[0]), gradient(early, teachers[1], labels[0]))
    for late in (0.75, 0.99):
        assert torch.equal(gradient(late, teachers[0], labels[0]), gradient(late, teachers[1], labels[0]))
        assert not torch.equal(gradient(late, teachers[0], labels[0]), gradient(late, teachers[0], labels[1]))


@pytest.mark.parametrize("name", ["mwn", "l2rw", "tgeo", "annealing_kd"])
def test_configs(name):
    """Prevents a config whose keys are not the method's, or whose terms it refuses."""
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        config = compose("config", [f"weighting={name}"])
    weighting = weighting_of(config)
    check_terms(terms_of(config), {"classes"}, weighting)
    assert repr(weighting).startswith(f"{name}(") and weighting.needs_influence == (name != "annealing_kd")


@pytest.mark.parametrize("task,label", [("tweets", "ce"), ("stsb", "squared_error")])
def test_one_setting_for_both_parts_of_annealing_kd(task, label):
    """Prevents a T that is still falling when stage 2 begins, and a label term of another task."""
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        config = compose("config", [f"task={task}", "weighting=annealing_kd", "weighting.stage_one=0.5"])
        plain = compose("config", [f"task={task}", "weighting=kd"])
    terms, weighting = terms_of(config), weighting_of(config)
    assert [term.name for term in terms] == [label, "annealed_mse"]
    assert terms[1].stage_one == weighting.stage_one == 0.5
    assert terms_of(plain)[0].name == label and plain.loss_terms.annealed_mse.stage_one == 0.75


@pytest.mark.parametrize(
    "build,said",
    [
        (lambda: MetaWeightNet(alpha=1.5), "`alpha` is 1.5"),
        (lambda: MetaWeightNet(hidden=0), "`hidden` is 0"),
        (lambda: MetaWeightNet(lr=0.0), "`lr` is 0.0"),
        (lambda: LearningToReweight(-0.5), "`alpha` is -0.5"),
        (lambda: TrilateralGeometry(lr=-1.0), "`lr` is -1.0"),
        (lambda: TrilateralGeometry(entropy=-1.0), "`entropy` is -1.0"),
        (lambda: AnnealingKD(0.0), "`stage_one` is 0.0"),
        (lambda: AnnealingKD(1.5), "`stage_one` is 1.5"),
        (lambda: AnnealedMSE(stage_one=0.0), "annealed_mse.stage_one is 0.0"),
        (lambda: AnnealedMSE(max_temperature=0.5), "annealed_mse.max_temperature is 0.5"),
        (lambda: AnnealedMSE(max_temperature=float("inf")), "max_temperature is inf"),
    ],
)
def test_bad_values_are_named(build, said):
    """Prevents a run that trains on a typo; the message names key and value."""
    with pytest.raises(UserError, match=said):
        build()


def test_annealed_mse_without_progress_is_told():
    """Prevents: a bare KeyError in a loop of one's own, which says nothing of what the batch lacks."""
    with pytest.raises(UserError, match=r"batch\['progress'\] = "):
        AnnealedMSE()({"logits": torch.zeros(2, 3)}, {"teacher_logits": torch.zeros(2, 3)})
