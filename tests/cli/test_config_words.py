"""The library's errors name arguments, those of the command line keys."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from lightning import Trainer

from rwkd_lightning.bilevel import FiniteDifference, Jvp
from rwkd_lightning.cli.words import KEYS, VALUES, config_words, in_config_words
from rwkd_lightning.meta import HeadWithBank, LastBlock, MetaStep
from rwkd_lightning.meta.head import linear_head
from rwkd_lightning.training.compatibility import check_loop
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, LearningToReweight

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


def test_every_argument_is_in_the_table():
    """Prevents: backticks on a terminal, an argument that no constructor has, a value that no class makes."""
    signatures = (inspect.signature(kind).parameters for kind in (DistillationModule, MetaStep, Trainer))
    arguments = {name for parameters in signatures for name in parameters}
    assert set(KEYS) <= arguments
    found = set()
    for folder in ("training", "meta", "bilevel"):
        for file in (PACKAGE / folder).glob("*.py"):
            raised = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
            texts = [ast.unparse(call) for call in raised if getattr(call.func, "id", "") == "UserError"]
            found |= {match for text in texts for match in re.findall(r"`(\w+)(?:=| |`)", text)}
    assert found and found <= set(KEYS) | {"weighting"}
    assert (
        repr(FiniteDifference()).startswith(VALUES["FiniteDifference()"]) and repr(LastBlock()) == VALUES["LastBlock()"]
    )
