"""One logged row of a step: every term, and mean and spread over the samples of every weight."""

from __future__ import annotations

from torch import Tensor


def summary(names: tuple[str, ...], losses: Tensor, weights: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """``loss/<term>``, ``weight/<term>`` and ``weight_spread/<term>`` over the samples for which the term has a value.

    NaN where there is no such sample: without an entry the log would repeat that of an earlier step.

    Args:
        names: of the K terms.
        losses: ``(B, K)``, of all ranks.
        weights: as these.
        valid: as these.
    """
    found: dict[str, Tensor] = {}
    for name, every_loss, every_weight, known in zip(names, losses.T, weights.T, valid.T, strict=True):
        loss, weight = every_loss[known], every_weight[known]
        spread = weight.std(correction=0) if len(weight) else weight.mean()  # which warns of an empty tensor
        of_term = {"loss": loss.mean(), "weight": weight.mean(), "weight_spread": spread}
        found |= {f"{kind}/{name}": value.float() for kind, value in of_term.items()}
    return found
