"""The commands for new documents and for the cache: what they say names their own options, and the way out works."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rwkd_lightning.cache import __main__ as cache
from rwkd_lightning.systems.topics.corpora import load_corpus
from rwkd_lightning.systems.topics.infer import main
from rwkd_lightning.systems.topics.model import Shape, TopicModel, save
from rwkd_lightning.utils.errors import UserError
from tests.systems.topics.test_words import typed

FOREIGN = re.compile(r"\b(task|data|meta|trainer|cache_dir|runs_dir)\.\w|cache_dir|runs_dir")
"""Keys of a run, which these commands do not take."""


@pytest.fixture
def ask(shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command on a file with this content; what it says, or the table that it prints."""

    def run(name: str, content: bytes | None, *options: str, student: str = str(shipped)) -> str:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        try:
            main([student, str(tmp_path / name) if name else "", *options])
        except SystemExit as stopped:
            return str(stopped.code)
        return capsys.readouterr().out

    return run


BROKEN = [
    ("a.csv", b"body;class\nw1, w2;x\n", [], r"header 'body;class'; if its delimiter is ';', give --delimiter ';'"),
    ("a.csv", b"body|class\nw1|x\n", [], r"give --delimiter '\|'"),
    ("a.csv", b"text\tclass\nw1\tx\n", [], r"rename it so that it ends in .tsv"),
    ("a.tsv", b"text,class\nw1,x\n", [], r"rename it so that it ends in .csv"),
    ("a.csv", b"text,class\nw1,x\n", ["--delimiter", ";"], r"if its delimiter is ',', leave --delimiter ';' out"),
    ("a.csv", b"text,class\nw1,x\n", ["--delimiter", ";;"], r"--delimiter ';;' is no delimiter; .* as --delimiter ';'"),
    ("a.csv", b"text,class\nw1,x\n", ["--delimiter", '"'], r"""--delimiter '"' is no delimiter"""),
    (
        "a.txt",
        b"w1\n",
        ["--delimiter", ";"],
        r"is no table \(.csv, .tsv\), so --delimiter ';' does not apply; leave it out",
    ),
    ("a.csv", b"id,body\n1,w1\n", [], r"no column 'text'; its columns are id, body: name one with --column"),
    ("a.csv", b"text,text\nw1,w2\n", [], r"column 'text' twice"),
    ("a.csv", b"id,text\n1,w1, w2\n", [], r"has 3 fields in line 2"),
    ("a.csv", b'id,text\n1,"w1\n', [], r"is not a readable table"),
    ("a.csv", b"id,text\n", [], r"has no documents"),
    ("a.jsonl", b'{"body": "w1"}\n', [], r"there are body: name one with --column"),
    ("a.jsonl", b'{"text": 3}\n', [], r"has a int as 'text'"),
    ("a.jsonl", b'{"text": "\\ud83d"}\n', [], r"half a surrogate pair"),
    ("a.jsonl", b"[]\n", [], r"write one object a line"),
    ("a.jsonl", b"{\n", [], r"has no JSON in line 1"),
    ("a.txt", b"w1\n", ["--column", "body"], r"has no columns, so --column does not apply; leave it out"),
    ("a.txt", b"", [], r"^file='.*a.txt' is empty"),
    ("a.txt", b"\xff\xfew\0", [], r"is UTF-16"),
    ("a.txt", b"w\xff", [], r"is not UTF-8 in line 1"),
    ("a.txt", b"w\0", [], r"has a NUL"),
    ("a.docx", b"PK", [], r"ends in none of .txt, .csv"),
    ("none.txt", None, [], r"is not there"),
    ("", None, [], r"file='' is not a path"),
    ("a.txt", b"w1\n", ["--to", ""], r"--to='' is not a path"),
    ("a.txt", b"w1\n", ["--to", "."], r"--to='.' is no file"),
    ("a.txt", b"w1\n", ["--to", "/dev/null"], r"--to='/dev/null' is no file"),
    ("a.txt", b"w1\n", ["--to", "no/such/folder.csv"], r"--to='no/such/folder.csv' cannot be written \(No such file"),
    ("a.txt", b"w1\n", ["--encoder", ""], r"a model's path='' is not a path.*--encoder"),
    ("a.txt", b"w1\n", ["--encoder", "./none"], r"model './none' is not a directory.*--encoder DIR"),
]


@pytest.mark.parametrize(("name", "content", "options", "match"), BROKEN)
def test_no_message_names_a_key_of_a_run(
    name: str, content: bytes | None, options: list[str], match: str, ask: Callable[..., str]
) -> None:
    """Prevents: a way out that this command does not have, as task.load.text_column; a traceback; a document read as
    another.
    """
    message = ask(name, content, *options)
    assert re.search(match, message), message
    assert not FOREIGN.search(message) and "\n" not in message


