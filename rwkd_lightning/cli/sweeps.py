"""The jobs of a sweep, as far as they are looked at before the first one runs."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override

from rwkd_lightning.cli import help as usage
from rwkd_lightning.cli.kinds import first_line
from rwkd_lightning.utils.errors import UserError

MOST = 1000
"""Jobs, and values of one key, that are all looked at, at some 20 ms each."""
SAMPLE = 100
"""Jobs of a larger sweep that are, beside each value on its own."""
Job = tuple[Override, ...]


def expanded(override: Override, conf: Path) -> list[Override]:
    """An override for each value of a sweep, as Hydra's sweeper makes them, of an interval for its ends; any other as
    it is.

    Raises:
        UserError: for a sweep whose values Hydra cannot tell, as one within another, and for one without a value.
    """
    if not override.is_sweep_override():
        return [override]
    value = override.value()
    if isinstance(value, Glob):
        texts = iter(value.filter(list(usage.options(conf, override.key_or_group))))
    elif isinstance(value, IntervalSweep):
        texts = iter([str(value.start), str(value.end)])
    else:
        texts = override.sweep_string_iterator()
    try:
        parse = OverridesParser.create().parse_override
        found = [parse(f"{override.get_key_element()}={text}") for text in itertools.islice(texts, MOST)]
    except Exception as error:  # of Hydra, of OmegaConf, of ANTLR
        raise UserError(
            f"{override.input_line}: the values of this sweep cannot be listed ({first_line(error)}); write KEY=A,B or "
            "KEY=range(FROM,TO)"
        ) from error
    if not found:
        raise UserError(f"{override.input_line} has no values, so that nothing would run; write KEY=A,B")
    return found


def jobs(values: Sequence[Sequence[Override]]) -> list[Job]:
    """Every combination of a sweep's values; of more than ``MOST``, the first, each value on its own, and a sample."""
    total = math.prod(map(len, values))
    if total <= MOST:
        return list(itertools.product(*values))
    print(
        f"a sweep of {total:,} jobs: each of its values, and {SAMPLE} of the jobs, are checked before the first one"
        " starts",
        file=sys.stderr,
    )
    first = tuple(several[0] for several in values)
    singly = [(*first[:i], value, *first[i + 1 :]) for i, several in enumerate(values) for value in several[1:]]
    draw = random.Random(0)
    return [first, *singly, *(tuple(draw.choice(several) for several in values) for _ in range(SAMPLE))]


def check_launcher(overrides: Sequence[Override]) -> None:
    """Check that what runs the jobs of a sweep is installed.

    Raises:
        UserError: for ``hydra/launcher=joblib`` without its package; Hydra would say that it finds no such file.
    """
    chosen = [override.value() for override in overrides if override.key_or_group == "hydra/launcher"]
    if chosen == ["joblib"] and importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None:
        raise UserError("hydra/launcher=joblib needs its package: pip install hydra-joblib-launcher")


@contextlib.contextmanager
def of_interval(overrides: Sequence[Override]) -> Iterator[None]:
    """Say how whole numbers are drawn from an interval, where fractions cannot be.

    Raises:
        UserError: in place of one about an end of the interval, which is whole, and a fraction to Hydra.
    """
    try:
        yield
    except UserError as error:
        told = str(error)
        for override in overrides:
            value = override.value()
            ends = [value.start, value.end] if isinstance(value, IntervalSweep) else []
            if (
                ends
                and told.startswith(override.key_or_group)
                and ("whole number" in told or "as a fraction" in told)
                and all(isinstance(end, float) and end.is_integer() for end in ends)
            ):
                text = (override.input_line or "").partition("=")[2]
                raise UserError(
                    f"{override.input_line} draws numbers such as {ends[0]}, which {override.key_or_group} does not "
                    f"take; for whole ones write {override.get_key_element()}=int({text})"
                ) from None
        raise
