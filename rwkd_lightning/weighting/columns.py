"""Which column of the loss terms speaks for the labels and which for the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from rwkd_lightning.errors import UserError

ROLES = {"label": ("ce", "squared_error"), "teacher": ("kd", "soft_ce", "logit_mse"), "annealed": ("annealed_mse",)}


def column(terms: tuple[str, ...], role: str) -> int:
    """Index of the first term with this role, one of ``ROLES``.

    Raises:
        UserError: if there is none.
    """
    for name in ROLES[role]:
        if name in terms:
            return terms.index(name)
    raise UserError(f"terms={list(terms)} has no {role} term; this weighting needs one of {list(ROLES[role])}")


def only(terms: tuple[str, ...], roles: Sequence[str], method: str) -> None:
    """Refuse terms beyond those with these roles, which the method would leave without a weight.

    Raises:
        UserError: naming the first of them; also if a role is missing.
    """
    weighed = {column(terms, role) for role in roles}
    left = [name for k, name in enumerate(terms) if k not in weighed]
    if left:
        known = " and ".join(terms[k] for k in sorted(weighed))
        raise UserError(f"terms={list(terms)}: weighting={method} has a rule for {known} only, and {left[0]!r} would weigh "
                        "nothing; use weighting=kd with weighting.beta, or one that weighs any number of terms: rwkd, "
                        "rwkd_online, global, uncertainty, dwa, gradnorm")
