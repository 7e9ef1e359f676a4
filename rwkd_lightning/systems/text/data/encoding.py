"""From texts to token ids, in memory or kept in the store."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkd_lightning.cache.store import digest
from rwkd_lightning.systems.text.data.overflow import check, head_tail, stride_of, windows
from rwkd_lightning.systems.text.data.task import release
from rwkd_lightning.systems.text.data.token_file import write_tokens
from rwkd_lightning.utils import bars
from rwkd_lightning.utils.errors import UserError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from rwkd_lightning.cache.store import Store
    from rwkd_lightning.systems.text.data.task import TaskData

log = logging.getLogger(__name__)
_CHUNK = 4096
_SHOW = 20_000  # rows from which on one waits long enough to want a progress bar
_FORMAT = 1  # of the kept file; another one makes each kept file stale


def encode(
    dataset: datasets.Dataset,
    tokenizer: Any,
    text_columns: Sequence[str],
    max_length: int,
    name: str = "dataset",
    overflow: str = "truncate",
    stride: int | None = None,
) -> pa.Table:
    """Tokenize the rows, cut at `max_length` and unpadded: columns input_ids and, where given, token_type_ids.

    `overflow` says which tokens of a longer text stay, see `overflow.head_tail`, or that it is read in windows, see
    `overflow.windows`, of which two have `stride` tokens in common.
    Logs at info level the share of rows of split `name` that were cut. UserError for a `max_length` that leaves no
    room for text or that the tokenizer's model cannot take, and for a text that gives no token.
    """
    import pyarrow as pa

    _check_length(tokenizer, text_columns, max_length)
    check(overflow, tokenizer, len(text_columns), max_length, stride)
    tables, cut = zip(*_tokenize(dataset, tokenizer, text_columns, max_length, name, overflow, stride), strict=True)
    table = pa.concat_tables(tables).replace_schema_metadata({"cut": str(sum(cut))})
    _tell_cut(table, max_length, name, overflow)
    return table


def encode_kept(
    data: TaskData,
    split: str,
    tokenizer: Any,
    max_length: int,
    store: Store,
    state: str | None = None,
    overflow: str = "truncate",
    stride: int | None = None,
) -> pa.Table:
    """Do what `encode` does, once for all runs: the table is one mapped file of the store, read without a copy.

    `state` is the `tokenizer_digest` where it is known: it takes longer than reading the table. UserError as `encode`
    and `Store.get` raise. A tokenizer whose state cannot be told, as a slow one, encodes anew.
    """
    rows, columns = data.splits[split], data.task.text_columns
    state = state or tokenizer_digest(tokenizer)
    if state is None:
        log.info("%s: encoded anew in each run, since the tokenizer %r is a slow one", split, tokenizer.name_or_path)
        return encode(rows, tokenizer, columns, max_length, split, overflow, stride)
    _check_length(tokenizer, columns, max_length)
    check(overflow, tokenizer, len(columns), max_length, stride)
    key = {
        "format": _FORMAT,
        "data": data.fingerprint(split),
        "columns": list(columns),
        "max_length": max_length,
        "tokenizer": state,
        **({} if overflow == "truncate" else {"overflow": overflow}),
        **({"stride": stride_of(stride, max_length)} if overflow == "windows" else {}),
    }

    def build(folder: Path) -> None:
        write_tokens(folder / "tokens.arrow", _tokenize(rows, tokenizer, columns, max_length, split, overflow, stride))
        release()

    about = f"{data.task.name} {split}, {len(rows)} rows, max_length={max_length}"
    folder = store.get("tokens", key, build, about)
    table = _read(folder, len(rows))
    _tell_cut(table, max_length, split, overflow)
    return table


def _read(folder: Path, size: int) -> pa.Table:
    """The table kept there, mapped; UserError where something else is in its place."""
    import pyarrow as pa

    broken = UserError(
        f"cache {folder}: tokens.arrow does not hold the tokens of {size} texts; delete {folder} and run again to "
        "rebuild it"
    )
    try:
        with pa.memory_map(str(folder / "tokens.arrow")) as source:
            table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)  # of a mapped file, offsets beyond its end would be read
        sound = (
            len(table) == size
            and int(table.schema.metadata[b"cut"]) >= 0
            and table["input_ids"].type == pa.list_(pa.int32())
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise broken from error
    if not sound:
        raise broken
    return table


def tokenizer_digest(tokenizer: Any) -> str | None:
    """Digest of all that token ids depend on besides the text; None for a slow tokenizer, which does not tell it."""
    backend = _backend(tokenizer)
    if backend is None:
        return None
    names = ("model_max_length", "truncation_side", "padding_side", "split_special_tokens")
    settings = {name: getattr(tokenizer, name, None) for name in names}
    settings["token_type_ids"] = "token_type_ids" in tokenizer.model_input_names
    libraries = {name: version(name).split(".")[:2] for name in ("tokenizers", "transformers")}
    return digest([type(tokenizer).__name__, backend, settings, libraries])


def _backend(tokenizer: Any) -> dict[str, Any] | None:
    """All that a fast tokenizer does with a text; None for a slow one."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    try:
        backend: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception:  # what the tokenizers library raises for a part written in Python
        return None
    for state in ("truncation", "padding"):  # left over from the last call
        backend.pop(state, None)
    return backend


