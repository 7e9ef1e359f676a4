from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from scipy.stats import entropy
from sklearn.metrics import log_loss

from rwkd_lightning.terms import CrossEntropy, DistillationKL, LogitMSE, SoftCrossEntropy, SquaredError, stack
from rwkd_lightning.utils.errors import UserError

CLASSIFICATION = [CrossEntropy(), DistillationKL(2.0)]
REGRESSION = [SquaredError(), LogitMSE()]


def rows(classes, n=6, dtype=torch.float64):
    g = torch.Generator().manual_seed(classes)
    logits, teacher = (3 * torch.randn(n, classes, generator=g, dtype=torch.float64) for _ in range(2))
    labels = torch.arange(n) % classes if classes > 1 else torch.randn(n, generator=g, dtype=torch.float64)
    batch = {"labels": labels, "teacher_logits": teacher.to(dtype), "index": torch.arange(n)}
    return {"logits": logits.to(dtype).requires_grad_()}, batch


@pytest.mark.parametrize("classes", [2, 5])
def test_cross_entropy(classes):
    """Prevents a batch mean, or log p of another class, in place of −log p_i[y_i]."""
    outputs, batch = rows(classes)
    found = CrossEntropy()(outputs, batch).detach()
    p = softmax(outputs["logits"].detach().numpy(), axis=1)
    for i, y in enumerate(batch["labels"].tolist()):
        assert float(found[i]) == pytest.approx(log_loss([y], p[i : i + 1], labels=range(classes)), rel=1e-9)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_kd(classes, temperature):
    """Prevents KL(p‖q), a forgotten T², and kl_div's division by n·C."""
    outputs, batch = rows(classes)
    found = DistillationKL(temperature)(outputs, batch).detach()
    p, q = (softmax(x.detach().numpy() / temperature, axis=1) for x in (outputs["logits"], batch["teacher_logits"]))
    np.testing.assert_allclose(found, temperature**2 * rel_entr(q, p).sum(1), rtol=1e-9)


def test_kd_gradient():
    """Prevents a gradient into or through the teacher: ∂KD/∂s = T·(p^T − q^T)."""
    outputs, batch = rows(3)
    DistillationKL(2.0)(outputs, batch).sum().backward()
    p, q = (softmax(x.detach().numpy() / 2, axis=1) for x in (outputs["logits"], batch["teacher_logits"]))
    np.testing.assert_allclose(outputs["logits"].grad, 2 * (p - q), rtol=1e-9)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_soft_cross_entropy(classes, temperature):
    """Prevents student and teacher changing places, a forgotten T², and a divergence under the name of a
    cross-entropy.
    """
    outputs, batch = rows(classes)
    found = SoftCrossEntropy(temperature)(outputs, batch).detach()
    for i in range(6):
        p, q = (softmax(x[i].detach().numpy() / temperature) for x in (outputs["logits"], batch["teacher_logits"]))
        assert float(found[i]) == pytest.approx(temperature**2 * (entropy(q) + rel_entr(q, p).sum()), rel=1e-9)


def test_soft_cross_entropy_has_the_gradient_of_kd():
    """Prevents a term that trains differently from the one it differs from by a constant; and a gradient into the
    teacher.
    """
    grads = []
    for term in (SoftCrossEntropy(2.0), DistillationKL(2.0)):
        outputs, batch = rows(3)
        term(outputs, batch).sum().backward()
        grads.append(outputs["logits"].grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-12)
    assert not batch["teacher_logits"].requires_grad and SoftCrossEntropy().valid(batch).all()


def test_soft_cross_entropy_of_far_logits():
    """Prevents 0·∞ for a student and a teacher that are certain of different classes."""
    outputs = {"logits": torch.tensor([[300.0, -300.0], [0.0, 0.0]], requires_grad=True)}
    batch = {"teacher_logits": torch.tensor([[-300.0, 300.0], [400.0, -400.0]]), "index": torch.arange(2)}
    losses = SoftCrossEntropy(2.0)(outputs, batch)
    losses.sum().backward()
    torch.testing.assert_close(losses.detach(), torch.tensor([1200.0, 2.7725887]))
    assert bool(outputs["logits"].grad.isfinite().all())


def test_squared_errors():
    """Prevents a (B, B) matrix from broadcasting (B, 1) against (B,)."""
    outputs, batch = rows(1)
    s = outputs["logits"].detach().numpy()[:, 0]
    expected = np.stack([(s - batch["labels"].numpy()) ** 2, (s - batch["teacher_logits"].numpy()[:, 0]) ** 2], 1)
    np.testing.assert_allclose(stack(REGRESSION, outputs, batch).detach(), expected, rtol=1e-12)


def test_hidden_label_is_masked():
    """Prevents a row without a label (−1) from training the student on a class that nobody named."""
    outputs, batch = rows(3)
    batch["labels"][2] = -1
    term = CrossEntropy()
    losses = term(outputs, batch)
    losses.sum().backward()
    assert float(losses[2]) == 0
    assert torch.equal(outputs["logits"].grad[2], torch.zeros(3, dtype=torch.float64))
    assert bool(outputs["logits"].grad[[0, 1, 3, 4, 5]].ne(0).all())
    assert term.valid(batch).tolist() == [True, True, False, True, True, True]
    assert DistillationKL().valid(batch).all()


def test_regression_labels_of_minus_one_count():
    """Prevents the mask of classification from dropping rows of a regression whose label happens to be −1."""
    outputs, batch = rows(1)
    batch["labels"][2] = -1.0
    assert all(bool(term.valid(batch).all()) for term in REGRESSION)
    found, logit = SquaredError()(outputs, batch)[2].detach(), outputs["logits"][2, 0].detach()
    assert float(found) == pytest.approx((float(logit) + 1) ** 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("terms,classes", [(CLASSIFICATION, 3), ([SoftCrossEntropy()], 3), (REGRESSION, 1)])
def test_half_precision_is_raised(terms, classes, dtype):
    """Prevents losses rounded to three digits: they equal those of the same logits in float32."""
    outputs, batch = rows(classes, dtype=dtype)
    found = stack(terms, outputs, batch).detach()
    raised = {**batch, "teacher_logits": batch["teacher_logits"].double()}
    expected = stack(terms, {"logits": outputs["logits"].detach().double()}, raised)
    assert found.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_double_stays_double():
    """Prevents a reference in float64 that is silently computed in float32."""
    for terms, classes in ((CLASSIFICATION, 3), (REGRESSION, 1)):
        outputs, batch = rows(classes)
        assert stack(terms, outputs, batch).dtype == torch.float64


def test_far_logits_stay_finite():
    """Prevents 0·∞ in KD, and overflow of CE, for a student or teacher that is certain."""
    outputs = {"logits": torch.tensor([[300.0, -300.0], [0.0, 0.0]], requires_grad=True)}
    batch = {"labels": torch.tensor([1, 0]), "teacher_logits": torch.tensor([[-300.0, 300.0], [400.0, -400.0]]),
             "index": torch.arange(2)}  # fmt: skip
    losses = stack(CLASSIFICATION, outputs, batch)
    losses.sum().backward()
    torch.testing.assert_close(losses.detach(), torch.tensor([[600.0, 1200.0], [0.6931472, 2.7725887]]))
    assert bool(outputs["logits"].grad.isfinite().all())


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_temperature_is_named(temperature):
    """Prevents NaN losses; the message names the value."""
    with pytest.raises(UserError, match=str(temperature)):
        DistillationKL(temperature)
    with pytest.raises(UserError, match=str(temperature)):
        SoftCrossEntropy(temperature)
