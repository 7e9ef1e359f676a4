"""The page of every weighting method: it is there, its options are the config's, its Python example runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.shipped_methods import ALL

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf/weighting"
PAGES = ROOT / "docs/methods"
NAMES = ALL
LABELS = ("In short", "Interface", "Rule", "Source", "Needs", "Cost", "Use", "Options", "When it goes wrong")
methods = pytest.mark.parametrize("name", NAMES)


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


def leaves(node: Any, path: str) -> dict[str, Any]:
    """Values by the key they have on the command line."""
    if not isinstance(node, dict):
        return {path: node}
    return {
        key: value
        for name, inner in node.items()
        if name not in ("_target_", "defaults")
        for key, value in leaves(inner, f"{path}.{name}".lstrip(".")).items()
    }


def own_options(name: str) -> dict[str, Any]:
    """What a method's file sets itself."""
    file = CONF / f"{name}.yaml"
    config = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return leaves(config, "" if "# @package _global_" in file.read_text() else "weighting")


def all_options(name: str) -> dict[str, Any]:
    """The same and, below it, what the files in its ``defaults`` set: ``other`` or, under a key, ``other@key``."""
    found: dict[str, Any] = {}
    for entry in OmegaConf.load(CONF / f"{name}.yaml").get("defaults", []):
        if isinstance(entry, str):
            other, _, key = entry.partition("@")
        else:  # /weighting@KEY: other
            ((place, other),) = entry.items()
            key = place.partition("@")[2]
        if other != "_self_":
            found |= {
                path.replace("weighting", f"weighting.{key}" if key else "weighting", 1): value
                for path, value in all_options(other).items()
            }
    return found | own_options(name)


def documented(name: str) -> dict[str, Any]:
    """The defaults in a page's table of options, read as YAML."""
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| .+ \|$", page(name), re.MULTILINE)
    return {key: OmegaConf.to_container(OmegaConf.create(f"x: {default}"), resolve=False)["x"] for key, default in rows}


def test_every_method_has_a_page_and_is_in_the_tables() -> None:
    """Prevents: a method without a page, a page without a method, and tables that leave one out."""
    assert sorted(file.stem for file in PAGES.glob("*.md") if file.stem != "README") == NAMES
    overview = (PAGES / "README.md").read_text()
    assert sorted(re.findall(r"^\| \[`(\w+)`\]\(\1\.md\) \|", overview, re.MULTILINE)) == NAMES
    assert overview == runpy.run_path(str(PAGES / "overview.py"))["overview"](), "run python docs/methods/overview.py"


@methods
def test_shape(name: str) -> None:
    """Prevents: pages that each tell something else, and a cost line that the benchmark cannot fill."""
    text = page(name)
    assert text.startswith(f"# `{name}`: ")
    assert tuple(re.findall(r"^\*\*([\w ]+)\.\*\*", text, re.MULTILINE)) == LABELS
    assert len(re.findall(rf"^Cost per step: (?:COST_{name}|\d+\.\d\d) × a `kd` step\.$", text, re.MULTILINE)) == 1
    (command,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert command.startswith(f"python train.py weighting={name}")


@methods
def test_options_are_those_of_the_config(name: str) -> None:
    """Prevents: an option that was renamed, added or given another default, and a page that does not know."""
    told, real = documented(name), all_options(name)
    assert told == {key: real.get(key, "not in the config") for key in told}
    assert sorted(own_options(name).keys() - told.keys()) == []


@methods
def test_python_example_runs(name: str) -> None:
    """Prevents: an example that no longer runs, or gives no weights."""
    (code,) = re.findall(r"```python\n(.*?)```", page(name), re.DOTALL)
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(code, names)
    weights = names["weights"].detach()
    assert weights.shape == names["losses"].shape and bool((weights >= 0).all()) and bool(weights.isfinite().all())
