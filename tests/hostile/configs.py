"""Hostile command lines: wrong values, unknown keys, deleted keys and names that lead out of a folder."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import hydra.core.override_parser.overrides_parser as parser
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import nn

from rwkd_lightning.bilevel import Engine
from rwkd_lightning.cli import composition, overrides
from rwkd_lightning.cli import schema as values
from rwkd_lightning.cli.keys import interpolated, paths
from rwkd_lightning.meta import Restriction
from rwkd_lightning.run import build as parts
from rwkd_lightning.systems.text import build
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.task import TaskData
from rwkd_lightning.systems.text.teacher_states import check_inside
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place
from tests.hostile.common import ACCEPTED, REFUSED, Step, recipes, refusal
from tests.hostile.models import backbone

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
LONG, DEEP = "x" * 300, "'" + "ab/" * 1400 + "'"
VALUES = [
    "nan",
    "inf",
    "-inf",
    "true",
    "false",
    "null",
    "-1",
    "0",
    "1",
    "1.5",
    "16.0",
    "1e3",
    "1e30",
    "1e400",
    "-0.0",
    "5e-324",
    "99999999999999999999",
    "-99999999999999999999",
    "''",
    "' '",
    "x",
    "ce",
    "[]",
    "[1]",
    "[nan]",
    "[[1]]",
    "[ce,ce]",
    "[ce]",
    "[null]",
    "{}",
    "{a: 1}",
    "{1: a}",
    "${seed}",
    "${nope}",
    "${oc.env:NO_SUCH_VARIABLE}",
    "${oc.env:HOME}",
    "${",
    "${x",
    "???",
    "'a\nb'",
    "'\0'",
    "'\x1b[31m'",
    "é😀",
    "../../x",
    "/etc/passwd",
    "/",
    ".",
    "..",
    "'~no_such_user/x'",
    LONG,
    DEEP,
    "\udc80",
    "1,2",
    "range(0,3)",
    "choice(1,nan)",
    "glob(*)",
    "yes",
    "0x10",
    "007",
    "'1'",
    "'nan'",
    "uniform",
    "last",
    "[[0,1]]",
    "[0]",
    "[9]",
    "bf16-mixed",
    "16-mixed",
    "ddp",
    "fsdp",
    "gpu",
    "cpu",
    "a.b.C",
    "builtins.print",
    "builtins.dict",
    "os.system",
    "rwkd_lightning.weighting.LabelsOnly",
    "rwkd_lightning.terms.CrossEntropy",
    "rwkd_lightning.weighting.gates.Reject",
    "0.3",
    "2",
    "0.5",
    "1e-4",
    "[1,3,5]",
    "[ce,kd,hidden]",
    "[ce,kd,value_relation]",
    "[squared_error]",
    "[ce,nope]",
    "new",
    "soft",
    "hard",
    "mix",
    "best",
    "${weighting}",
    "${data}",
    "teacher",
    "a/b",
    "package:..",
    "package:os.path/x",
    "package:transformers/../x",
    "<script>",
    "%s",
    "{}",
    "\\",
    "1_000",
    "3",
]
GROUPS = [
    "weighting",
    "meta",
    "meta/engine",
    "meta_features",
    "trainer",
    "task",
    "pair",
    "loss_terms",
    "experiment",
    "optimizer",
    "scheduler",
    "logger",
    "callbacks",
    "wieghting",
    "hydra/launcher",
]
OPTIONS = [
    "../task/tweets",
    "../../../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "base/step",
    "base/glue",
    "nope",
    "null",
    "[default]",
    "1",
    "''",
    "rwkd.yaml",
    "RWKD",
    LONG,
    "[kd,ce]",
    "'a\nb'",
    "${seed}",
    "kd",
    "all",
    "head",
    "jvp",
    "unrolled",
    "history",
    "own",
    "ddp",
    "tweets",
]
NEW = [
    "new",
    "trainer.fast_dev_run",
    "trainer.foo",
    "trainer.gradient_clip_val",
    "trainer.callbacks",
    "trainer.logger",
    "trainer.limit_train_batches",
    "data.bath_size",
    "weighting.entropi",
    "a.b.c",
    "seed.x",
    "hydra.run.dir",
    "hydra.sweep.subdir",
    "hydra.job.name",
    "hydra.sweep.dir",
    "hydra.job.chdir",
    "weighting._target_",
    "meta.engine._target_",
    "task.load._target_",
    "weighting.features._target_",
    "config",
    "_target_",
    "trainer.num_nodes",
    "trainer.profiler",
    "trainer.plugins",
    "trainer.max_time",
    "data",
    "weighting",
    "''",
    "task.name",
    "weighting_name",
]
SIZES = "task.load.sizes={teacher_train: 96, train: 64, meta: 24, validation: 24, test: 24}"
HOLDS_ANYTHING = ("trainer.devices", "loss_terms.hidden.layers", "trainer.precision", "pair.teacher.precision")
NEGATIVE = ("trainer.max_steps", "trainer.devices")


def base() -> list[str]:
    """What makes any run tiny."""
    folder = backbone()
    return [
        f"data.path={folder / 'tweets.csv'}",
        f"pair.teacher.path={folder}",
        f"pair.student.path={folder}",
        "pair.student.layers=[1]",
        SIZES,
        "data.max_length=32",
        "data.batch_size=16",
        "meta.batch_size=8",
        "trainer.accelerator=cpu",
        f"cache_dir={folder / 'cache'}",
        f"runs_dir={folder / 'runs'}",
    ]


def options_of(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def is_group(key: str) -> bool:
    return (CONF / key).is_dir() or key.startswith("hydra/") or "@" in key


@cache
def composed(lines: tuple[str, ...]) -> bytes:
    """The config of these choices for a tiny run; Hydra reads thirty files for it."""
    tiny = [line for line in base() if line != SIZES or not any(line.startswith("task=") for line in lines)]
    return pickle.dumps(compose("config", [*tiny, *lines], return_hydra_config=True))


last: list[DictConfig] = []


@contextmanager
def fast() -> Iterator[None]:
    """The checks of the command line over the cached composition, which keep the last config that they let pass."""

    def fast_compose(name: str, lines: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
        made: DictConfig = pickle.loads(composed(tuple(lines)))
        return made

    def check_folder(config: DictConfig, own: bool) -> None:
        last[:] = [config]
        real(config, own)

    real = overrides.check_folder
    with (
        mock.patch.object(composition, "compose", fast_compose),
        mock.patch.object(overrides, "check_folder", check_folder),
    ):
        yield


@lru_cache(None)
def keys(choices: tuple[str, ...] = ()) -> list[str]:
    """All keys of a config."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain: Any = OmegaConf.to_container(compose("config", list(choices)), resolve=False)
    return sorted(paths(plain))


