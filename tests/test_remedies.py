"""Remedies that messages name: each is typed at the command line's parser, and those of the tables are tried."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from rwkd_lightning.cli import overrides
from rwkd_lightning.cli import schema as values
from rwkd_lightning.cli.words import config_words, in_config_words
from rwkd_lightning.meta import Restriction
from rwkd_lightning.run.build import check_settings, check_terms, create, terms_of, trainer_of, weighting_of
from rwkd_lightning.training.compatibility import check_reach
from rwkd_lightning.utils.errors import UserError

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
SETTING = re.compile(r"(?<![\w.])([a-z_]+(?:[./][a-z_]+)*)=(\[[^\]]*\]|[\w.-]*\w)")
# where a key of a method or a group needs that one to be chosen
CHOSEN = {
    "weighting.inner": "weighting=permuted",
    "loss_terms": "terms=[ce,hidden]",
    "meta_features._target_": "meta_features=own",
    "weighting.beta": "weighting=kd",
    "weighting.alpha": "weighting=kd",
    "hydra/sweeper": "-m",
    **dict.fromkeys(
        (
            "data.encoding",
            "data.regression",
            "data.delimiter",
            "data.train",
            "data.teacher_",
            "data.multilabel",
            "data.near_copies",
            "data.separator",
        ),
        "data=table data.train=x.csv",
    ),
    **dict.fromkeys(("data.scheme", "data.token_column", "data.tag_column", "data.tokens", "data.tags"), "task=tokens"),
    **dict.fromkeys(("data.negative", "pair.teacher.negatives"), "task=retrieval"),
    **dict.fromkeys(
        (
            "data.document",
            "data.summary",
            "data.targets",
            "pair.teacher.passes",
            "pair.teacher.dropout",
            "pair.teacher.along",
            "terms=[ce,smooth]",
        ),
        "task=summaries",
    ),
    **dict.fromkeys(
        (
            "data.several",
            "data.text",
            "data.image",
            "pair.encoder",
            "pair.student.modalities",
            "pair.teacher.modality",
        ),
        "task=pairs",
    ),
    **dict.fromkeys(
        ("task.distillation", "pair.student.bag_of_words", "pair.teacher.layers", "task.load."), "task=topics"
    ),
}
NOT_TYPED = (
    "use_reentrant",
    "class",
    "type",
    "top_k",
    "strategy",
    "width",
    "reads_influence",
    "trainer.max_epochs",
    "attention_type",
    "num_labels",
    "truncation",
    "scale",
    "task.system._target_",
    "hydra.launcher.gpus_per_node",
    "trainer.check_val_every_n_epoch",
)
"""Arguments of Python, attributes of a page's elements, keys of a model's config, a value that is the mistake and not
the way out, and what other tests type: a key that is added with a plus, and one that needs a cluster.
"""


def texts(file: Path) -> Iterator[str]:
    """The constant pieces of the strings in a file that are no docstrings."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def settings() -> list[str]:
    """All that a message of these modules says in the form KEY=VALUE."""
    files = sorted((ROOT / "rwkd_lightning").rglob("*.py"))
    found = set()
    for file in files:
        node = ("weighting.gate", {"bound"}) if file.stem == "gates" else ("weighting", {"inner"})
        found |= {match for text in texts(file) for match in SETTING.findall(in_config_words(text, *node))}
    return sorted(f"{key}={value}" for key, value in found if key not in NOT_TYPED and value != "[...]")


def config(*arguments: str) -> Any:
    """What `train.py` makes of its arguments, its checks included."""
    overrides.check(arguments, CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides.written_out(arguments))
    composed.weighting_name = next((a.split("=")[1] for a in arguments[::-1] if a.startswith("weighting=")), "rwkd")
    values.check(composed)
    return composed


@pytest.mark.parametrize("setting", settings())
def test_a_setting_that_a_message_names_can_be_typed(setting: str) -> None:
    """Prevents: a way out that the next message refuses, as a class's own name for an option in place of its key."""
    before = next((chosen for key, chosen in CHOSEN.items() if setting.startswith(key)), "task=tweets")
    if before == "-m":
        overrides.check([before, setting, "seed=0,1"], CONF)
        return
    config(*before.split(), setting)


def test_settings_are_found() -> None:
    """Prevents: a test of nothing."""
    assert {
        "meta=all",
        "meta=last_block",
        "meta/engine=finite_difference",
        "weighting=dwa",
        "pair.student.new_head=true",
        "weighting.inner.smoothing=0",
    } <= set(settings())


class Pooled(nn.Module):
    """A student whose logits are no linear layer's, with one block, as GPT-2's."""

    num_blocks, head = 1, None

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(4, 3)
        self.kept_layers = {"hidden": [0]}

    def block_names(self) -> list[str]:
        return [name for name, _ in self.named_parameters()]


class NoBlocks(nn.Module):
    head = nn.Linear(4, 3)


class Frozen(NoBlocks):
    head = nn.Linear(4, 3).requires_grad_(False)


def build(arguments: list[str], student: nn.Module | None = None) -> None:
    """The pieces of a run as far as they can be made, and their checks, without a model or data."""
    made = config(*arguments)
    terms, weighting = terms_of(made), weighting_of(made)
    check_terms(terms, made, {"numbers"} if made.task.regression else {"classes"}, weighting, "own")
    check_settings(made, weighting)
    trainer_of(made)
    if student is not None:
        check_reach(terms, weighting, create(made, "meta.theta", Restriction), student)


