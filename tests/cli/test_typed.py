"""Command lines that nobody can read, and the command that is named in their place: it works when it is typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rwkd_lightning.cli.flags import Parser, read
from rwkd_lightning.cli.overrides import check
from rwkd_lightning.utils.errors import UserError
from tests.cli.test_command_line import CONF, mistake, train

ASKED = "python train.py "


def named(arguments: str) -> list[str]:
    """The words of the command that the message names, as a shell would read them."""
    said = mistake(*shlex.split(arguments))
    assert said.startswith("the command line cannot be read (") and said.count(ASKED) == 1
    return shlex.split(said.partition(ASKED)[2])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        # options of Hydra behind a setting
        ("weighting=kd -m seed=0,1", "-m weighting=kd seed=0,1"),
        ("weighting=kd --multirun seed=0,1", "--multirun weighting=kd seed=0,1"),
        ("weighting=kd --cfg job seed=1", "--cfg job weighting=kd seed=1"),
        ("seed=1 -p trainer -c job weighting=kd", "-p trainer -c job seed=1 weighting=kd"),
        ("seed=1 --resolve --cfg=job weighting=kd", "--resolve --cfg job seed=1 weighting=kd"),
        ("weighting=kd --info seed=1", "--info all weighting=kd seed=1"),
        ("weighting=kd -i plugins seed=1", "-i plugins weighting=kd seed=1"),
        ("~weighting.entropy -m seed='range(0,2)'", "-m ~weighting.entropy seed=range(0,2)"),
        ("seed=1 -cd /tmp task=mrpc", "-cd /tmp seed=1 task=mrpc"),
        # options of Hydra that are misspelt
        ("--multi-run seed=1,2", "--multirun seed=1,2"),
        ("-multirun seed=1,2", "--multirun seed=1,2"),
        # dashes
        ("--seed=1", "seed=1"),
        ("--seed 1", "seed=1"),
        ("-seed=1", "seed=1"),
        ("seed=1 --weighting kd --force", "seed=1 weighting=kd force=true"),
        ("--trainer.max_steps 3 -m --weighting kd,ce", "-m trainer.max_steps=3 weighting=kd,ce"),
        ("--seed=1 --cfg job", "--cfg job seed=1"),
        # blanks and colons
        ("seed: 1", "seed=1"),
        ("seed :1", "seed=1"),
        ("seed : 1", "seed=1"),
        ("seed 1 weighting kd", "seed=1 weighting=kd"),
        ("seed = 1", "seed=1"),
        ("seed= 1", "seed=1"),
        ("seed =1", "seed=1"),
        ("task:mrpc seed=1", "task=mrpc seed=1"),
        ("-m task=mrpc, rte", "-m task=mrpc,rte"),
        ("seed=1 terms=[ce, kd]", "seed=1 'terms=[ce, kd]'"),
        ("task.load.sizes={train: 64, test: 24} seed=1", "'task.load.sizes={train: 64, test: 24}' seed=1"),
        ("data.path=/my docs/x.csv seed=1", "'data.path=/my docs/x.csv' seed=1"),
        ("optimizer.lr 1e-3", "optimizer.lr=1e-3"),
    ],
)
def test_the_command_that_is_named_works(typed: str, meant: str) -> None:
    """Prevents: advice about quotes for an option in the wrong place, or a command that fails like the first."""
    words = named(typed)
    assert words == shlex.split(meant)
    check(words, CONF)
    read(words)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            "weighting=kdd -m seed=1,2",
            "options such as -m stand before all settings; and then, weighting=kdd is not known; did you",
        ),
        ("--foo=1", "settings have no dashes; and then, foo is not a key"),
        ("data.batch_size=[1", "write KEY=VALUE, and put quotes around"),
        ("--cfg jobs seed=1", "choose from 'job', 'hydra', 'all'"),
    ],
)
def test_no_command_is_named_that_would_fail(typed: str, said: str) -> None:
    """Prevents: a second mistake hidden by the first, a command for what is not clear."""
    told = mistake(*shlex.split(typed))
    assert said in told and ASKED not in told.replace(f"{ASKED}--hydra-help", "")


def test_a_long_command_is_not_named_in_part() -> None:
    """Prevents: a command with its middle left out, as of every long message."""
    told = mistake(f"data.path={'x' * 1300}", "-m", "seed=0,1")
    assert told.endswith("; options such as -m stand before all settings") and ASKED not in told


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("seed=1,2", "seed=1,2 asks for several runs: put -m first, as in python train.py -m seed=1,2"),
        ("seed=range(0,3)", "put -m first"),
        ("weighting=glob(r*)", "put -m first"),
        ("optimizer.lr=interval(0.1,0.2)", "put -m first"),
        ("-m --cfg job seed=1", "--multirun and --cfg do not go together; leave out one of them"),
        ("--cfg job --info all", "--cfg and --info do not go together"),
        ("-r -m seed=1", "--run and --multirun do not go together"),
    ],
)
def test_options_that_are_missing_or_too_many(typed: str, said: str) -> None:
    """Prevents: "Ambiguous value for argument", and a traceback of Hydra's for two options at once."""
    with pytest.raises(UserError) as caught:
        check(shlex.split(typed), CONF)
    assert said in str(caught.value)


def test_every_option_of_hydra_is_known() -> None:
    """Prevents: an option of Hydra's that the package's own parser of them refuses, or takes for a setting."""
    theirs = {
        name for names in re.findall(r"^(-\S+) : ", train("--hydra-help").stdout, re.M) for name in names.split(",")
    }
    ours = {name for action in Parser().flags for name in action.option_strings}
    assert len(theirs) > 15 and ours == theirs


def test_from_the_command_line(tmp_path: Path) -> None:
    """Prevents: a check of the remedy that differs from what is run: -m in the middle, then what the message says."""
    first = train("weighting=kd", "--cfg", "job", "seed=3", "trainer.max_steps=5")
    assert first.returncode == 1 and first.stderr.count("\n") == 1
    second = train(*shlex.split(first.stderr.partition(ASKED)[2]))
    assert second.returncode == 0 and "seed: 3" in second.stdout and "max_steps: 5" in second.stdout