def make(recipe: list[Step]) -> list[str]:
    """The command line that a recipe describes."""
    valid = [
        f"{group}={options_of(group)[b % len(options_of(group))]}"
        for name, a, b in recipe
        if name == "choose"
        for group in (("weighting", "meta", "meta_features", "weighting")[a % 4],)
    ]
    known = keys()
    lines = [*dict(line.split("=") for line in valid).items()]
    made = [f"{key}={value}" for key, value in lines]
    for name, a, b in recipe:
        value = VALUES[b % len(VALUES)]
        if name == "set":
            made.append(f"{known[a % len(known)]}={value}")
        elif name == "tune":  # of the right type, and often in range
            tunable = [key for key, default in shipped(()).items() if type(default) in (int, float, bool)]
            key = tunable[a % len(tunable)]
            kind = type(shipped(())[key])
            sane = {
                int: ["0", "1", "2", "3", "7", "40"],
                float: ["0.3", "1e-3", "1", "0", "0.9", "2.5"],
                bool: ["true", "false"],
            }[kind]
            made.append(f"{key}={sane[b % len(sane)]}")
        elif name in ("add", "force"):
            key = [*NEW, *known][a % (len(NEW) + len(known))]
            made.append(f"{'+' if name == 'add' else '++'}{key}={value}")
        elif name == "new":
            made.append(f"{NEW[a % len(NEW)]}={value}")
        elif name == "delete":
            made.append(f"~{known[a % len(known)]}")
        elif name == "group":
            made.append(f"{'+' * (b % 2)}{GROUPS[a % len(GROUPS)]}={OPTIONS[b % len(OPTIONS)]}")
        elif name == "sweep":
            made += ["-m"] * (a % 2 and "-m" not in made) + [
                f"{known[a % len(known)]}={value},{VALUES[(a + b) % len(VALUES)]}"
            ]
        elif name == "raw":
            made.append([value, f"={value}", f"{value}=1", f"+{value}", f"~{value}", f"{value}={value}"][a % 6])
    return made


strategy = recipes(
    [
        "set",
        "set2",
        "set3",
        "tune",
        "tune2",
        "tune3",
        "tune4",
        "add",
        "force",
        "new",
        "delete",
        "group",
        "choose",
        "sweep",
        "raw",
    ]
)


