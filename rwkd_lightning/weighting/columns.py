"""Which columns of the loss terms speak for the labels, or the data itself, and which for the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from rwkd_lightning.utils.errors import UserError

ROLES = {
    "label": (("ce",), ("squared_error",), ("prior_kl", "reconstruction")),  # the two of the negative ELBO share their weight
    "teacher": (("kd",), ("soft_ce", "w2"), ("logit_mse",)),
    "annealed": (("annealed_mse",),),
}


def columns(terms: tuple[str, ...], role: str) -> list[int]:
    """Indices of the terms with this role, one of ``ROLES``: of the first of its sets of which the terms have any.

    Raises:
        UserError: if there is none.
    """
    for names in ROLES[role]:
        found = [k for k, name in enumerate(terms) if name in names]
        if found:
            return found
    known = [name for names in ROLES[role] for name in names]
    raise UserError(f"terms={list(terms)} has no {role} term; this weighting needs one of {known}")


def has(terms: tuple[str, ...], role: str) -> bool:
    """Whether a term has this role."""
    return any(name in names for names in ROLES[role] for name in terms)


def of_classes(terms: tuple[str, ...], method: str, instead: str) -> None:
    """Refuse tasks without classes, for methods that read their probabilities.

    Raises:
        UserError: if there is no cross-entropy with the label among the terms.
    """
    if "ce" not in terms:
        raise UserError(f"terms={list(terms)} has no cross-entropy with the label, so no classes whose probabilities "
                        f"weighting={method} could read; use {instead}")


def only(terms: tuple[str, ...], roles: Sequence[str], method: str) -> None:
    """Refuse terms beyond those with these roles, which the method would leave without a weight.

    Raises:
        UserError: naming the first of them; also if a role is missing.
    """
    weighed = {k for role in roles for k in columns(terms, role)}
    left = [name for k, name in enumerate(terms) if k not in weighed]
    if left:
        known = " and ".join(terms[k] for k in sorted(weighed))
        raise UserError(f"terms={list(terms)}: weighting={method} has a rule for {known} only, and {left[0]!r} would weigh "
                        "nothing; use weighting=kd with weighting.beta, or one that weighs any number of terms: rwkd, "
                        "rwkd_online, global, uncertainty, dwa, gradnorm")
