"""The data and models that a run was made of, by content: ``inputs.json`` in its folder.

A run's folder is named after its config, in which data and models are paths. This file notices that something else lies
there now, so that an interrupted run never goes on with it, and a finished one is never taken for its result.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rwkd_lightning import __version__
from rwkd_lightning.cache.store import digest
from rwkd_lightning.utils.errors import UserError

FILE = "inputs.json"
Inputs = Mapping[str, Mapping[str, Any]]


def inputs(data: Mapping[str, tuple[int, str]], models: Mapping[str, Any]) -> Inputs:
    """The inputs of a run.

    Args:
        data: number of rows and digest of each split.
        models: anything that JSON can write and that changes with the files of each model.
    """
    return {
        "code": {"rwkd_lightning": {"version": __version__}},
        "data": {name: {"rows": rows, "sha256": sha256} for name, (rows, sha256) in data.items()},
        "models": {name: {"sha256": digest(files)} for name, files in models.items()},
    }


def write(folder: Path, made_of: Inputs) -> None:
    """Note the inputs of the training that begins in ``folder``, in one move."""
    part = folder / f".{FILE}.part"
    part.write_text(json.dumps(made_of, indent=1) + "\n")
    os.replace(part, folder / FILE)


def read(folder: Path) -> Inputs | None:
    """The inputs of the run in ``folder``; None where it left none, or nothing that can be read."""
    try:
        found: Any = json.loads((folder / FILE).read_text())
        return {kind: {name: dict(was) for name, was in found[kind].items()} for kind in ("code", "data", "models")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def changes(before: Inputs, now: Inputs) -> list[str]:
    """Each input that is another one now, in words; inputs that only one of the two knows are not compared."""
    found = []
    for kind, known in before.items():
        for name in [name for name in known if name in now[kind] and known[name] != now[kind][name]]:
            was, is_now = known[name], now[kind][name]
            if kind == "code":
                found.append(f"{name} {was['version']} is {is_now['version']} now")
            elif kind == "models":
                found.append(f"the files of the {name} are others")
            elif was["rows"] != is_now["rows"]:
                found.append(f"split {name!r} had {was['rows']} rows and has {is_now['rows']} now")
            else:
                found.append(f"split {name!r} has other values in its {was['rows']} rows")
    return found


def check(folder: Path, now: Inputs) -> None:
    """Raise UserError if a training was begun in ``folder`` with other data, models or code than those of now."""
    if not any((folder / "checkpoints").glob("*.ckpt")):
        return
    before = read(folder)
    if before is None:
        raise UserError(
            f"{folder} holds a training that was begun by another version (it has no {FILE}); add force=true to "
            "begin again"
        )
    if changed := changes(before, now):
        raise UserError(
            f"{folder} holds a training that was begun with other inputs: {'; '.join(changed)}; put them back to go "
            "on with it, or add force=true to begin again with those of now"
        )


def check_data(folder: Path, now: Callable[[], Inputs], purpose: str) -> None:
    """Raise UserError if the data are others now than those of the run in ``folder``.

    Args:
        purpose: of the caller, as in "put them back to export its student".
    """
    before, changed = read(folder), []
    if before is not None:
        with contextlib.suppress(UserError):  # a model's files may be out of reach by now, which does not matter here
            changed = [change for change in changes(before, now()) if change.startswith("split ")]
    if changed:
        raise UserError(f"the data of {folder} are others now: {'; '.join(changed)}; put them back to {purpose}")
