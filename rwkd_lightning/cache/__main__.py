"""List the cache, and make room: ``python -m rwkd_lightning.cache list|clear``."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkd_lightning.utils import commands
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

# All that the store writes below the folder of a kind: HASH/, HASH.part/, .HASH-xxxx/ and HASH.lock.
_NAME = re.compile(r"(?P<hash>[0-9a-f]{16})(?P<part>\.part)?|\.(?P<left>[0-9a-f]{16})-\w+")
_LOCK = re.compile(r"[0-9a-f]{16}\.lock")


@dataclass
class Entry:
    """A folder of the store: a result, or (``unfinished``) what an interrupted build left."""

    kind: str
    hash: str
    folder: Path
    unfinished: bool
    size: int
    used: float
    """When last used (the store then sets the time of key.json), in seconds since 1970."""
    kept: dict[str, Any]
    """The content of key.json."""


def entries(root: Path) -> list[Entry]:
    """All results and unfinished builds; UserError where there is no such directory."""
    if not root.is_dir():
        raise UserError(f"there is no cache {str(root)!r}; give --dir DIR, or set RWKD_CACHE")
    return [entry for folder in sorted(root.glob("*/*")) if (entry := _entry(folder)) is not None]


def _entry(folder: Path) -> Entry | None:
    named = _NAME.fullmatch(folder.name)
    if named is None or folder.is_symlink() or not folder.is_dir():
        return None
    finished = not (named["part"] or named["left"])
    if finished and not (folder / "key.json").is_file():
        return None  # not the store's
    size, used = 0, 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):  # a build in another process moves files
            stat = path.lstat()
            size += stat.st_size if path.is_file() else 0
            used = max(used, stat.st_mtime)
    kept: dict[str, Any] = {}
    if finished:
        with suppress(OSError, ValueError, TypeError, RecursionError):
            kept = dict(json.loads((folder / "key.json").read_text()))
    return Entry(folder.parent.name, named["hash"] or named["left"], folder, not finished, size, used, kept)


def words(entry: Entry) -> str:
    """The purpose of an entry: its own words, then its key."""
    if entry.unfinished:
        return "unfinished: an interrupted build, or one that runs now"
    key = entry.kept.get("key")
    if not isinstance(key, dict):
        return "key.json is unreadable"
    about = entry.kept.get("for") or key.get("for")
    text = "; ".join([*([str(about)] if about else []), ", ".join(_pairs(key))])
    return "".join(c if c.isprintable() else "?" for c in text)  # somebody else's file, on a terminal


def _pairs(key: dict[str, Any]) -> Iterator[str]:
    """The entries of a key on one line: digests cut to 8 digits, those of whole tables of files or splits left out."""
    for name, value in key.items():
        if isinstance(value, dict):
            yield from _pairs({k: v for k, v in value.items() if not _is_digest(v)})
        elif name not in ("for", "format") and value is not None:
            yield f"{name}={value[:8] if _is_digest(value) else value}"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def table(shown: Sequence[Entry]) -> str:
    """One line an entry, then the total."""
    lines = [("KIND", "HASH", "SIZE", "LAST USED", "FOR")]
    lines += [(e.kind, e.hash[:8], _size(e.size), _ago(e.used), words(e)) for e in shown]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    text = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[4]]) for line in lines
    ]
    return "\n".join(
        [*text, f"{len(shown)} {'entry' if len(shown) == 1 else 'entries'}, {_size(sum(e.size for e in shown))}"]
    )


def _size(size: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def chosen(found: Sequence[Entry], names: Sequence[str], older_than: float) -> list[Entry]:
    """The entries of these kinds, or whose hash begins so (all, without names), unused for so many days.

    Raises:
        UserError: for a name that is no kind and no hash.
    """
    for name in names:
        if not any(_matches(entry, name) for entry in found):
            raise UserError(f"{name!r} is no kind and no hash (4 digits or more) in this cache; `list` shows them")
    latest = time.time() - 86400 * older_than
    return [e for e in found if (not names or any(_matches(e, name) for name in names)) and e.used <= latest]


def _matches(entry: Entry, name: str) -> bool:
    return entry.kind == name or (len(name) >= 4 and entry.hash.startswith(name))


def remove(going: Iterable[Entry]) -> list[Entry]:
    """Remove entries and their lock files; return those that stay, because another process holds their lock."""
    from filelock import FileLock, Timeout

    held = []
    for entry in going:
        lock = entry.folder.parent / f"{entry.hash}.lock"
        try:
            with FileLock(lock, timeout=0):
                # Renamed first: a process that is interrupted here leaves an unfinished build, not half a result.
                gone = entry.folder.parent / f".{entry.hash}-{secrets.token_hex(4)}"
                os.replace(entry.folder, gone)
                shutil.rmtree(gone)
                with suppress(PermissionError):  # Windows removes no open file
                    lock.unlink(missing_ok=True)
        except Timeout:
            held.append(entry)
        except OSError as error:
            raise UserError(f"{entry.folder} cannot be removed ({error.strerror or error})") from error
    return held


def clear(root: Path, names: Sequence[str], older_than: float, yes: bool) -> None:
    """Remove what is chosen, after saying what and asking; UserError where nobody can be asked."""
    going = chosen(entries(root), names, older_than)
    if not going:
        print("nothing to remove")
    else:
        print(f"to be removed from {root}:\n{table(going)}")
        if not yes and not sys.stdin.isatty():
            raise UserError("nothing was removed, as there is no terminal to ask on; add --yes")
        if not yes and input("remove them? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return
        held = remove(going)
        for entry in held:
            print(f"kept {entry.kind} {entry.hash[:8]}: another process is building it")
        print(f"removed {_size(sum(e.size for e in going) - sum(e.size for e in held))}")
    if not names and not older_than:
        _remove_idle_locks(root)


def _remove_idle_locks(root: Path) -> None:
    """Lock files of results that are gone, and that nobody holds."""
    from filelock import FileLock, Timeout

    left = {(e.kind, e.hash) for e in entries(root)}
    for lock in root.glob("*/*.lock"):
        if _LOCK.fullmatch(lock.name) and lock.is_file() and (lock.parent.name, lock.stem) not in left:
            with suppress(Timeout, OSError), FileLock(lock, timeout=0):
                lock.unlink()


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not days >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days; give 0 or more")
    return days


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status, 1 for a mistake told in one line."""
    parser = argparse.ArgumentParser("python -m rwkd_lightning.cache", description="List or clear the cache.")
    kinds = parser.add_subparsers(dest="command", required=True)
    listing = kinds.add_parser("list", help="what the cache holds, how large it is, when it was last used")
    clearing = kinds.add_parser("clear", help="remove results and what interrupted builds left")
    for command in (listing, clearing):
        command.add_argument(
            "--dir",
            default=os.environ.get("RWKD_CACHE") or "cache",
            help="the cache (default: the environment variable RWKD_CACHE, or cache)",
        )
    clearing.add_argument(
        "names", nargs="*", metavar="KIND|HASH", help="only these, as `list` shows them (default: all)"
    )
    clearing.add_argument(
        "--older-than", type=_days, default=0.0, metavar="DAYS", help="only what was not used for so long"
    )
    clearing.add_argument("--yes", action="store_true", help="do not ask")
    options = parser.parse_args(arguments)

    def work() -> None:
        root = place(options.dir, "--dir")
        if options.command == "list":
            print(table(entries(root)))
        else:
            clear(root, options.names, options.older_than, options.yes)

    return commands.status(work, "interrupted; what was not yet removed is there")


if __name__ == "__main__":
    commands.run(main)
