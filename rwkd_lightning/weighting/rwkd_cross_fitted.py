"""RW-KD whose meta-learner is a ridge regression of the influence, fitted in closed form and judged across halves.

The network of ``RWKD`` learns E[u | x] by noisy steps of Adam; here the same conditional mean is fitted by least
squares. The form, the cross-fitted penalty and the gate on the prediction are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rwkd_lightning.terms.base import at_least_float32
from rwkd_lightning.utils.distributed import all_reduce_mean
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.features.checked import Features, read, width_of
from rwkd_lightning.weighting.gates import Gate, Sigmoid

PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Of the ridge, as shares of each column's own sum of squares. At the last one little more than the intercept is left,
one weight for all samples.
"""
REFIT = 8
"""Meta steps between two fits."""
WIDEST = 40
"""Columns of features; their products are squared in memory."""


class CrossFittedRWKD(Weighting):
    """w_i = gate(m(x_i)/τ), with m_k(x) = β_kᵀ[1, z, products of z] the fitted influence of term k, in units of its
    mean size over the training, and z the features x, standardised and cut off at ±3.

    Meta steps take turns between two halves of the held-out rows, A and B, so that u comes from either. β^A_k and β^B_k
    are ridge regressions on the visits of each, their penalty that by which each predicts the *other* half's u best,
    per term; β_k is their mean. What one half of the held-out rows says about the samples and the other does not
    confirm is shrunk away, down to one weight per term where samples do not differ. Visits at which a term has no value
    are left out of its fit.

    Steps count by the size of their u, and not alike: v is largest, and tells most, while the student learns most.

    Kept are sums over the visits, ``2·K·(P + 2)²`` numbers for P = 1 + d(d + 3)/2 columns: nothing per sample, and
    neither a rate nor an optimizer.

    Args:
        features: module with ``width`` d and ``forward(step) -> (B, d)``.
        terms: names of the K loss terms.
        tau: τ, what the fitted influence is divided by.
        gate: from logits to weights; None: ``gates.Sigmoid``. A logit beyond the K terms is 0.

    Raises:
        UserError: if tau is out of range, or the features have no width or more than 40; by ``forward``, if the
            features give something else than they should.
    """

    needs_influence = True
    reads_influence = False
    by_halves = True
    collapse_remedy = "raise `tau`"
    taken: Tensor
    units: Tensor
    sums: Tensor
    coefficients: Tensor
    products: Tensor
    penalties: Tensor

    def __init__(
        self, features: Features, terms: Sequence[str] = ("ce", "kd"), tau: float = 0.3, gate: Gate | None = None
    ) -> None:
        super().__init__()
        width, k = width_of(features), len(terms)
        if not 0 < tau < float("inf"):
            raise UserError(f"`tau` is {tau}; it must be above 0 (0.2 to 1 is usual)")
        if width > WIDEST:
            raise UserError(
                f"`features`: {type(features).__name__} has width={width}, and a regression on the products of its "
                f"columns takes {WIDEST} at most; give fewer, or use `RWKD()`"
            )
        self.features, self.tau = features, tau
        self.gate = Sigmoid() if gate is None else gate
        columns = 1 + width * (width + 3) // 2
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))  # meta steps
        self.register_buffer("units", torch.stack([torch.zeros(width), torch.ones(width)]))  # of the features
        self.register_buffer("sums", torch.zeros(2, k, columns + 2, columns + 2))  # of [p, u, |u|]ᵀ[p, u, |u|]
        self.register_buffer("coefficients", torch.zeros(columns, k))
        self.register_buffer("products", torch.triu_indices(width, width), persistent=False)
        self.register_buffer("penalties", torch.tensor(PENALTIES), persistent=False)
        self.counted: int | None = 0
        self.register_load_state_dict_post_hook(CrossFittedRWKD.recount)  # type: ignore[no-untyped-call]

    def recount(self, *_: object) -> None:
        """Forget the number of meta steps: ``taken`` was loaded."""
        self.counted = None

    @property
    def steps(self) -> int:
        """``taken``, read from the device once after it was loaded."""
        if self.counted is None:
            self.counted = int(self.taken)
        return self.counted

    def forward(self, step: Step) -> Tensor:
        features = self.read(step)
        with torch.autocast(features.device.type, enabled=False):  # which would round the products
            fitted = self.design(features) @ self.coefficients
        beyond = self.gate.width(fitted.shape[1]) - fitted.shape[1]
        weights = self.gate(at_least_float32(F.pad(fitted, (0, beyond)) / self.tau))
        return self.gate.without_invalid(weights, step.valid)

    def read(self, step: Step) -> Tensor:
        """The features ``(B, d)``."""
        values: Tensor = step.once("features", self, lambda: read(self.features, step).to(self.sums.dtype))
        return values

    def design(self, features: Tensor) -> Tensor:
        """The columns [1, z, products of z] ``(B, P)``."""
        centre, spread = self.units.unbind()
        z = ((features - centre) / spread).clamp(-3, 3)
        first, second = self.products.unbind()
        return torch.cat([torch.ones_like(z[:, :1]), z, z[:, first] * z[:, second]], 1)

    @torch.no_grad()
    def observe(self, step: Step) -> None:
        if step.influence is None:
            return
        features = self.read(step)
        if not self.steps:
            self.standardise(features)
        influence = torch.where(step.valid, step.influence, 0.0).to(features.dtype).T[..., None]  # (K, B, 1)
        design = self.design(features).expand(len(influence), -1, -1)
        rows = torch.cat([design, influence, influence.abs()], 2) * step.valid.T[..., None]
        with torch.autocast(rows.device.type, enabled=False):
            self.sums[step.half] += all_reduce_mean(rows.mT @ rows)
        self.taken += 1
        self.counted = self.steps + 1
        if self.counted % REFIT == 0:
            self.fit()

    def standardise(self, features: Tensor) -> None:
        """Take the units of the features ``(B, d)`` from the rows of the first meta step, those of all ranks."""
        mean = all_reduce_mean(features.mean(0))
        deviation = all_reduce_mean((features - mean).square().mean(0)).sqrt()
        self.units.copy_(torch.stack([mean, torch.where(deviation > 1e-3, deviation, 1.0)]))

    def fit(self) -> None:
        """Fit the coefficients to the sums."""
        # float64, as products of features nearly depend on each other; Apple's devices have none
        sums = self.sums.to(torch.float32 if self.sums.device.type == "mps" else torch.float64)
        count = sums[..., :1, :1].clamp_min(1)  # the visits: the intercept's sum of squares
        gram, moment = sums[..., :-2, :-2] / count, sums[..., :-2, -2:-1] / count  # (2, K, P, P), (2, K, P, 1)
        ridge = gram.diagonal(dim1=-2, dim2=-1).clone()
        ridge[..., 0].zero_()  # not the intercept: with all else shrunk, one weight for all is left
        penalties = self.penalties.to(sums.dtype)[:, None, None, None]
        factor, _ = torch.linalg.cholesky_ex(gram + torch.diag_embed(penalties * ridge + 1e-6))
        found = torch.cholesky_solve(moment.expand(len(PENALTIES), -1, -1, -1, -1), factor)  # (L, 2, K, P, 1)
        # the error of each half's fit on the visits of the other, but for Σ u²
        error = (found * (gram.flip(0) @ found - 2 * moment.flip(0))).sum((1, 3, 4))  # (L, K)
        best = error.argmin(0).expand(1, found.shape[3], -1)
        fitted = found.mean(1)[..., 0].mT.gather(0, best)[0]  # (P, K)
        unit = sums[..., 0, -1].sum() / count.sum()
        fitted = torch.nan_to_num(fitted / unit, posinf=0.0, neginf=0.0)  # no unit: all influences are 0
        self.coefficients.copy_(fitted)

    def __repr__(self) -> str:
        return f"rwkd_cross_fitted(tau={self.tau:g}, gate={self.gate!r})"
