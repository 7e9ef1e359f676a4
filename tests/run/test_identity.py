"""No setting changes what is kept without changing its key: every key of the config, any other value for it."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from rwkd_lightning.cache.store import Store, digest
from rwkd_lightning.run import identity
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.run.system import Run
from rwkd_lightning.systems.text import teacher as text
from rwkd_lightning.systems.text.build import data_of
from rwkd_lightning.systems.tokens import teacher as tokens
from rwkd_lightning.systems.topics import teacher as topics
from rwkd_lightning.systems.topics.system import documents_of
from tests.run.test_pipeline_run import ROOT, config
from tests.run.tiny import overrides
from tests.systems.topics.conftest import write_octis

TRAINER = {
    "limit_train_batches": 1,
    "limit_test_batches": 1,
    "overfit_batches": 1,
    "fast_dev_run": True,
    "max_time": "00:00:00:01",
    "min_steps": 1,
    "val_check_interval": 1,
    "check_val_every_n_epoch": 7,
    "detect_anomaly": True,
    "benchmark": True,
    "num_nodes": 3,
    "deterministic": True,
    "inference_mode": False,
    "enable_progress_bar": False,
    "profiler": "simple",
    "logger": False,
    "enable_checkpointing": True,
    "enable_model_summary": False,
}
"""Options of lightning.Trainer that the configs do not name; a user adds them with a plus."""
WORDS = st.text(string.ascii_letters, min_size=1, max_size=8)


def composed(*more: str, task: str = "tweets") -> DictConfig:
    """A resolved config with the optional keys of the Trainer: groups and leaves, no interpolation."""
    made = config([f"task={task}", "weighting=rwkd", *more])
    plain: Any = OmegaConf.to_container(made, resolve=True)
    return OmegaConf.create({**plain, "trainer": {**dict.fromkeys(TRAINER), **plain["trainer"]}})


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def other(value: Any, key: str) -> st.SearchStrategy[Any]:
    """Any other value of the same type."""
    if key.startswith("trainer.") and key.removeprefix("trainer.") in TRAINER:
        return st.just(TRAINER[key.removeprefix("trainer.")])
    if key == "trainer.accelerator":
        return st.just("auto" if value == "cpu" else "cpu")
    kinds: dict[type, Any] = {
        bool: st.booleans(),
        int: st.integers(1, 400),
        float: st.floats(1e-6, 0.9),
        str: WORDS,
        list: st.lists(st.integers(0, 9), max_size=3),
        dict: st.dictionaries(WORDS, st.integers()),
    }
    return kinds.get(type(value), st.integers(1, 400)).filter(lambda drawn: drawn != value)


def replaced(base: DictConfig, key: str, value: Any) -> DictConfig:
    """A copy with another value at a key; keys of mappings may hold dots."""
    plain: Any = OmegaConf.to_container(base)
    node, rest = plain, key
    while True:
        name = next(name for name in sorted(node, key=len, reverse=True) if rest == name or rest.startswith(f"{name}."))
        if rest == name:
            node[name] = value
            return OmegaConf.create(plain)
        node, rest = node[name], rest[len(name) + 1 :]


def belongs(key: str, group: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in group)


KEYS = {
    "tweets": (text.TEACHER, text.LOGITS),
    "topics": (topics.TOPIC_TEACHER,),
    "tokens": (tokens.TOKEN_TEACHER, tokens.TOKEN_LOGITS),
}
BASES = {
    task: composed(*more, task=task)
    for task, more in {
        "tweets": ["logger=tensorboard", "callbacks=[early_stopping,model_summary,lr_monitor]"],
        "topics": ["weighting=rwkd"],
        "tokens": ["weighting=rwkd"],
    }.items()
}
LEAVES = {task: dict(leaves(OmegaConf.to_container(base))) for task, base in BASES.items()}


@pytest.mark.parametrize("task", list(KEYS))
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_key_moves_what_it_belongs_to_and_nothing_else(task: str, data: st.DataObject) -> None:
    """Prevents: a teacher of another setting taken from the cache, a run of another setting taken for finished, and a
    run that begins again because of a setting that changes nothing.
    """
    base = BASES[task]
    key = data.draw(st.sampled_from(sorted(LEAVES[task])))
    if key == "trainer.accelerator":  # the kind of device counts, not its name
        return
    changed = replaced(base, key, data.draw(other(LEAVES[task][key], key)))
    for group in KEYS[task]:
        moved = digest(identity.keyed(base, group)) != digest(identity.keyed(changed, group))
        assert moved is belongs(key, group), key
    unused = key.startswith("loss_terms.") and key.split(".")[1] not in {
        *base.terms,
        *base.task.meta_terms.hard,
        *base.task.meta_terms.soft,
    }
    unused = unused or key.startswith(("callbacks.model_summary.m", "callbacks.lr_monitor.l"))  # not their _target_
    moved = identity.run_digest(base) != identity.run_digest(changed)
    assert moved is not (belongs(key, identity.NO_RESULT) or unused), key


def test_a_part_of_a_term_is_the_terms() -> None:
    """Prevents: two runs of another energy in one folder, of which the second is taken for finished."""
    base = config(["terms=[ce,kd,layer_kd.0]", "meta=all"])
    other = config(["terms=[ce,kd,layer_kd.0]", "meta=all", "loss_terms.layer_kd.energy=uniform"])
    assert identity.run_digest(base) != identity.run_digest(other)


def test_keys_younger_than_the_runs() -> None:
    """Prevents: finished runs that are not found any more, or a new setting that two runs share."""
    base = config([])
    older = config([])
    OmegaConf.set_struct(older, False)
    for key in ("kind", "table", "embedding"):
        del older.pair.student[key]
    assert identity.run_digest(base) == identity.run_digest(older)
    small = config(["pair.student.embedding={ratio: 10}"])
    assert identity.run_digest(small) != identity.run_digest(base)


def test_every_key_of_the_rule_is_one_of_the_configs() -> None:
    """Prevents: a rule that names a key which was renamed, so that nothing guards the cached results any more."""
    for task, groups in KEYS.items():
        for group in groups:
            assert [
                key
                for key in group
                if OmegaConf.select(BASES[task], key, default=key) is key and key not in LEAVES[task]
            ] == []
    known = {*LEAVES["tweets"], *LEAVES["topics"]}
    assert [
        name for name in identity.NO_RESULT if name != "hydra" and not any(belongs(key, (name,)) for key in known)
    ] == []


def test_the_kind_of_device_counts_and_not_its_name() -> None:
    """Prevents: a second teacher where trainer.accelerator=cpu is said on a machine that has nothing else."""
    base = BASES["tweets"]
    kinds = {
        name: identity.keyed(replaced(base, "trainer.accelerator", name), text.TEACHER)["device"]
        for name in ("auto", "gpu", "cpu", "cuda")
    }
    assert kinds["auto"] == kinds["gpu"] and kinds["cpu"] == "cpu" and kinds["cuda"] == "cuda"


def test_a_stage_cannot_read_another_key() -> None:
    """Prevents: a setting that is read by a cached stage and is not in its key."""
    part = identity.only(BASES["tweets"], text.TEACHER)
    assert part.pair.teacher.epochs == 1 and part.trainer.deterministic is None
    for key in ("seed", "data.batch_size", "trainer.max_steps", "pair.teacher.path"):
        with pytest.raises(Exception, match="not in struct"):
            OmegaConf.select(part, key, throw_on_missing=True)
            node: Any = part
            for name in key.split("."):
                node = node[name]


def files(cache: Path, *kinds: str) -> dict[str, bytes]:
    """What a cache holds of some kinds."""
    return {
        str(file.relative_to(cache)): file.read_bytes()
        for kind in kinds
        for file in sorted((cache / kind).rglob("*"))
        if file.is_file() and file.name != "key.json"
    }


def run_in(cache: Path, config: DictConfig) -> Run:
    """A run with this cache and all options that the config hands to lightning.Trainer."""
    options: Any = OmegaConf.to_container(config.trainer)
    return Run(cache, Store(cache), options, Stop(), torch.device("cpu"), config.checkpoint)


def text_teacher(config: DictConfig, cache: Path) -> dict[str, bytes]:
    """The files of the teacher and of its logits, made in an empty cache."""
    data, run = data_of(config), run_in(cache, config)
    teacher = text.teacher_of(config, data, run)
    text.logits(config, teacher, data, run.store, run.device)
    return files(cache, "teacher", "logits")


def topic_teacher(config: DictConfig, cache: Path) -> dict[str, bytes]:
    """The files of the teacher and of its states, made in an empty cache."""
    corpus, parts = documents_of(config)
    run, embeddings = run_in(cache, config), torch.randn(len(corpus), 6, generator=torch.Generator().manual_seed(0))
    teacher = topics.teacher_of(config, corpus, parts, embeddings, run)
    topics.states(teacher, corpus, embeddings, run.store, run.device)
    return files(cache, "topic_teacher", "topic_states")


def all_others(data: st.DataObject, base: DictConfig, kept: tuple[str, ...]) -> DictConfig:
    """The config with another value at every key but these."""
    for key, value in leaves(OmegaConf.to_container(base)):
        if not belongs(key, kept):
            base = replaced(base, key, data.draw(other(value, key), label=key))
    return base


TRAINED = settings(
    max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None
)


@TRAINED
@given(data=st.data())
def test_all_other_keys_at_once_change_no_byte_of_the_teacher(
    data: st.DataObject, tweets: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Prevents: a smoke run's teacher of one batch that every honest run after it finds in the cache."""
    folder = tmp_path_factory.mktemp("identity")
    base = composed(*overrides(tweets, backbone, folder), "pair.teacher.epochs=1")
    changed = all_others(data, base, (*text.TEACHER, *text.LOGITS, *CONTENT))
    first, second = text_teacher(base, folder / "first"), text_teacher(changed, folder / "second")
    assert list(first) == list(second) and first == second
    assert any(name.endswith("model.safetensors") for name in first) and any("logits" in name for name in first)


