"""Results that several runs share (teachers, logits, tokens), kept by everything they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkd_lightning.cache.disk import check_room, writing
from rwkd_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_verified: dict[Path, Any] = {}  # folders whose bytes this process has hashed, with what their files looked like then


def digest(value: Any) -> str:
    """SHA-256 of anything that JSON can write, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _chunks(file)


def _chunks(file: Any) -> str:  # Python 3.10
    total = hashlib.sha256()
    while chunk := file.read(1 << 20):
        total.update(chunk)
    return total.hexdigest()


class Store:
    """Folders ``root/KIND/HASH``, each built once, whole or not at all, and verified when a process first reads it.

    ``HASH.lock`` is held while HASH is built; ``.HASH-xxxx`` is what a build has so far, or what a killed one left.
    ``python -m rwkd_lightning.cache`` lists and clears them.

    Args:
        root: created when first written to.
        builds: False: wait for another process to build what is missing, as the others of a distributed run do.
    """

    def __init__(self, root: Path, builds: bool = True) -> None:
        self.root = root
        self.builds = builds

    def path(self, kind: str, key: Mapping[str, Any]) -> Path:
        """Where the result for this key is, or would be."""
        return self.root / kind / digest(key)[:16]

    def has(self, kind: str, key: Mapping[str, Any]) -> bool:
        """Whether it was built."""
        return (self.path(kind, key) / "key.json").is_file()

    def get(self, kind: str, key: Mapping[str, Any], build: Callable[[Path], None], about: str = "") -> Path:
        """The folder for this key; ``build(folder)`` fills it if it is not there yet.

        Two processes that want the same result wait for one of them.

        Args:
            about: what it is for, in words, for whoever lists the cache; no part of the key.

        Raises:
            UserError: if it cannot be written, or if what is there belongs to another key or was altered.
        """
        from filelock import FileLock

        final = self.path(kind, key)
        while not self.builds and not self.has(kind, key):
            time.sleep(0.2)  # if that process fails, its launcher ends this one
        with writing(self.root, "cache_dir", self._clear):
            if not self.has(kind, key):  # no lock to read, so that a cache on a read-only disk can be read
                final.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{final}.lock"):
                    if not self.has(kind, key):
                        self._build(final, key, build, about)
        verify(final, key)
        with suppress(OSError):
            os.utime(final / "key.json")  # when it was last used
        return final

    def check_writable(self, needed_bytes: int = 0) -> None:
        """Raise UserError, before hours of training, if the root cannot be written or has less than this free."""
        check_room(self.root, needed_bytes, "cache_dir", self._clear)

    @property
    def _clear(self) -> str:
        return f", or make room with `python -m rwkd_lightning.cache clear --dir {self.root}`"

    def _build(self, final: Path, key: Mapping[str, Any], build: Callable[[Path], None], about: str) -> None:
        for left in final.parent.glob(f".{final.name}-*"):
            shutil.rmtree(left, ignore_errors=True)  # a killed build's: this process holds the lock
        part = final.parent / f".{final.name}-{secrets.token_hex(4)}"
        try:
            part.mkdir()
            build(part)
            files = {str(p.relative_to(part)): file_digest(p) for p in sorted(part.rglob("*")) if p.is_file()}
            (part / "key.json").write_text(json.dumps({"for": about, "key": key, "files": files}, indent=1))
            shutil.rmtree(final, ignore_errors=True)
            os.replace(part, final)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        _verified[final.absolute()] = _state(final, files)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder that `Store.get` returned, as verified there: no need to hash them again."""
    found: dict[str, str] = json.loads((folder / "key.json").read_text())["files"]
    return found


def tensors(file: Path, shapes: Mapping[str, Sequence[int | None]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file of the store, memory-mapped.

    Args:
        shapes: of each tensor that must be in it, None for a size that may be any.

    Raises:
        UserError: if it is no such file, as where something else was put in its place.
    """
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(file)
    except Exception as error:  # SafetensorError is no subclass of anything that says so
        raise UserError(
            f"cache {file.parent}: {file.name} is no safetensors file ({str(error)[:160]}); delete {file.parent} and "
            "run again to rebuild it"
        ) from error
    for name, shape in shapes.items():
        has = list(found[name].shape) if name in found else None
        if (
            has is None
            or len(has) != len(shape)
            or any(size not in (None, x) for x, size in zip(has, shape, strict=True))
        ):
            raise UserError(
                f"cache {file.parent}: {name} in {file.name} has the shape {has}, and not {list(shape)}; delete "
                f"{file.parent} and run again to rebuild it"
            )
    return found


def verify(folder: Path, key: Mapping[str, Any]) -> None:
    """Raise UserError unless the folder holds exactly what was built for this key.

    Bytes are hashed once a process, and again only where a file's size or time of change is another: a teacher may
    be 1.4 GB.
    """
    way_out = f"delete {folder} and run again to rebuild it"
    try:
        kept = json.loads((folder / "key.json").read_text())
        kept_key, files = dict(kept["key"]), dict(kept["files"])
        if not files or any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
            raise ValueError("files of elsewhere, or none")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError) as error:
        raise UserError(f"cache {folder}: key.json is unreadable; {way_out}") from error
    expected = json.loads(json.dumps(key))
    if kept_key != expected:
        names = sorted(n for n in {*kept_key, *expected} if kept_key.get(n) != expected.get(n))
        raise UserError(
            f"cache {folder} was built from another {names[0]} ({kept_key.get(names[0])!r}, wanted "
            f"{expected.get(names[0])!r}); {way_out}"
        )
    state = _state(folder, files)
    if None not in state and _verified.get(folder.absolute()) == state:
        return
    for name, kept_digest in files.items():
        if not (folder / name).is_file() or file_digest(folder / name) != kept_digest:
            raise UserError(f"cache {folder}: {name} is missing or was altered since it was written; {way_out}")
    _verified[folder.absolute()] = state


def _state(folder: Path, files: Mapping[str, str]) -> list[tuple[str, str, int, int] | None]:
    """Sizes and times that tell an unchanged folder without reading it; None for a file that is missing."""
    return [
        (name, files[name], (folder / name).stat().st_mtime_ns, (folder / name).stat().st_size)
        if (folder / name).is_file()
        else None
        for name in files
    ]