def same_tokens(one: Any, other: Any) -> bool:
    """Whether two fast tokenizers turn every text into the same ids; False where one does not tell (a slow one).

    What else they give along, as token types, may differ: it is for the model to take or to leave.
    """
    state = _backend(one)
    return state is not None and state == _backend(other)


def _check_length(tokenizer: Any, text_columns: Sequence[str], max_length: int) -> None:
    special = tokenizer.num_special_tokens_to_add(pair=len(text_columns) == 2)
    if not special + len(text_columns) <= max_length <= tokenizer.model_max_length:
        most = tokenizer.model_max_length
        to = (
            f"to {most} tokens" if most < 10**9 else "tokens or more"
        )  # a tokenizer that knows no limit names a huge number
        raise UserError(f"data.max_length is {max_length}; this tokenizer takes {special + len(text_columns)} {to}")


def _tell_cut(table: pa.Table, max_length: int, name: str, overflow: str) -> None:
    share = int(table.schema.metadata[b"cut"]) / len(table)
    how = "read in windows of" if overflow == "windows" else "cut at"
    log.info("%s: %.1f%% of %d rows %s max_length=%d", name, 100 * share, len(table), how, max_length)


def _tokenize(
    dataset: datasets.Dataset,
    tokenizer: Any,
    text_columns: Sequence[str],
    max_length: int,
    name: str,
    overflow: str = "truncate",
    stride: int | None = None,
) -> Iterator[tuple[pa.Table, int]]:
    """Yield, chunk by chunk, columns input_ids list<int32> and perhaps token_type_ids list<int8>, and how many rows
    were cut.
    """
    import pyarrow as pa

    types = {"input_ids": pa.list_(pa.int32()), "token_type_ids": pa.list_(pa.int8())}
    starts = range(0, len(dataset), _CHUNK)
    for start in starts if len(dataset) < _SHOW else bars.over(starts, f"tokenizing {name}"):
        rows = dataset.with_format(None)[start : start + _CHUNK]
        texts, shortened = [list(rows[column]) for column in text_columns], 0
        if overflow == "head_tail":
            texts, shortened = head_tail(texts, tokenizer, max_length)
        if overflow == "windows":
            encoded, shortened = windows(texts[0], tokenizer, max_length, stride)
        else:
            encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        ids = encoded["input_ids"]
        if empty := [start + i for i, row in enumerate(ids) if not row]:
            raise UserError(f"row {empty[0]} of {name} gives no token (text {texts[0][empty[0] - start]!r}); drop it")
        # Only a fast tokenizer tells a cut text from one that just fits.
        details = getattr(encoded, "encodings", None)
        cut = sum(bool(d.overflowing) for d in details) if details else sum(len(row) == max_length for row in ids)
        cut = cut if overflow == "truncate" else shortened
        yield pa.table({key: pa.array(encoded[key], kind) for key, kind in types.items() if key in encoded}), cut