CASES: list[tuple[list[str], type[nn.Module] | None, list[str]]] = [
    ([], Pooled, ["meta=all"]),
    ([], Pooled, ["meta=last_block"]),
    (["meta=head"], Pooled, ["meta=all"]),
    ([], Frozen, ["meta=all"]),
    (["meta=last_block"], NoBlocks, ["meta=all"]),
    (["terms=[ce,hidden]"], NoBlocks, ["meta=all"]),
    (["weighting=gradnorm"], Pooled, ["weighting=dwa"]),
    (["weighting=gradnorm"], Pooled, ["weighting=uncertainty"]),
    (["weighting=gradnorm", "terms=[ce,hidden]"], NoBlocks, ["weighting=dwa"]),
    (["weighting=gradnorm", "terms=[ce]"], None, ["weighting=ce"]),
    (["weighting=dwa", "terms=[ce]"], None, ["weighting=ce"]),
    (["meta=all", "trainer.accumulate=2"], None, ["meta=bank"]),
    (["meta=last_block", "trainer.accumulate=2"], None, ["meta=head"]),
    (["weighting=gradnorm", "trainer.accumulate=2"], None, ["weighting=dwa"]),
    (["weighting=l2rw", "meta.every=2"], None, ["meta.every=1"]),
    (["weighting=l2rw", "meta=all", "meta.lookahead_lr=0.1"], None, ["meta.lookahead_lr=null"]),
    (["weighting=wls", "terms=[kd]"], None, ["terms=[ce,kd]"]),
    (["weighting=ce", "terms=[kd]"], None, ["terms=[ce,kd]"]),
    (["weighting=annealed", "terms=[ce]"], None, ["terms=[ce,kd]"]),
    (["weighting=annealing_kd", "terms=[ce]"], None, ["terms=[ce,annealed_mse]"]),
    (["weighting=wls", "task=stsb", "terms=[squared_error,logit_mse]"], None, ["weighting=kd"]),
    (["weighting=teacher_confidence", "task=stsb"], None, ["weighting=annealed"]),
    (["weighting=tgeo", "task=stsb"], None, ["weighting=rwkd"]),
    (["weighting=tgeo", "task=stsb"], None, ["weighting=mwn"]),
    (["weighting=oracle"], None, ["data.label_noise=0.3"]),
    (["weighting=oracle"], None, ["data.teacher_noise=0.3"]),
    (["weighting=permuted", "weighting.inner.smoothing=0.5"], None, ["weighting.inner.smoothing=0"]),
    (["weighting=permuted", "meta_features=history"], None, ["meta_features=standard"]),
    (["weighting=annealed", "terms=[ce,kd,hidden]"], None, ["weighting=kd", "weighting.beta=1"]),
    (["trainer.precision=16-mixed"], None, ["trainer.precision=bf16-mixed"]),
    (["trainer.precision=bf16-true"], None, ["trainer.precision=32-true"]),
]


@pytest.mark.parametrize(
    ("trigger", "student", "remedy"), CASES, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_remedy_works(trigger: list[str], student: type[nn.Module] | None, remedy: list[str]) -> None:
    """Prevents: advice that is not in the message, or leads into the next one."""
    with pytest.raises(UserError) as told, config_words():
        build(trigger, student and student())
    keys = [r if not r.startswith("data.") else r.split("=")[0] for r in remedy]
    words = [k.removeprefix("trainer.precision=") if "precision" in k else k.removesuffix("=1") for k in keys]
    assert all(word in str(told.value) for word in words), told.value
    build([*trigger, *remedy], student and student())


def test_gpt2_runs_as_told(tmp_path: Path) -> None:
    """Prevents: the same of a real student, refused after its teacher was trained, and a run that the remedy does not
    make.
    """
    from transformers import AutoTokenizer, GPT2Config, GPT2Model

    from rwkd_lightning.run.runner import run
    from tests.run.tiny import overrides as tiny
    from tests.run.tiny import write_backbone, write_tweets

    tweets, backbone = write_tweets(tmp_path / "tweets.csv"), write_backbone(tmp_path / "backbone")
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    tokenizer.save_pretrained(tmp_path / "gpt2")
    torch.manual_seed(0)
    GPT2Model(
        GPT2Config(
            vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=3
        )
    ).save_pretrained(tmp_path / "gpt2")
    arguments = [
        *tiny(tweets, backbone, tmp_path),
        f"pair.student.path={tmp_path / 'gpt2'}",
        "pair.teacher.epochs=1",
        "trainer.max_epochs=1",
        "weighting=rwkd",
    ]
    with pytest.raises(UserError, match="use meta=all or meta=last_block") as told:
        run(config(*arguments), folder(tmp_path / "a"))
    assert not list((tmp_path / "cache").glob("teachers/*")), "refused before the teacher is trained"
    for remedy in re.findall(r"meta=(?:all|last_block)", str(told.value)):
        assert 0 <= run(config(*arguments, remedy), folder(tmp_path / remedy))["student"]["test"]["accuracy"] <= 1


def folder(path: Path) -> Path:
    path.mkdir()
    return path