def prepare(config: DictConfig) -> None:
    """All that a run does before the teacher is trained, and what only a training would build."""
    values.check(config)
    weighting, terms, _ = parts.weighting_of(config), parts.terms_of(config), parts.trainer_of(config)
    data = data_of(config)
    provides = {"numbers"} if data.task.is_regression else {"classes"}
    parts.check_terms(terms, config, provides, weighting, data.task.name)
    place(config.cache_dir, "cache_dir")
    student, tokenizer = student_of(config, data)
    check_inside(config, data.task, terms, weighting, student, tokenizer)
    loaders = DistillationDataModule(
        data,
        tokenizer,
        max_length=config.data.max_length,
        batch_size=config.data.batch_size,
        eval_batch_size=config.data.eval_batch_size,
        meta_batch_size=config.meta.batch_size,
        seed=config.seed,
        label_noise=config.data.label_noise,
        meta_noise=config.data.meta_noise,
        num_workers=config.data.num_workers,
    )
    len(loaders.encoded("train")), loaders.train_dataloader()
    parts.create(config, "meta.engine", Engine), parts.create(config, "meta.theta", Restriction)
    parts.meta_of(config, weighting, loaders.meta_stream)
    optimizer = parts.optimizer_of(config)(nn.Linear(2, 2))
    parts.schedule_of(config)(optimizer, 10)


known_data: dict[str, TaskData] = {}


known_students: dict[str, Any] = {}


def student_of(config: DictConfig, data: TaskData) -> Any:
    """The student and its tokenizer, loaded once for each way to ask for it."""
    key = OmegaConf.to_yaml(config.pair) + f"{data.task.name} {config.data.max_length}"
    if key not in known_students:
        known_students[key] = build.check_student(config, data.task)
    return known_students[key]


def data_of(config: DictConfig) -> TaskData:
    """The data, read once for each way to ask for it."""
    key = OmegaConf.to_yaml(config.task) + OmegaConf.to_yaml(config.data)
    if key not in known_data:
        known_data[key] = build.data_of(config)
    return known_data[key]


def accepted(arguments: list[str]) -> DictConfig:
    """The config of a command line that the checks let pass, made ready up to the training."""
    last.clear()
    with fast():
        overrides.check(arguments, CONF)
    if not last:
        raise UserError("a flag that makes Hydra show something and run nothing")
    (config,) = last
    with composition.known_to_hydra(config):
        plain = OmegaConf.create(
            OmegaConf.to_container(OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]), resolve=True)
        )
        folder = config.hydra.run.dir
    assert isinstance(plain, DictConfig)
    if not any("hydra" in argument for argument in arguments):
        chosen = config.hydra.runtime.choices
        name = f"{plain.runs_dir}/{chosen.task}/{chosen.weighting}-seed{plain.seed}-00000000"
        assert name == folder, folder
        root = os.path.realpath(plain.runs_dir)
        assert os.path.realpath(name).startswith(root.rstrip(os.sep) + os.sep), f"{name} leads out of {root}"
    prepare(plain)
    return config


def expected(key: str, value: Any, default: Any) -> bool:
    """Whether a value is of its default's type, by a rule that knows nothing of the package's own table."""
    if key in HOLDS_ANYTHING or interpolated(value) or value is None or default is None or isinstance(default, dict):
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) and (value >= 0 or key in NEGATIVE) and abs(value) < 2**40
    if isinstance(default, float):
        return isinstance(value, int | float) and math.isfinite(value) and value >= 0
    return isinstance(value, list) if isinstance(default, list) else isinstance(value, str) and value.isprintable()


def check(recipe: list[Step]) -> str:
    """Refused in one line that names what is wrong, or accepted and of the right type."""
    recipe = [(name.rstrip("234"), a, b) for name, a, b in recipe]
    typed = make(recipe)
    before = os.getcwd(), sorted(os.listdir(ROOT)), sorted(os.listdir(backbone()))
    config, message = refusal(lambda: accepted(typed))
    assert (os.getcwd(), sorted(os.listdir(ROOT)), sorted(os.listdir(backbone()))) == before, "something was written"
    if config is None:
        assert typed and message, f"a sound command line is refused: {message}"
        return REFUSED
    defaults = shipped(tuple(o for o in typed if is_group(o.split("=")[0].lstrip("+~"))))
    last = {
        o.key_or_group: o
        for line in typed
        if line != "-m"
        for o in parser.OverridesParser.create().parse_overrides([line])
    }
    for key, override in last.items():
        if override.is_delete() or override.is_sweep_override() or key not in defaults or is_group(key):
            continue
        value = override.value()
        assert expected(key, value, defaults[key]), f"{key}={value!r} was accepted; the default is {defaults[key]!r}"
    return ACCEPTED


@lru_cache(None)
def shipped(structural: tuple[str, ...]) -> dict[str, Any]:
    """The shipped values, resolved, by key."""
    with initialize_config_dir(str(CONF), version_base="1.3"), mock.patch.dict(os.environ):
        config = compose("config", list(structural), return_hydra_config=True)
        with composition.known_to_hydra(config):
            plain: Any = OmegaConf.to_container(
                OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]), resolve=True
            )
    return dict(values.leaves(plain))
