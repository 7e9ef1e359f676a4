"""Every config of the collection becomes the object it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from rwkd_lightning.bilevel import Engine, FiniteDifference, Jvp, Unrolled
from rwkd_lightning.meta import All, Head, HeadWithBank, LastBlock, Restriction
from rwkd_lightning.run.build import create, terms_of, weighting_of
from rwkd_lightning.systems.retrieval.projection import Projection
from rwkd_lightning.systems.summaries.bank import HeadWithTokenBank
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.columns import Columns
from tests.shipped_methods import ALL

CONF = Path(__file__).parents[1] / "conf"
THETAS = {
    "all": All,
    "bank": HeadWithBank,
    "head": Head,
    "last_block": LastBlock,
    "projection": Projection,
    "token_bank": HeadWithTokenBank,
}
ENGINES = {"finite_difference": FiniteDifference, "jvp": Jvp, "unrolled": Unrolled}


def config(*overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("engine", [None, *names("meta/engine")])
@pytest.mark.parametrize("theta", names("meta"))
def test_meta(theta: str, engine: str | None) -> None:
    """Prevents: an option that inherits another's keys and fails when it is made, after the teacher was trained."""
    composed = config(f"meta={theta}", *([f"meta/engine={engine}"] if engine else [])).meta
    assert type(create(composed, "theta", Restriction)) is THETAS[theta]
    default = "jvp" if theta in ("bank", "head", "projection", "token_bank") else "finite_difference"
    assert type(create(composed, "engine", Engine)) is ENGINES[engine or default]
    assert set(composed) == {"engine", "theta", "batch_size", "lookahead_lr", "every", "start", "weights", "loss"}


@pytest.mark.parametrize("weighting", names("weighting"))
def test_weighting(weighting: str) -> None:
    """Prevents: a config whose keys its method does not take."""
    composed = config(f"weighting={weighting}", *([] if weighting in ALL else ["task=pairs"]))
    composed.weighting_name = weighting
    weighting_of(composed).check(Columns.of(terms_of(composed)))


@pytest.mark.parametrize("term", sorted(config().loss_terms))
def test_term(term: str) -> None:
    """Prevents: a loss term under another name in its config than in the weights' columns."""
    assert [made.name for made in terms_of(config(f"terms=[{term}]"))] == [term]


def test_keys_of_another_class_are_told() -> None:
    """Prevents: Hydra's stack of calls for an option that takes no such key."""
    composed = config("meta=all", "meta.engine._target_=rwkd_lightning.bilevel.Jvp")
    message = r"meta.engine: rwkd_lightning.bilevel.Jvp cannot be made of these keys \(Jvp\(\) takes no arguments"
    with pytest.raises(UserError, match=message):
        create(composed, "meta.engine", Engine)


def test_every_term_is_documented() -> None:
    """Prevents: a term, or an option of one, that nobody finds."""
    lines = (CONF.parent / "docs/terms.md").read_text().splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert sorted(rows) == sorted(config().loss_terms)
    for name, term in config().loss_terms.items():
        assert [key for key in term if key != "_target_" and f"`{key}`" not in rows[str(name)]] == []
