"""Contextual topic models: a document's sentence embedding, with or without its bag of words, to a mixture of topics.

CombinedTM (Bianchi, Terragni and Hovy, Pre-training is a Hot Topic, ACL 2021) and ZeroShotTM (Bianchi et al.,
Cross-lingual Contextualized Topic Models with Zero-shot Learning, EACL 2021), both with the decoder of ProdLDA
(Srivastava and Sutton 2017).
"""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from rwkd_lightning.utils.errors import UserError

HIDDEN = 100
DROPOUT = 0.2
SAMPLES = 512
"""Points whose mean θ is a document's mixture at inference."""


OUTPUTS = frozenset({"mu", "log_var", "theta", "logits", "prior_mu", "prior_log_var"})
"""The names of what `TopicModel` gives out."""


@dataclass(frozen=True)
class Shape:
    """The sizes that a topic model is built from.

    Attributes:
        vocabulary: V words.
        topics: K, 2 or more.
        embedding: width E of the sentence embedding.
        layers: hidden layers of 100 units between the input and the latent distribution; 0: none.
        bag_of_words: whether the encoder reads the word counts too (CombinedTM), or the embedding alone (ZeroShotTM).

    Raises:
        UserError: for a number out of range.
    """

    vocabulary: int
    topics: int
    embedding: int
    layers: int
    bag_of_words: bool

    def __post_init__(self) -> None:
        for name, lowest in (("vocabulary", 2), ("topics", 2), ("embedding", 1), ("layers", 0)):
            if getattr(self, name) < lowest:
                raise UserError(
                    f"a topic model with {name}={getattr(self, name)} cannot be built; give {lowest} or more"
                )


class TopicModel(nn.Module):
    """A batch with ``embeddings`` ``(B, E)`` (and ``counts`` ``(B, V)``) to outputs by name.

    ``mu``, ``log_var`` ``(B, K)``: the latent Gaussian; ``theta`` ``(B, K)``: softmax of one draw of it, in training
    with dropout; ``logits`` ``(B, V)``: BN(θβ), whose softmax is the distribution of words; ``prior_mu``,
    ``prior_log_var`` ``(B, K)``: the prior, the same in each row, N(0, 1 − 1/K) before training and learned along. Its
    variance is kept as a logarithm, so that it stays above 0. The decoder β ``(K, V)`` starts Xavier-uniform.

    A draw is taken in training and in evaluation alike, from torch's global generator; `mixture` draws none.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        v, k = shape.vocabulary, shape.topics
        self.adapt = nn.Linear(shape.embedding, v)
        sizes = [2 * v if shape.bag_of_words else v, *[HIDDEN] * shape.layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.to_mu, self.to_log_var = nn.Linear(sizes[-1], k), nn.Linear(sizes[-1], k)
        self.norm_mu, self.norm_log_var = nn.BatchNorm1d(k, affine=False), nn.BatchNorm1d(k, affine=False)
        self.norm_words = nn.BatchNorm1d(v, affine=False)
        self.dropout, self.dropout_theta = nn.Dropout(DROPOUT), nn.Dropout(DROPOUT)
        self.beta = nn.Parameter(nn.init.xavier_uniform_(torch.empty(k, v)))
        self.prior_mu = nn.Parameter(torch.zeros(k))
        self.prior_log_var = nn.Parameter(torch.full((k,), 1 - 1 / k).log())

    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """μ and log σ², each ``(B, K)``."""
        x = self.adapt(batch["embeddings"])
        if self.shape.bag_of_words:
            x = torch.cat([batch["counts"].to(x.dtype), x], 1)
        elif not self.hidden:
            x = nn.functional.softplus(x)
        for layer in self.hidden:
            x = nn.functional.softplus(layer(x))
        x = self.dropout(x)
        return self.norm_mu(self.to_mu(x)), self.norm_log_var(self.to_log_var(x))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        mu, log_var = self.encode(batch)
        theta = self.dropout_theta(draw(mu, log_var))
        prior = {"prior_mu": self.prior_mu.expand_as(mu), "prior_log_var": self.prior_log_var.expand_as(mu)}
        return {"mu": mu, "log_var": log_var, "theta": theta, "logits": self.norm_words(theta @ self.beta), **prior}

    @torch.no_grad()
    def mixture(self, mu: Tensor, log_var: Tensor) -> Tensor:
        """The mean of θ ``(B, K)`` under the latent Gaussian, each row a distribution over the topics.

        All documents share the same ``SAMPLES`` points, so that a row depends on its own μ and σ alone, whatever its
        place.
        """
        sigma, total = (log_var / 2).exp(), torch.zeros_like(mu, dtype=torch.float64)
        for noise in points(mu.shape[1]).to(mu):
            total += (mu + sigma * noise).softmax(1)
        return (total / SAMPLES).to(mu.dtype)

    @torch.no_grad()
    def topic_words(self) -> Tensor:
        """softmax(BN(β_k)) ``(K, V)``, by the running statistics: the words of a document that is all topic k.

        softmax(β) alone, by which topics are read and scored in the literature, is nearly flat: what the decoder says
        of a topic it says through the normalisation.
        """
        normalised: Tensor = nn.functional.batch_norm(
            self.beta, self.norm_words.running_mean, self.norm_words.running_var, eps=self.norm_words.eps
        )
        return normalised.softmax(1)


def draw(mu: Tensor, log_var: Tensor) -> Tensor:
    """θ = softmax(μ + σ·ε), ε standard normal: ``(B, K)``."""
    noise = torch.randn(mu.shape, dtype=mu.dtype, device=mu.device)
    return (mu + (log_var / 2).exp() * noise).softmax(1)


@functools.lru_cache(maxsize=4)
def points(topics: int) -> Tensor:
    """``SAMPLES`` points ``(S, K)`` in float64 that stand for a standard normal: always the same, no generator.

    A scrambled Sobol sequence lies more evenly than random numbers, whose mean of θ is several times farther off.
    """
    with torch.inference_mode(False):  # kept, and used outside of inference too
        sequence: SobolEngine = SobolEngine(topics, scramble=True, seed=0)  # type: ignore[no-untyped-call]
        even = sequence.draw(SAMPLES, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        return 2**0.5 * torch.erfinv(2 * even - 1)


def save(model: TopicModel, folder: Path) -> None:
    """``model.safetensors`` and ``config.json`` in a folder that exists."""
    from safetensors.torch import save_file

    save_file({n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}, folder / "model.safetensors")
    part = folder / ".config.json.part"
    part.write_text(json.dumps({"model": "topic", **asdict(model.shape)}, indent=1) + "\n")
    os.replace(part, folder / "config.json")


def load(folder: Path) -> TopicModel:
    """The model that `save` wrote, in evaluation mode.

    Raises:
        UserError: if there is none, or it is of something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text())
        if config.pop("model", None) != "topic":
            raise ValueError("its config.json is not of a topic model")
        model = TopicModel(Shape(**config))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except UserError:  # of the shape, which names the number
        raise
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} holds no topic model ({' '.join(str(error).split())[:200]}); give the folder student/ of a "
            "run of task=topics"
        ) from error
    return model.eval()
