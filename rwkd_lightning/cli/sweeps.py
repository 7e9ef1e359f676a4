"""The jobs of a sweep, as far as they are looked at before the first one runs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override

from rwkd_lightning.cli import help as usage
from rwkd_lightning.cli.kinds import first_line
from rwkd_lightning.utils.errors import UserError

ENOUGH = 200  # values of one sweep that are looked at
COMBINATIONS = 8  # a composition takes 0.1 s; of larger sweeps, each group is varied on its own


def expanded(override: Override, conf: Path) -> Iterator[Override]:
    """An override for each value of a sweep, as Hydra's sweeper makes them, of an interval for its ends; any other as it is.

    Raises:
        UserError: for a sweep whose values Hydra cannot tell, as one within another.
    """
    if not override.is_sweep_override():
        yield override
        return
    value = override.value()
    if isinstance(value, Glob):
        texts = iter(value.filter(list(usage.options(conf, override.key_or_group))))
    elif isinstance(value, IntervalSweep):
        texts = iter([str(value.start), str(value.end)])
    else:
        texts = override.sweep_string_iterator()
    try:
        parse = OverridesParser.create().parse_override
        found = [parse(f"{override.get_key_element()}={text}") for text in itertools.islice(texts, ENOUGH)]
    except Exception as error:  # of Hydra, of OmegaConf, of ANTLR
        raise UserError(f"{override.input_line}: the values of this sweep cannot be told ({first_line(error)}); write KEY=A,B or "
                        "KEY=range(FROM,TO)") from error
    yield from found


def combinations(swept: Sequence[Sequence[Override]]) -> list[tuple[Override, ...]]:
    """Every combination of the options of a sweep; of many, the first and those that differ from it in one option."""
    first = [options[:1] for options in swept]
    few = list(itertools.islice(itertools.product(*swept), COMBINATIONS + 1))
    if len(few) <= COMBINATIONS:
        return few
    one_by_one = [itertools.product(*first[:i], options[1:], *first[i + 1:]) for i, options in enumerate(swept)]
    return [*itertools.product(*first), *itertools.chain(*one_by_one)]


@contextlib.contextmanager
def of_interval(override: Override) -> Iterator[None]:
    """Say how whole numbers are drawn from an interval, where fractions cannot be.

    Raises:
        UserError: in place of one about an end of the interval, which is whole, and a fraction to Hydra.
    """
    try:
        yield
    except UserError as error:
        value = override.value()
        ends = [value.start, value.end] if isinstance(value, IntervalSweep) else []
        if ends and ("whole number" in str(error) or "as a fraction" in str(error)) and all(
                isinstance(end, float) and end.is_integer() for end in ends):
            text = (override.input_line or "").partition("=")[2]
            raise UserError(f"{override.input_line} draws numbers such as {ends[0]}, which {override.key_or_group} does not "
                            f"take; for whole ones write {override.get_key_element()}=int({text})") from None
        raise
