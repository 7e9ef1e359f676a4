"""Full and read-only disks, in one line that names the setting."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rwkd_lightning.utils.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EIO}


def check_room(root: Path, needed_bytes: int, setting: str, make_room: str = "") -> None:
    """Raise UserError, before hours of training, if ``root`` cannot be written or has less than this free.

    Args:
        setting: what the user sets to give another place, as ``cache_dir``.
        make_room: what else helps on a full disk, put after "give SETTING=DIR on another disk".
    """
    with writing(root, setting, make_room):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(bytes(4096))
    free = shutil.disk_usage(root).free
    if free < needed_bytes:
        raise UserError(
            f"{setting}={str(root)!r} has {_gib(free)} free, this run needs {_gib(needed_bytes)}; "
            f"give {setting}=DIR on another disk{make_room}"
        )


@contextmanager
def writing(root: Path, setting: str, make_room: str = "") -> Iterator[None]:
    """Turn a failure to write below ``root`` into a UserError, and no other failure."""
    try:
        yield
    except Exception as error:
        code = _code(error, root)
        if code is None:
            raise
        reason, way_out = os.strerror(code), f"give another with {setting}=DIR"
        if code in _FULL:
            way_out = f"give {setting}=DIR on another disk{make_room}"
            with suppress(OSError):
                reason += f", {_gib(shutil.disk_usage(root).free)} free"
        raise UserError(f"{setting}={str(root)!r} cannot be written ({reason}); {way_out}") from error


def _code(error: Exception, root: Path) -> int | None:
    """The errno, if this error says that a file below the root (or the root itself) could not be written."""
    if isinstance(error, OSError):
        if not isinstance(error.filename, str | os.PathLike):
            return error.errno if error.errno in {*_FULL, errno.ENOLCK} else None
        place, top = Path(os.path.abspath(error.filename)), Path(os.path.abspath(root))
        ours = top in (place, *place.parents) or place in top.parents
        return error.errno if ours and error.errno in {*_FULL, *_REFUSED, errno.ENOLCK} else None
    text = str(error)
    if type(error).__name__ == "SafetensorError" and (found := re.search(r"\(os error (\d+)\)", text)):
        return int(found[1]) if int(found[1]) in {*_FULL, errno.EROFS, errno.EIO} else None
    # torch.save tells neither the file nor the reason
    torch_save = isinstance(error, RuntimeError) and re.search("inline_container.*unexpected pos|iostream error", text)
    return errno.ENOSPC if torch_save else None


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
