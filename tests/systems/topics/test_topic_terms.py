"""The loss terms of topic models against independent formulas, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch.distributions import Multinomial, MultivariateNormal, kl_divergence

from rwkd_lightning.systems.topics.model import Shape, TopicModel
from rwkd_lightning.systems.topics.module import TeacherWords
from rwkd_lightning.systems.topics.terms import PriorKL, Reconstruction, Wasserstein
from rwkd_lightning.terms import SoftCrossEntropy, stack
from rwkd_lightning.utils.errors import UserError

B, K, V = 7, 4, 30


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_wasserstein_is_the_general_formula() -> None:
    """Prevents: σ² taken for σ, or the logarithm of the variance for that of σ, which still falls while training.

    Reference: ‖μ1 − μ2‖² + tr(C1 + C2 − 2·(C2^½ C1 C2^½)^½) with scipy's matrix square roots.
    """
    outputs = {"mu": random(B, K), "log_var": random(B, K, seed=1)}
    batch = {"teacher_mu": random(B, K, seed=2), "teacher_log_var": random(B, K, seed=3)}
    for row, found in enumerate(Wasserstein()(outputs, batch)):
        ours, theirs = (np.diag(np.exp(x[row].numpy())) for x in (outputs["log_var"], batch["teacher_log_var"]))
        root = sqrtm(theirs)
        general = np.trace(ours + theirs - 2 * np.real(sqrtm(root @ ours @ root)))
        general += float(((outputs["mu"][row] - batch["teacher_mu"][row]) ** 2).sum())
        assert float(found) == pytest.approx(general, rel=1e-9)


def test_wasserstein_needs_the_teacher() -> None:
    """Prevents: a KeyError in the middle of a training where the teacher's states were not given."""
    with pytest.raises(UserError, match="teacher_mu"):
        Wasserstein()({"mu": random(B, K), "log_var": random(B, K)}, {})


def test_prior_divergence_is_torchs() -> None:
    """Prevents: prior and posterior the wrong way round, or the prior's variance left out once it is learned."""
    outputs = {
        "mu": random(B, K),
        "log_var": random(B, K, seed=1),
        "prior_mu": random(1, K, seed=2).expand(B, K),
        "prior_log_var": random(1, K, seed=3).expand(B, K),
    }
    ours = MultivariateNormal(outputs["mu"], torch.diag_embed(outputs["log_var"].exp()))
    prior = MultivariateNormal(outputs["prior_mu"], torch.diag_embed(outputs["prior_log_var"].exp()))
    torch.testing.assert_close(PriorKL()(outputs, {}), kl_divergence(ours, prior))


def test_reconstruction_is_the_multinomial_likelihood() -> None:
    """Prevents: a mean over words in place of the sum, which would let the divergence from the prior win over the
    data.
    """
    counts = torch.randint(0, 4, (B, V), generator=torch.Generator().manual_seed(4)).double()
    logits = random(B, V, seed=5)
    found = Reconstruction()({"logits": logits}, {"counts": counts})
    for row in range(B):
        n = int(counts[row].sum())
        whole = Multinomial(n, logits=logits[row]).log_prob(counts[row])
        coefficient = torch.lgamma(counts[row].sum() + 1) - torch.lgamma(counts[row] + 1).sum()
        torch.testing.assert_close(found[row], coefficient - whole)


def model(**more: object) -> TopicModel:
    torch.manual_seed(0)
    settings = {"vocabulary": V, "topics": K, "embedding": 12, "layers": 0, "bag_of_words": False, **more}
    return TopicModel(Shape(**settings)).double()  # type: ignore[arg-type]


def batch_of(rows: int = B, seed: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "index": torch.arange(rows),
        "embeddings": random(rows, 12, seed=seed),
        "counts": torch.randint(0, 3, (rows, V), generator=generator).double(),
        "teacher_mu": random(rows, K, seed=seed + 1),
        "teacher_log_var": random(rows, K, seed=seed + 2),
        "teacher_theta": random(rows, K, seed=seed + 3).softmax(1),
    }


def test_the_teachers_words_with_and_without_normalisation() -> None:
    """Prevents: soft labels that are flat where the teacher's own were asked for, or normalised by a batch."""
    teacher, batch = model(), batch_of()
    with torch.no_grad():
        teacher.norm_words.running_mean.copy_(random(V, seed=11))  # type: ignore[union-attr, operator]
        teacher.norm_words.running_var.copy_(random(V, seed=12).exp())  # type: ignore[union-attr, operator]
    plain = batch["teacher_theta"] @ teacher.beta
    torch.testing.assert_close(TeacherWords(teacher)(batch)["logits"], plain)
    normalised = (plain - random(V, seed=11)) / (random(V, seed=12).exp() + 1e-5).sqrt()
    torch.testing.assert_close(TeacherWords(teacher.eval(), normalised=True)(batch)["logits"], normalised)


def test_the_whole_loss_of_a_step_against_a_plain_implementation() -> None:
    """Prevents: an activation, a normalisation or a softmax left out between the embedding and the words.

    Reference: the equations written out with numpy, with the same noise and without dropout, batch statistics as in
    training.
    """
    network, batch = model(), batch_of()
    network.train()
    network.dropout.p = network.dropout_theta.p = 0.0
    teacher = model()
    batch |= {f"teacher_{n}": x for n, x in TeacherWords(teacher)(batch).items()}
    torch.manual_seed(3)
    terms = [PriorKL(), Reconstruction(), Wasserstein(), SoftCrossEntropy(temperature=3.0)]
    found = stack(terms, network(batch), batch).detach().numpy()
    torch.manual_seed(3)
    noise = torch.randn(B, K, dtype=torch.float64).numpy()

    p = {n: x.detach().numpy() for n, x in network.named_parameters()}
    given = {n: x.numpy() for n, x in batch.items()}

    def normalised(x: np.ndarray) -> np.ndarray:
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)

    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x - x.max(1, keepdims=True)
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    h = np.log1p(np.exp(given["embeddings"] @ p["adapt.weight"].T + p["adapt.bias"]))
    mu = normalised(h @ p["to_mu.weight"].T + p["to_mu.bias"])
    log_var = normalised(h @ p["to_log_var.weight"].T + p["to_log_var.bias"])
    theta = np.exp(log_softmax(mu + np.exp(log_var / 2) * noise))
    logits = normalised(theta @ p["beta"])
    variance = 1 - 1 / K
    prior_kl = 0.5 * (np.exp(log_var) / variance + mu**2 / variance - 1 + np.log(variance) - log_var).sum(1)
    reconstruction = -(given["counts"] * log_softmax(logits)).sum(1)
    w2 = ((mu - given["teacher_mu"]) ** 2).sum(1)
    w2 += ((np.exp(log_var / 2) - np.exp(given["teacher_log_var"] / 2)) ** 2).sum(1)
    soft = np.exp(log_softmax(given["teacher_theta"] @ teacher.beta.detach().numpy() / 3.0))
    soft_ce = -9.0 * (soft * log_softmax(logits / 3.0)).sum(1)
    np.testing.assert_allclose(found, np.stack([prior_kl, reconstruction, w2, soft_ce], 1), rtol=1e-7)