@pytest.mark.parametrize(
    "damage", ["none", "config.json", "vocabulary.txt", "short", "encoder.json", "moved", "width", "counts"]
)
def test_broken_students_are_told_so_too(damage: str, ask: Callable[..., str], shipped: Path, encoder: Path) -> None:
    """Prevents: an IndexError for a vocabulary that was cut off; a moved encoder without the option that says where it
    is.
    """
    if damage == "none":
        message = ask("a.txt", b"w1\n", student="")
        assert message.startswith("student='' is not a path")
        return
    if damage in ("config.json", "vocabulary.txt", "encoder.json"):
        (shipped / damage).unlink()
    elif damage == "short":
        (shipped / "vocabulary.txt").write_text("boat\n")
    elif damage == "moved":
        shutil.move(encoder, shipped / "elsewhere")
    elif damage == "width":
        save(TopicModel(Shape(6, 3, 8, 0, False)), shipped)
    else:
        save(TopicModel(Shape(6, 3, 16, 0, True)), shipped)
    message = ask("a.txt", b"w1\n")
    expected = {
        "config.json": "holds no topic model",
        "short": "vocabulary.txt has 1 words, the model 6",
        "moved": "--encoder DIR",
        "width": "--encoder DIR",
        "counts": "reads word counts",
    }
    assert re.search(expected.get(damage, "is not a whole student"), message), message
    assert not FOREIGN.search(message) and "\n" not in message
    if damage == "moved":
        assert ask("a.txt", b"w1\n", "--encoder", str(shipped / "elsewhere")).startswith("document,topic")


@pytest.mark.parametrize(
    ("name", "content", "option"),
    [
        ("a.csv", "body;class\r\nw1, w2;x\r\nw3;y\r\n", ["--column", "body"]),
        ("a.csv", "class|text\nx|w1, w2\ny|w3\n", []),
        ("a.csv", 'body,class\n"w1, w2",x\nw3,y\n', []),
        ("a.jsonl", '{"body": "w1, w2"}\n{"body": "w3"}\n', []),
        ("a.csv", "text\tclass\nw1, w2\tx\nw3\ty\n", []),
        ("a.txt", "w1, w2\nw3\n", ["--column", "body"]),
    ],
)
def test_the_way_out_works(name: str, content: str, option: list[str], ask: Callable[..., str], tmp_path: Path) -> None:
    """Prevents: an option that is named and does not help."""
    expected = ask("expected.txt", b"w1, w2\nw3\n")
    message = ask(name, content.encode(), *option)
    while not message.startswith("document"):
        if delimiter := re.search(r"give (--delimiter '.')", message):
            option = [*option, *shlex.split(delimiter[1])]
        elif ending := re.search(r"ends in (\.\w+)", message):
            name = f"a{ending[1]}"
        elif "does not apply; leave it out" in message:
            option = []
        else:
            assert "name one with --column" in message and "--column" not in option, message
            option = [*option, "--column", "body"]
        message = ask(name, content.encode(), *option)
    assert message == expected and len(list(csv.reader(message.splitlines()))) == 3


def test_a_run_names_its_own_settings(tmp_path: Path) -> None:
    """Prevents: options of the other command here; a table with semicolons that a run cannot read at all."""
    rows = [f"w{chr(97 + i % 5) * 2} ship, {i};{'ab'[i % 2]}" for i in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(["body;class", *rows]))
    with pytest.raises(UserError, match="""task.load.path='.*a.csv' has no ',' in its header""") as caught:
        load_corpus(str(tmp_path / "a.csv"), text_column="body", label_column="class")
    found = re.search(r"give ('\S+')$", str(caught.value))
    assert found
    columns = "task.load.text_column=body task.load.label_column=class task.load.min_documents=1"
    made = typed(tmp_path, [], f"task.load.path={tmp_path / 'a.csv'}", columns, found[1])
    assert len(made) == 20 and made.label_names == ("a", "b")
    with pytest.raises(
        UserError, match="no column 'text'; its columns are body, class: name one with task.load.text_column"
    ):
        load_corpus(str(tmp_path / "a.csv"), delimiter=";")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["list", "--dir", "none"], "there is no cache 'none'; give --dir DIR, or set RWKD_CACHE"),
        (["list", "--dir", ""], "--dir='' is not a path"),
        (["list", "--dir", "~nobody-of-this-name/x"], "--dir='~nobody-of-this-name/x': there is no user"),
        (["clear", "--dir", "none"], "there is no cache 'none'"),
        (["clear", "--dir", ".", "teachers"], "'teachers' is no kind and no hash"),
        (["clear", "--dir", ".", "--older-than", "soon"], "--older-than: 'soon' is no number of days; give 0 or more"),
        (["clear", "--dir", ".", "--older-than", "nan"], "--older-than: 'nan' is no number of days"),
    ],
)
def test_the_caches_command_names_its_own_too(
    arguments: list[str],
    match: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Prevents: a traceback for a mistyped folder, and a setting of a run where --dir is meant."""
    monkeypatch.chdir(tmp_path)
    try:
        assert cache.main(arguments) == 1
    except SystemExit as stopped:  # argparse's own
        assert stopped.code == 2
    message = capsys.readouterr().err
    assert match in message and not FOREIGN.search(message)


def test_a_file_that_cannot_be_replaced_stays(ask: Callable[..., str], tmp_path: Path) -> None:
    """Prevents: half a table, or what a failed one left beside it."""
    (tmp_path / "old.csv").write_text("old")
    assert "has no documents" in ask("a.csv", b"text\n", "--to", str(tmp_path / "old.csv"))
    assert (tmp_path / "old.csv").read_text() == "old"
    assert ask("a.txt", b"w1\n", "--to", str(tmp_path / "old.csv")) == ""
    assert (tmp_path / "old.csv").read_text().startswith("document") and not list(tmp_path.glob(".*"))
