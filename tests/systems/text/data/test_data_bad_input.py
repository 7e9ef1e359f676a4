"""Every row of docs/bad_input.md about data, broken on purpose."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rwkd_lightning.systems.text.data.glue import load_glue
from rwkd_lightning.systems.text.data.task import TaskData
from rwkd_lightning.systems.text.data.tweets import load_tweets
from rwkd_lightning.utils.errors import UserError

TRAIN = "rte/train-00000-of-00001.parquet"
VALIDATION = "rte/validation-00000-of-00001.parquet"
STSB = "stsb/train-00000-of-00001.parquet"
SIZES = {"teacher_train": 9, "train": 9, "meta": 12, "validation": 3, "test": 3}


@pytest.fixture
def root(tmp_path):
    """A good rte and stsb of 40 rows and a good tweets file of 60."""
    for file, n, top in (
        (TRAIN, 40, 1),
        (VALIDATION, 8, 1),
        (STSB, 40, 5.0),
        (STSB.replace("train", "validation"), 8, 5.0),
    ):
        texts = {f"sentence{k}": [f"{file} {k} {i}" for i in range(n)] for k in (1, 2)}
        (tmp_path / file).parent.mkdir(exist_ok=True)
        labels = [i % 2 * top for i in range(n)]
        pq.write_table(pa.table({**texts, "label": labels, "idx": list(range(n))}), tmp_path / file)
    words = ("negative", "neutral", "positive")
    lines = ["sentiment,confidence,text", *(f"{words[i % 3]},1.0,caf\xe9 {i}" for i in range(60))]
    (tmp_path / "tweets.csv").write_bytes("\n".join(lines).encode("latin-1"))
    return tmp_path


def rte(root):
    return load_glue("rte", path=str(root), meta_fraction=0.2)


def stsb(root):
    return load_glue("stsb", path=str(root), meta_fraction=0.2)


def tweets(root):
    return load_tweets(str(root / "tweets.csv"), SIZES)


def joined_with_leak(root):
    data = rte(root)
    return TaskData(data.task, data.splits | {"meta": data.splits["train"].select(range(5))})


def edit(file, change):
    """Rewrite the columns of `file`."""

    def rewrite(root):
        columns = pq.read_table(root / file).to_pydict()
        change(columns)
        pq.write_table(pa.table(columns), root / file)

    return rewrite


def put(name, row, value, file=TRAIN):
    return edit(file, lambda columns: columns[name].__setitem__(row, value))


def original_layout(root):
    (root / TRAIN).unlink()
    (root / VALIDATION).unlink()
    (root / "rte").rmdir()
    (root / "RTE").mkdir()
    (root / "RTE" / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n")


def half_parquet(root):
    content = (root / TRAIN).read_bytes()
    (root / TRAIN).write_bytes(content[: len(content) // 2])


def wrong_encoding(root):
    table = pq.read_table(root / TRAIN)
    texts = table["sentence2"].cast(pa.binary()).to_pylist()
    texts[3] = "caf\xe9".encode("latin-1")
    broken = pa.chunked_array([pa.array(texts, pa.binary()).view(pa.string())])
    pq.write_table(table.set_column(table.column_names.index("sentence2"), "sentence2", broken), root / TRAIN)


def reencode(encoding):
    def rewrite(root):
        text = (root / "tweets.csv").read_bytes().decode("latin-1")
        (root / "tweets.csv").write_bytes(text.encode(encoding))

    return rewrite


def nul_in_tweets(root):
    lines = (root / "tweets.csv").read_bytes().split(b"\n")
    lines[6] += b"\0"
    (root / "tweets.csv").write_bytes(b"\n".join(lines))


def unchanged(root):
    pass


CASES = {
    # id: (breaks the good files, loads them, what the message must say)
    "missing_column": (
        edit(TRAIN, lambda c: c.pop("label")),
        rte,
        ["'train'", "no column 'label'", "'sentence2', 'idx'"],
    ),
    "misnamed_column": (
        edit(TRAIN, lambda c: c.update(sentence_1=c.pop("sentence1"))),
        rte,
        ["'train'", "no column 'sentence1'", "is 'sentence_1' meant?"],
    ),
    "label_out_of_range": (put("label", 7, 2), rte, ["'train'", "label 2", "row idx 7", "0 to 1"]),
    "score_out_of_range": (put("label", 7, 5.5, STSB), stsb, ["'train'", "label 5.5", "row idx 7", "0 to 5"]),
    "labels_as_words": (
        edit(TRAIN, lambda c: c.update(label=["entailment" if y else "neutral" for y in c["label"]])),
        rte,
        ["'train'", "string", "'label'", "first 'neutral'", "0 (entailment) or 1 (not_entailment)"],
    ),
    "no_label": (put("label", 7, None), rte, ["'train'", "no label", "row 7", "-1: the teacher alone"]),
    "empty_split": (
        lambda root: pq.write_table(pq.read_table(root / VALIDATION).slice(0, 0), root / VALIDATION),
        rte,
        ["'validation'", "is empty"],
    ),
    "one_class": (edit(TRAIN, lambda c: c.update(label=[1] * 40)), rte, ["'train'", "only the labels [1]"]),
    "meta_without_a_class": (
        edit(TRAIN, lambda c: c.update(label=[0] * 39 + [1])),
        rte,
        ["'meta'", "no row of label 1", "row idx 39"],
    ),
    "duplicates_across_train_and_meta": (unchanged, joined_with_leak, ["'meta'", "5 row(s)", "'train'", "row idx"]),
    "empty_text": (
        edit(TRAIN, lambda c: [c[name].__setitem__(5, " ") for name in ("sentence1", "sentence2")]),
        rte,
        ["'train'", "white space", "row idx 5"],
    ),
    "no_text": (put("sentence2", 5, None), rte, ["'train'", "None", "'sentence2'", "row idx 5"]),
    "nul_bytes": (put("sentence2", 5, "c\0a\0"), rte, ["'train'", "NUL", "'sentence2'", "row idx 5", "UTF-16"]),
    "nul_bytes_in_tweets": (nul_in_tweets, tweets, ["tweets.csv", "NUL", "line 7"]),
    "wrong_encoding": (wrong_encoding, rte, ["'train'", "not UTF-8", "'sentence2'", "row idx 3"]),
    "tweets_in_utf8": (reencode("utf-8"), tweets, ["tweets.csv", "is UTF-8", "iconv -f utf-8 -t latin-1"]),
    "tweets_in_utf16": (reencode("utf-16"), tweets, ["tweets.csv", "is UTF-16", "iconv -f utf-16 -t latin-1"]),
    "other_layout": (original_layout, rte, ["rte/train-*.parquet", "only RTE/train.tsv", "nyu-mll/glue"]),
    "missing_split": (lambda root: (root / VALIDATION).unlink(), rte, ["rte/validation-*.parquet", f"only {TRAIN}"]),
    "missing_shard": (
        lambda root: (root / TRAIN).rename(root / "rte/train-00000-of-00002.parquet"),
        rte,
        ["1 of 2 files rte/train-*"],
    ),
    "half_parquet": (half_parquet, rte, [TRAIN, "not a whole Parquet file"]),
}


def test_the_good_files_load(root):
    """Prevents that every case below fails for another reason than its own."""
    assert len(rte(root).splits["validation"]) == len(stsb(root).splits["validation"]) == 8
    assert len(tweets(root).splits["meta"]) == 12


@pytest.mark.parametrize("case", list(CASES))
def test_bad_data(root, case):
    """Prevents training on broken data, and a traceback in place of what to mend."""
    damage, load, words = CASES[case]
    damage(root)
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    with pytest.raises(UserError) as error:
        load(root)
    message = str(error.value)
    print(message.replace(str(root), "DIR"))
    assert all(word in message for word in words), message
    assert "\n" not in message and message.isprintable()
    assert {file: file.read_bytes() for file in root.rglob("*") if file.is_file()} == before


def test_the_document_names_every_case():
    """Prevents a promise in docs/bad_input.md that no test keeps, a case that nobody can look up and a message of
    old.
    """
    document = (Path(__file__).parents[4] / "docs" / "bad_input.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)(?:\[([^]]+)\])?`", document)
    assert [case for file, test, case in named if (file, test) == (Path(__file__).name, "test_bad_data")] == list(CASES)
    for case, (_, _, words) in CASES.items():
        (row,) = (line for line in document.splitlines() if f"::test_bad_data[{case}]`" in line)
        assert all(word in row for word in words), row
    tests = Path(__file__).parents[3]
    for file, test, _ in named:
        sources = list(tests.rglob(file))
        assert len(sources) == 1 and f"def {test}(" in sources[0].read_text(), f"{file}::{test}"
