import dataclasses

import numpy as np
import pytest
import torch

from rwkd_lightning.systems.text.data.glue import GLUE
from rwkd_lightning.systems.text.data.leaderboard import write_predictions
from rwkd_lightning.utils.errors import UserError

FILES = {  # what GLUE's site expects: (name, the predictions of classes 0, 1, ...)
    ("cola", "test"): ("CoLA.tsv", "0 1"),
    ("sst2", "test"): ("SST-2.tsv", "0 1"),
    ("mrpc", "test"): ("MRPC.tsv", "0 1"),
    ("qqp", "test"): ("QQP.tsv", "0 1"),
    ("mnli", "test_matched"): ("MNLI-m.tsv", "entailment neutral contradiction"),
    ("mnli", "test_mismatched"): ("MNLI-mm.tsv", "entailment neutral contradiction"),
    ("mnli", "ax"): ("AX.tsv", "entailment neutral contradiction"),
    ("qnli", "test"): ("QNLI.tsv", "entailment not_entailment"),
    ("rte", "test"): ("RTE.tsv", "entailment not_entailment"),
    ("stsb", "test"): ("STS-B.tsv", ""),
    ("wnli", "test"): ("WNLI.tsv", "0 1"),
}


def task(name):
    hidden = tuple(split for of, split in FILES if of == name)
    return dataclasses.replace(GLUE[name], hidden_splits=hidden)


def test_each_task_has_its_files():
    """Prevents a task whose predictions nobody can hand in."""
    assert {of for of, _ in FILES} == set(GLUE)


@pytest.mark.parametrize(("name", "split"), list(FILES))
def test_the_file_that_the_site_expects(name, split, tmp_path):
    """Prevents a submission with shifted rows, swapped classes or numbers where the site wants words."""
    file, words = FILES[name, split]
    if name == "stsb":
        logits = torch.tensor([[2.34567], [-0.2], [5.1], [5.0], [0.0004]])
        expected = ["2.346", "0.000", "5.000", "5.000", "0.000"]
    else:
        classes = torch.tensor([1, 0, 0, 1, GLUE[name].num_labels - 1])
        logits = torch.nn.functional.one_hot(classes, GLUE[name].num_labels) - 3.5
        expected = [words.split()[c] for c in classes]
    gaps = np.array([0, 1, 4, 5, 9])  # idx of mrpc has gaps; the site counts lines
    path = write_predictions(tmp_path / "new", task(name), split, gaps, logits)
    assert path == tmp_path / "new" / file and list(path.parent.iterdir()) == [path]
    assert path.read_bytes().decode() == "index\tprediction\n" + "".join(
        f"{i}\t{word}\n" for i, word in enumerate(expected)
    )


def test_predictions_that_mean_nothing_are_refused(tmp_path):
    """Prevents a plausible file of other rows, of an untrained student or of a split that the site does not score."""
    rte, idx, logits = task("rte"), np.arange(3), torch.zeros(3, 2)
    nan = logits.clone()
    nan[1, 0] = float("nan")
    for arguments, words in (
        ((rte, "validation", idx, logits), "'validation'"),
        ((rte, "test", idx[::-1], logits), "row idx 1 after 2"),
        ((rte, "test", idx, nan), "row idx 1"),
        ((task("mnli"), "test", idx, torch.zeros(3, 3)), "'test' of task 'mnli'"),
    ):
        with pytest.raises(UserError, match=words):
            write_predictions(tmp_path, *arguments)
    with pytest.raises(ValueError, match="expected"):
        write_predictions(tmp_path, rte, "test", idx, torch.zeros(4, 2))
    assert not list(tmp_path.iterdir())


def test_a_broken_write_leaves_the_old_file(tmp_path, monkeypatch):
    """Prevents half a file that looks like a whole one."""
    path = write_predictions(tmp_path, task("rte"), "test", np.arange(2), torch.eye(2))
    before = path.read_text()

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        write_predictions(tmp_path, task("rte"), "test", np.arange(3), torch.zeros(3, 2))
    assert path.read_text() == before
