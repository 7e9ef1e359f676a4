"""The loss terms of a run as a weighting method sees them: their names, and which of them play which role."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rwkd_lightning.terms.base import Term
from rwkd_lightning.utils.errors import UserError

PACKAGE = f"{__name__.partition('.')[0]}."


class Columns(tuple[str, ...]):
    """The names of the K loss terms in the order of their columns, each once, with its role and its preference.

    Attributes:
        roles: ``Term.role`` of each.
        preferences: ``Term.preference`` of each.
        kinds: ``Term.kind`` of each; None where only a name was given.
    """

    roles: tuple[str, ...] = ()
    preferences: tuple[int | None, ...] = ()
    kinds: tuple[Any, ...] = ()

    @classmethod
    def of(cls, terms: Sequence[str | Term]) -> Columns:
        """Columns for these terms; a name alone stands for the class that has it, or for a regulariser.

        Raises:
            UserError: if two terms have one name, under which one would overwrite the other's weights and losses; or
                one is called as a column of the teacher's.
        """
        if isinstance(terms, Columns):
            return terms
        names = [term if isinstance(term, str) else term.name for term in terms]
        for name in names:
            if name.startswith("teacher_"):
                raise UserError(
                    f"a loss term is called {name!r}; names that begin with teacher_ are kept for the teacher's own "
                    f"columns (loss_teacher_...); call it otherwise, {name.removeprefix('teacher_')}_of_teacher say"
                )
        for k, name in enumerate(names):
            if name in names[:k]:
                first, second = terms[names.index(name)], terms[k]
                raise UserError(
                    f"two loss terms are called {name!r}, {first!r} and {second!r}, and their weights and losses "
                    "would lie in one column; give one of them another name (name=...; in a config, another key of "
                    "loss_terms)"
                )
        # a name alone means the package's own term, also where somebody has a class of the same name
        classes = {
            found.name: found for found in sorted(named(Term), key=lambda kind: kind.__module__.startswith(PACKAGE))
        }
        kinds = [classes.get(term, Term) if isinstance(term, str) else term for term in terms]
        columns = cls(names)
        columns.roles = tuple(kind.role for kind in kinds)
        columns.preferences = tuple(kind.preference for kind in kinds)
        columns.kinds = tuple(None if isinstance(term, str) else term.kind for term in terms)
        return columns

    def having(self, role: str) -> list[int]:
        """Indices of the terms that play this role, see ``Term.preference``; empty if none does."""
        found = [k for k, one in enumerate(self.roles) if one == role]
        stated = [p for k in found if (p := self.preferences[k]) is not None]
        return [k for k in found if self.preferences[k] in (None, min(stated, default=None))]


class MissingRole(UserError):
    """No loss term plays a role that a weighting method needs."""

    def __init__(self, terms: Columns, role: str) -> None:
        self.role = role
        given = ", ".join(f"{name} has role {one}" for name, one in zip(terms, terms.roles, strict=True))
        super().__init__(
            f"terms={list(terms)} has no {role} term, which this weighting needs ({given}); add a term with role {role}"
        )


def columns(terms: Sequence[str | Term], role: str) -> list[int]:
    """Indices of the terms that play this role.

    Raises:
        MissingRole: if there is none.
    """
    known = Columns.of(terms)
    found = known.having(role)
    if not found:
        raise MissingRole(known, role)
    return found


def has(terms: Sequence[str | Term], role: str) -> bool:
    """Whether a term plays this role."""
    return bool(Columns.of(terms).having(role))


def only(terms: Sequence[str | Term], roles: Sequence[str], method: str) -> None:
    """Refuse terms beyond those with these roles, which the method would leave without a weight.

    Raises:
        UserError: naming the first of them; also if a role is missing.
    """
    names = Columns.of(terms)
    weighed = {k for role in roles for k in columns(names, role)}
    left = [name for k, name in enumerate(names) if k not in weighed]
    if left:
        known = " and ".join(names[k] for k in sorted(weighed))
        raise UserError(
            f"terms={list(names)}: {method} has a rule for {known} only, and {left[0]!r} would weigh "
            "nothing; use `FixedAlpha()` with `weighting.beta`, or one that weighs any number of terms: rwkd, "
            "rwkd_online, global, uncertainty, dwa, gradnorm"
        )


def named(kind: Any) -> Iterator[type[Term]]:
    """All classes below a class that have a name of their own, outer ones first."""
    for found in kind.__subclasses__():
        if "name" in found.__dict__:
            yield found
        yield from named(found)