@TRAINED
@given(data=st.data())
def test_all_other_keys_at_once_change_no_byte_of_a_topic_teacher(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Prevents: the same for topic models, whose smoke runs left a teacher of perplexity 94 in place of 73."""
    folder = tmp_path_factory.mktemp("identity")
    write_octis(folder)
    base = composed(
        f"data.path={folder}",
        "task.topics=3",
        "alpha=0.5",
        "temperature=2.0",
        "pair.teacher.layers=1",
        "pair.teacher.epochs=2",
        task="topics",
    )
    changed = all_others(data, base, (*topics.TOPIC_TEACHER, *CONTENT, "data.test_fraction"))
    first, second = topic_teacher(base, folder / "first"), topic_teacher(changed, folder / "second")
    assert list(first) == list(second) and first == second
    assert sum(name.endswith(".safetensors") for name in first) == 2


CONTENT = (
    "task.load",
    "data.path",
    "data.meta_fraction",
    "data.split_seed",
    "data.leaderboard",
    "pair.teacher.path",
    "task.regression",
    "pair.blocks",
)
"""Keys that say where data and models are, or how the data is cut: they enter by content."""


def test_the_rule_is_documented() -> None:
    """Prevents: a rule that nobody can look up, or one that the document states otherwise."""
    rows = [line for line in (ROOT / "docs/identity.md").read_text().splitlines() if line.startswith("| ")]
    of_tokens = ((tokens, "TOKEN_TEACHER"), (tokens, "TOKEN_LOGITS"))
    of_others = ((text, "TEACHER"), (topics, "TOPIC_TEACHER"), (text, "LOGITS"), (identity, "NO_RESULT"))
    for module, name in (*of_tokens, *of_others):
        (row,) = [row for row in rows if f"`{module.__name__.removeprefix('rwkd_lightning.')}.{name}`" in row]
        keys = set(re.findall(r"`([^`]+)`", row.split("|")[2]))
        assert keys == set(getattr(module, name)), name
