"""Tables of datasets on the Hugging Face hub: ``hub:OWNER/NAME``, with a config and a split where they are named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rwkd_lightning.utils.errors import UserError

PATTERN = re.compile(r"hub:(?P<name>[^/:]+/[^/:]+)(?:/(?P<config>[^/:]+))?(?::(?P<split>[^:]+))?")


def is_hub(path: Any) -> bool:
    """Whether a path names a dataset of the hub."""
    return isinstance(path, str) and path.startswith("hub:")


def hub_rows(
    path: str, wanted: Sequence[str], setting: str, optional: Sequence[str]
) -> Iterator[tuple[int, list[Any]]]:
    """Number, from 1, and values of each row; a class is given by its name.

    Args:
        path: ``hub:OWNER/NAME``, ``hub:OWNER/NAME/CONFIG``, each with ``:SPLIT`` for another one than the setting's.
        setting: as ``data.train``, whose last part is the split.

    Raises:
        UserError: for a name that is none, and what the hub does not give.
    """
    from rwkd_lightning.data.table_file import column

    match = PATTERN.fullmatch(path)
    if match is None:
        raise UserError(
            f"{setting}={path!r} is no dataset of the hub; write hub:OWNER/NAME, or hub:OWNER/NAME/CONFIG:SPLIT"
        )
    split = match["split"] or setting.rpartition(".")[2]
    rows = downloaded(match["name"], match["config"], split, path, setting)
    where = f"{setting}={path!r}"
    names = list(rows.features)
    there = [name for name in wanted if name not in optional or name in names]
    for name in there:
        column(names, name, where)
    tables = {name: values_of(rows, name) for name in there}
    for row in range(len(rows)):
        yield row + 1, [tables[name][row] if name in tables else None for name in wanted]


def downloaded(name: str, config: str | None, split: str, path: str, setting: str) -> Any:
    """The split, from the hub or from the cache of an earlier download."""
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the hub's client raises many unrelated types
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]
        raise UserError(
            f"{setting}={path!r}: the hub did not give split {split!r} ({reason}); name another split as "
            f"hub:{name}:SPLIT, or download it elsewhere and give its files"
        ) from error


def values_of(rows: Any, name: str) -> list[Any]:
    """The values of a column; classes by name, also within lists."""
    feature = rows.features[name]
    inner = getattr(feature, "feature", feature)
    values = list(rows[name])
    if not hasattr(inner, "int2str"):
        return values

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(one) for one in value]
        return None if value is None or value < 0 else inner.int2str(value)

    return [named(value) for value in values]
