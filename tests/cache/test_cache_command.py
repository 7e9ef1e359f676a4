import os
import re
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from rwkd_lightning.cache import __main__ as cache
from rwkd_lightning.cache.store import Store

DAY = 86400


@pytest.fixture
def store(tmp_path):
    """A cache of a teacher, its logits, tokens, an unfinished teacher, a killed build, and files of the user's."""
    store = Store(tmp_path / "cache")
    teacher = {
        "task": "mrpc",
        "model": {"config.json": "a" * 64},
        "data": "b" * 64,
        "settings": {"epochs": 3, "lr": 2e-05},
    }
    store.get("teacher", teacher, lambda folder: (folder / "model").write_bytes(bytes(3 * 2**20)))
    store.get(
        "logits", {"for": "mrpc: minilm", "teacher": "c" * 64}, lambda folder: (folder / "x").write_bytes(bytes(2048))
    )
    store.get("tokens", {"data": "d" * 64}, lambda folder: (folder / "x").touch(), about="mrpc train, 9 rows")
    for name in ("0123456789abcdef.part", ".0123456789abcdef-aaaa"):
        (store.root / "teacher" / name / "checkpoints").mkdir(parents=True)
        (store.root / "teacher" / name / "checkpoints" / "last.ckpt").write_bytes(bytes(1024))
    for name in ("mine", "fedcba9876543210", "mine.part", ".mine-aaaa"):  # no key.json, or no name of the store's
        (store.root / "teacher" / name).mkdir()
        (store.root / "teacher" / name / "mine.txt").touch()
    (store.root / "teacher" / "fedcba9876543210.txt").touch()
    (store.root / "teacher" / "mine.lock").touch()
    (store.root / "0123456789abcdef.part").mkdir()
    return store


def files(store):
    return {str(p.relative_to(store.root)) for p in store.root.rglob("*") if p.is_file() or not any(p.iterdir())}


MINE = {
    *(f"teacher/{name}/mine.txt" for name in ("mine", "fedcba9876543210", "mine.part", ".mine-aaaa")),
    "teacher/fedcba9876543210.txt",
    "teacher/mine.lock",
    "0123456789abcdef.part",
}


def run(store, *arguments):
    return cache.main([*arguments, "--dir", str(store.root)])


def test_list(store, capsys):
    """Prevents a cache of which nobody can tell what may go."""
    assert run(store, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(" {2,}", line) for line in lines[1:-1]]
    assert [row[0] for row in rows] == ["logits", "teacher", "teacher", "teacher", "tokens"]
    by_size = {row[2]: row for row in rows}
    (teacher,) = (row for row in rows if "task=mrpc" in row[4])
    assert teacher[2:] == ["3.0 MiB", "just now", "task=mrpc, data=bbbbbbbb, epochs=3, lr=2e-05"]
    assert any(row[4] == "mrpc: minilm; teacher=cccccccc" for row in rows)
    assert any(row[4] == "mrpc train, 9 rows; data=dddddddd" for row in rows)
    assert by_size["1.0 KiB"][1] == "01234567" and by_size["1.0 KiB"][4].startswith("unfinished")
    assert re.fullmatch(r"5 entries, 3\.0 MiB", lines[-1])
    (store.root / "tokens").glob("*/key.json").__next__().write_text("[")
    assert run(store, "list") == 0 and "key.json is unreadable" in capsys.readouterr().out


def test_clear_removes_all_that_is_the_stores_and_nothing_else(store, capsys):
    """Prevents that a mistyped --dir costs the user's own files, and that lock files and unfinished builds stay for
    good.
    """
    (store.root / "teacher" / "00000000000000aa.lock").touch()  # of a result that is gone
    assert run(store, "clear", "--yes") == 0
    assert "5 entries, 3.0 MiB" in capsys.readouterr().out
    assert files(store) - {"logits", "tokens"} == MINE
    assert run(store, "clear", "--yes") == 0 and "nothing to remove" in capsys.readouterr().out


