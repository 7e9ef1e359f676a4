import errno
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rwkd_lightning.cache import store as module
from rwkd_lightning.cache.store import Store, digests, file_digest
from rwkd_lightning.utils.errors import UserError

KEY = {"task": "toy", "seed": 1}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def write(text="text"):
    return lambda folder: (folder / "file").write_text(text)


def never(folder):
    pytest.fail("built again")


def left(store):
    """All that lies in the cache but lock files."""
    return sorted(str(p.relative_to(store.root)) for p in store.root.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_built_once_and_verified(store):
    """Prevents that a teacher is trained again for each run, or that one is taken that another program changed."""
    folder = store.get("kind", KEY, write(), about="the toy")
    assert store.get("kind", {"seed": 1, "task": "toy"}, never) == folder == store.path("kind", KEY)
    assert digests(folder) == {"file": file_digest(folder / "file")}
    assert store.get("kind", {**KEY, "seed": 2}, write()) != folder
    (folder / "file").write_text("tekst")
    with pytest.raises(UserError, match="file is missing or was altered"):
        store.get("kind", KEY, never)
    (folder / "file").unlink()
    with pytest.raises(UserError, match="file is missing or was altered"):
        store.get("kind", KEY, never)


def test_bytes_are_hashed_once_a_process(store, monkeypatch):
    """Prevents that each stage of a run hashes the same teacher of 1.4 GB, and that a later change is not seen."""
    hashed = []
    monkeypatch.setattr(module, "file_digest", lambda path: hashed.append(path.name) or file_digest(path))
    folder = store.get("kind", KEY, write())
    store.get("kind", KEY, never)
    assert hashed == ["file"]
    monkeypatch.setattr(module, "_verified", {})  # another process
    for _ in range(3):
        store.get("kind", KEY, never)
    assert hashed == ["file"] * 2
    kept = (folder / "file").stat()
    (folder / "file").write_text("tekst")
    os.utime(folder / "file", ns=(kept.st_atime_ns, kept.st_mtime_ns))  # of another size at the same time
    with pytest.raises(UserError, match="altered"):
        store.get("kind", KEY, never)
    (folder / "file").write_text("texd")
    with pytest.raises(UserError, match="altered"):
        store.get("kind", KEY, never)


def test_a_failed_build_leaves_nothing(store):
    """Prevents half a teacher that the next run takes for a whole one."""

    def fail(folder):
        write()(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get("kind", KEY, fail)
    assert left(store) == [] and not store.has("kind", KEY)


def test_leftovers_of_killed_builds_go(store):
    """Prevents a cache that grows with each killed run, and one that removes the build of another result."""
    mine, other = (store.path("kind", key) for key in (KEY, {**KEY, "seed": 2}))
    for name in (f".{mine.name}-0123abcd", f".{other.name}-0123abcd", f"{mine.name}.part"):
        (mine.parent / name).mkdir(parents=True)
        (mine.parent / name / "file").touch()
    store.get("kind", KEY, write())
    assert left(store) == [
        f"kind/.{other.name}-0123abcd/file",
        f"kind/{mine.name}.part/file",
        f"kind/{mine.name}/file",
        f"kind/{mine.name}/key.json",
    ]


def test_a_read_only_cache_can_be_read(store, monkeypatch):
    """Prevents that a cache shared on a read-only disk is refused for want of a lock file."""
    folder = store.get("kind", KEY, write())
    Path(f"{folder}.lock").unlink()

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    for name in ("utime", "mkdir", "replace"):
        monkeypatch.setattr(os, name, refuse)
    assert store.get("kind", KEY, never) == folder and not Path(f"{folder}.lock").exists()


def test_use_is_recorded(store):
    """Prevents that `cache clear --older-than` removes the teacher that every run uses."""
    folder = store.get("kind", KEY, write())
    os.utime(folder / "key.json", (0, 0))
    store.get("kind", KEY, never)
    assert time.time() - (folder / "key.json").stat().st_mtime < 60


def test_other_mistakes_in_a_build_stay_what_they_are(store, tmp_path):
    """Prevents 'cache_dir cannot be written' where a download failed or the model hub's own cache is not writable."""
    for error in (
        OSError("We couldn't connect to the hub"),
        PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "hub" / "model")),
        FileNotFoundError(errno.ENOENT, "No such file", str(store.root / "kind" / "file")),
        RuntimeError("size mismatch"),
        UserError("something else"),
    ):

        def fail(folder, error=error):
            raise error

        with pytest.raises(type(error)) as caught:
            store.get("kind", KEY, fail)
        assert caught.value is error


@pytest.mark.parametrize("below", ["", "cache", "a/b"])
def test_a_cache_below_a_file_is_one_line(tmp_path, below):
    """Prevents a traceback where the directory cannot be made."""
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / below)
    for action in (store.check_writable, lambda: store.get("kind", KEY, write())):
        with pytest.raises(UserError, match="cache_dir=.*file.* cannot be written .*cache_dir=DIR") as error:
            action()
        assert "\n" not in str(error.value)


def test_room_is_checked(store, monkeypatch):
    """Prevents that hours of training end in a full disk."""
    store.check_writable(1)
    assert store.root.is_dir() and left(store) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40, 3 * 2**29))
    store.check_writable(3 * 2**29)
    with pytest.raises(
        UserError, match=r"has 1\.50 GiB free, this run needs 4\.00 GiB; .*cache_dir=DIR.*cache clear"
    ) as error:
        store.check_writable(2**32)
    assert str(store.root) in str(error.value) and "\n" not in str(error.value)


FULL = """
    import resource, signal, sys
    from pathlib import Path
    import pyarrow as pa, torch
    from safetensors.torch import save_file
    from rwkd_lightning.utils.errors import UserError
    from rwkd_lightning.cache.store import Store

    def arrow(folder):
        table = pa.table({"a": range(100_000)})
        with pa.OSFile(str(folder / "f"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    tensors = {"a": torch.zeros(100_000)}
    builds = {
        "plain": lambda folder: (folder / "f").write_bytes(bytes(400_000)),
        "arrow": arrow,
        "safetensors": lambda folder: save_file(tensors, folder / "f"),
        "torch": lambda folder: torch.save(tensors, folder / "f"),
    }
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    store = Store(Path(sys.argv[1]))
    for name, build in builds.items():
        try:
            store.get(name, {}, build)
        except UserError as error:
            print(name, error)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        store.check_writable()
    except UserError as error:
        print("check", error)
    try:
        store.get("key", {"long": "x" * 2000}, lambda folder: None)
    except UserError as error:
        print("key", error)
"""


def test_a_full_disk_is_one_line_and_nothing_half_written(store):
    """Prevents a traceback after hours of training, whichever library met the full disk, and half a result in the
    cache.
    """
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(store.root)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["plain", "arrow", "safetensors", "torch", "check", "key"]
    for line in lines:
        assert (
            f"cache_dir={str(store.root)!r} cannot be written" in line
            and "cache_dir=DIR" in line
            and "GiB free" in line
        )
    assert left(store) == []


def test_two_processes_build_once(store, tmp_path):
    """Prevents two trainings of one teacher at the same time."""
    script = """
        import sys, time
        from pathlib import Path
        from rwkd_lightning.cache.store import Store

        def build(folder):
            with open(sys.argv[2], "a") as file:
                file.write("built\\n")
            time.sleep(0.5)
            (folder / "file").write_text("text")

        print(Store(Path(sys.argv[1])).get("kind", {}, build))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(store.root), str(tmp_path / "log")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    out = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0] and out == {f"{store.path('kind', {})}\n"}
    assert (tmp_path / "log").read_text() == "built\n"
