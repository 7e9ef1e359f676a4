"""The library's errors name arguments, those of the command line keys."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from lightning import Trainer

from rwkd_lightning import terms, weighting
from rwkd_lightning.bilevel import FiniteDifference, Jvp
from rwkd_lightning.cli.words import KEYS, OPTIONS, VALUES, config_words, in_config_words
from rwkd_lightning.meta import HeadWithBank, LastBlock, MetaStep
from rwkd_lightning.meta.head import linear_head
from rwkd_lightning.training.compatibility import check_loop
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw, linear_schedule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, LearningToReweight, Oracle

PACKAGE = Path(__file__).parents[2] / "rwkd_lightning"


def meta(**options):
    return MetaStep(Jvp(), options.pop("theta", HeadWithBank()), [], [], **options)


CASES = [
    (lambda: meta(every=0), "`every` is 0; it counts student steps", "meta.every is 0; it counts student steps"),
    (lambda: meta(lookahead_lr=-1.0), "use `lookahead_lr=None` for none", "use meta.lookahead_lr=null for none"),
    (
        lambda: check_loop(RWKD(ClassificationFeatures()), meta(theta=LastBlock()), "new", 1.0, 2),
        r"`accumulate=2` with `theta=last_block`: .* use `theta=HeadWithBank\(\)` or `theta=Head\(\)`",
        "trainer.accumulate=2 with meta=last_block: .* use meta=bank or meta=head",
    ),
    (
        lambda: check_loop(LearningToReweight(), meta(every=2), "new", 1.0, 1),
        r"`every=2` with .* \(`every=1`\)",
        r"meta.every=2 with .* \(meta.every=1\)",
    ),
    (
        lambda: check_loop(LearningToReweight(), meta(), "newest", 1.0, 1),
        "^`updated_weights='newest'`",
        "^meta.weights='newest'",
    ),
    (
        lambda: linear_head(object()),
        r"^`theta=Head\(\)` and .*; use `theta=All\(\)` or `theta=LastBlock\(\)`$",
        "^meta=head and meta=bank need .*; use meta=all or meta=last_block$",
    ),
]


@pytest.mark.parametrize(("call", "python", "config"), CASES)
def test_each_in_its_own_words(call, python, config):
    """Prevents: advice to set a key, for whoever wrote a constructor; and an argument, for whoever typed a key."""
    with pytest.raises(ValueError, match=python):
        call()
    with pytest.raises(UserError, match=config) as told, config_words():
        call()
    assert "`" not in str(told.value)


def test_other_backticks_stay():
    """Prevents: a file's name or a class that is taken for an argument."""
    assert in_config_words("`x=1` in `every thing` and `clip=None`") == "`x=1` in `every thing` and trainer.clip=null"


def test_arguments_of_what_is_being_made():
    """Prevents: an argument of a method that is taken for a key of the same name elsewhere, and one that is left as it
    is.
    """
    words = in_config_words("`lr` is -1; `every=2`, `hidden=3`, `inner.smoothing=0`", "weighting", {"lr", "inner"})
    assert words == "weighting.lr is -1; meta.every=2, `hidden=3`, weighting.inner.smoothing=0"


def raised() -> set[str]:
    """Everything in backticks that the library raises or warns of."""
    found = set()
    for folder in ("weighting", "terms", "training", "meta", "bilevel"):
        for file in (PACKAGE / folder).rglob("*.py"):
            tree = ast.parse(file.read_text())
            docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                    found |= set(re.findall(r"`([\w.]+)(?=[=` (])", node.value))
    return found


def test_every_argument_is_in_the_table():
    """Prevents: backticks on a terminal, an argument that no constructor has, a value that no class makes."""
    signatures = (inspect.signature(kind).parameters for kind in (DistillationModule, MetaStep, Trainer, RWKD))
    arguments = {name for parameters in signatures for name in parameters}
    assert {name.partition(".")[0] for name in KEYS} <= arguments | {*Oracle.reads_columns, "sample_weight"}
    options = {option.partition("(")[0].partition("=")[0] for option in OPTIONS}
    own = set()  # arguments of what is made from the config, whose node is known then
    for kind in (*vars(weighting).values(), *vars(terms).values(), FiniteDifference, adamw, linear_schedule):
        own |= set(inspect.signature(kind).parameters) if callable(kind) else set()
    found = {name for name in raised() if not name.startswith(("weighting.", "inner.")) and "teacher_" not in name}
    assert found and found - {"sample_weight"} <= set(KEYS) | options | own
    assert (
        repr(FiniteDifference()).startswith(VALUES["FiniteDifference()"]) and repr(LastBlock()) == VALUES["LastBlock()"]
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_the_configs(name):
    """Prevents: a class that the command line calls by another method's name."""
    group, _, option = OPTIONS[name].partition("=")
    file = PACKAGE.parent / "conf" / group / f"{option}.yaml"
    if group == "weighting":
        assert f".{name.removesuffix('()')}\n" in file.read_text().replace(" #", "\n")
    assert file.is_file()


GROUPS = "trainer|meta|data|pair|loss_terms|task|optimizer|scheduler|meta_features|checkpoint|weighting"


def test_no_message_of_the_library_speaks_in_keys():
    """Prevents: advice to type a key, for whoever wrote a constructor."""
    spoken = []
    for folder in ("weighting", "terms", "training", "meta", "bilevel"):
        for file in (PACKAGE / folder).rglob("*.py"):
            tree = ast.parse(file.read_text())
            docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                    spoken += re.findall(rf"(?<![`\w.])(?:{GROUPS})(?:\.[a-z_]+|/\w+=\w+|=[a-z]\w+)", node.value)
    assert spoken == []