def test_clear_some(store, capsys):
    """Prevents that clearing the logits costs the teacher, which took hours."""
    (tokens,) = (store.root / "tokens").glob("*/key.json")
    before = files(store)
    assert run(store, "clear", "logits", tokens.parent.name[:8], "--yes") == 0
    assert files(store) == {f for f in before if f.startswith(("teacher", "0"))} | {"logits", "tokens"}
    assert run(store, "clear", "0123", "--yes") == 0
    assert not [f for f in files(store) if f.startswith(("teacher/0123", "teacher/.0123"))]
    assert len(list(store.root.glob("teacher/*/key.json"))) == 1


def test_clear_old(store, capsys):
    """Prevents that what was used yesterday goes since it was built long ago."""
    for kind, days in (("teacher", 1), ("logits", 8)):
        (kept,) = (store.root / kind).glob("*/key.json")
        for path in (*kept.parent.iterdir(), kept.parent):
            os.utime(path, (0, 0))
        os.utime(kept, (time.time() - days * DAY,) * 2)
    assert run(store, "clear", "--older-than", "7", "--yes") == 0
    out = capsys.readouterr().out
    assert "8 days ago" in out and "1 entry," in out
    assert not list(store.root.glob("logits/*/key.json")) and len(list(store.root.glob("t*/*/key.json"))) == 2
    with pytest.raises(SystemExit):
        run(store, "clear", "--older-than", "-1", "--yes")


def test_clear_asks(store, capsys, monkeypatch):
    """Prevents that a script, or a slip of the finger, removes hours of work."""
    before = files(store)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert run(store, "clear") == 1 and "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: "")
    assert run(store, "clear") == 0 and files(store) == before
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    assert run(store, "clear", "logits") == 0 and files(store) != before


def test_clear_skips_what_is_being_built(store, capsys):
    """Prevents that the teacher another process trains right now loses its checkpoints."""
    lock = store.root / "teacher" / "0123456789abcdef.lock"
    code = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]):\n    print('held', flush=True)\n    input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert run(store, "clear", "--yes") == 0
    finally:
        holder.communicate("\n", timeout=30)
    assert capsys.readouterr().out.count("kept teacher 01234567: another process") == 2
    assert lock.is_file() and (store.root / "teacher/0123456789abcdef.part/checkpoints/last.ckpt").is_file()
    assert not list(store.root.glob("*/*/key.json"))
    with FileLock(lock, timeout=0):
        pass


def test_mistakes_are_one_line(store, tmp_path, capsys):
    """Prevents a traceback, and a typing error that clears everything."""
    before = files(store)
    for arguments, words in (
        (["list", "--dir", str(tmp_path / "no")], "no cache .*no"),
        (["clear", "--yes", "--dir", str(tmp_path / "no")], "no cache .*no"),
        (["clear", "deadbeef", "--yes", "--dir", str(store.root)], "'deadbeef'"),
        (["clear", "012", "--yes", "--dir", str(store.root)], "'012'"),
    ):
        assert cache.main(arguments) == 1
        error = capsys.readouterr().err
        assert re.search(words, error) and error.count("\n") == 1
    assert files(store) == before


def test_the_command_starts_fast_and_finds_the_default(store, tmp_path):
    """Prevents that listing a folder takes the seconds that importing torch takes."""
    code = "import sys; from rwkd_lightning.cache.__main__ import main; main(['list']);"
    code += "print({'torch', 'transformers'} & {*sys.modules})"
    for environment, cwd in (({"RWKD_CACHE": str(store.root)}, "/"), ({"RWKD_CACHE": ""}, tmp_path)):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=os.environ | environment
        )
        assert "5 entries" in done.stdout and done.stdout.endswith("set()\n"), done.stderr
    command = [sys.executable, "-m", "rwkd_lightning.cache", "list", "--dir", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "nowhere" in done.stderr
