"""The answer to ``python train.py --help``, read from the configs; standard library only, so that it comes at once."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

WIDTH = 120
KEYS = {
    "seed": "of the student, the meta-learner and the order of the samples",
    "data.path": (
        "local data instead of the task's own source: a GLUE directory, the tweets' CSV file, documents for topics"
    ),
    "trainer.max_epochs": "of the student; the teacher's are pair.teacher.epochs",
    "trainer.precision": "32-true or bf16-mixed; the teacher has its own, pair.teacher.precision",
    "cache_dir": "where teachers and their logits are kept for all runs",
    "force": "true: run again although the run's folder holds a finished one",
}
EXAMPLES = {
    "the main job": "python train.py",
    "GLUE from a local directory, with another pair": "python train.py task=mrpc data.path=DIR pair=mpnet_to_minilm",
    "topics of your documents, a line each": "python train.py task=topics data.path=FILE.txt",
    "a sweep of nine runs": "python train.py -m weighting=ce,kd,rwkd seed=0,1,2",
}
REST = {
    "python train.py --cfg job": "shows the whole config; add KEY=VALUE to see what it changes",
    "python train.py --hydra-help": "shows Hydra's own options",
}


def asked_for(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for help."""
    return "--help" in arguments or "-h" in arguments


def text(conf: Path) -> str:
    """The help."""
    chosen = defaults(conf)
    lines = [
        (
            "Fine-tune a teacher, distil it into a small student with a weight for every sample, and print a table of"
            " both."
        ),
        "",
        "python train.py [OPTION] [KEY=VALUE ...]",
    ]
    for group in ("task", "pair", "weighting"):
        lines += ["", f"{group}=   (* default)", *table(marked(options(conf, group), chosen.get(group)))]
    for group in ("meta", "meta_features", "optimizer", "scheduler", "logger", "callbacks"):
        lines += ["", f"{group}=   (* default)", *table(marked(brief(options(conf, group)), chosen.get(group)))]
    lines += ["", "+experiment=   (none by default)", *table(marked(brief(options(conf, "experiment")), None))]
    lines += ["", "The keys used most", *table(KEYS)]
    lines += ["", "Examples", *table(EXAMPLES)]
    lines += ["", "The rest", *table(REST)]
    return "\n".join(lines)


def groups(conf: Path) -> list[str]:
    """Names of the config groups."""
    return sorted(path.name for path in conf.iterdir() if path.is_dir())


def options(conf: Path, group: str) -> dict[str, str]:
    """The options of a group, each with its description: the first comment that is not for Hydra or an example."""
    return {path.stem: next(comments(path), "") for path in sorted((conf / group).glob("*.yaml"))}


def comments(file: Path) -> Iterator[str]:
    """The comment lines at the top of a config, without Hydra's directives and commands."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        comment = line.removeprefix("#").strip()
        if comment and not comment.startswith(("@package", "python ")):
            yield comment


def defaults(conf: Path) -> dict[str, str]:
    """The option chosen for each group where the command line names none."""
    return dict(re.findall(r"^ +- (\w+): (\w+)", (conf / "config.yaml").read_text(encoding="utf-8"), re.MULTILINE))


def marked(rows: dict[str, str], default: str | None) -> dict[str, str]:
    """Rows whose default is marked by a star."""
    return {("* " if name == default else "  ") + name: description for name, description in rows.items()}


def brief(rows: dict[str, str]) -> dict[str, str]:
    """Rows with their description up to the first colon."""
    return {name: description.split(": ")[0].rstrip(".") for name, description in rows.items()}


def table(rows: dict[str, str]) -> list[str]:
    """Two columns; what is too long goes on under its own column."""
    width = max((len(name) for name in rows), default=0)
    return [
        line
        for name, description in rows.items()
        for line in textwrap.wrap(
            description or "-",
            WIDTH,
            initial_indent=f"  {name:{width}}  ",
            subsequent_indent=" " * (width + 4),
            break_on_hyphens=False,
        )
    ]
