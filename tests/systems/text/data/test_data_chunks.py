"""What is done chunk by chunk, so that memory does not grow with the rows, gives what doing all at once gives."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F

from rwkd_lightning.cache.store import Store
from rwkd_lightning.run import outputs as artefacts
from rwkd_lightning.systems.text.data import encoding, task
from rwkd_lightning.systems.text.data.collate import EncodedSplit
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.token_file import write_tokens
from rwkd_lightning.systems.text.export import teacher_ce
from rwkd_lightning.training.ledger import Ledger
from rwkd_lightning.utils.errors import UserError


def test_tokens_of_many_chunks(make_data, tokenizer, tmp_path, monkeypatch):
    """Prevents rows that are lost, doubled or shifted where one chunk of the kept tokens ends, or cuts counted of one
    alone.
    """
    data = make_data(columns=("one", "two"))
    whole = encoding.encode(data.splits["train"], tokenizer, ("one", "two"), 12)
    monkeypatch.setattr(encoding, "_CHUNK", 7)
    for table in (
        encoding.encode_kept(data, "train", tokenizer, 12, Store(tmp_path)),
        encoding.encode(data.splits["train"], tokenizer, ("one", "two"), 12),
    ):
        assert table.equals(whole) and table.schema.equals(whole.schema, check_metadata=True)
        assert int(table.schema.metadata[b"cut"]) > 0
    (file,) = tmp_path.glob("tokens/*/tokens.arrow")
    with pa.memory_map(str(file)) as source:
        assert pa.ipc.open_file(source).num_record_batches == 1  # several would be copied together in every process
    assert {path.name for path in file.parent.iterdir()} == {"tokens.arrow", "key.json"}


def test_columns_of_different_lengths(tmp_path):
    """Prevents token types that belong to other tokens."""
    table = pa.table({"input_ids": [[1, 2], [3]], "token_type_ids": [[0, 0], [0, 0]]})
    with pytest.raises(ValueError, match="token_type_ids has 4 tokens, input_ids 3"):
        write_tokens(tmp_path / "tokens.arrow", [(table, 0)])


def test_rows_of_a_cut_out_table(make_data, tokenizer):
    """Prevents the tokens of other rows where a table is a part of a larger one, or a row is counted from the end."""
    table = encoding.encode(make_data().splits["train"], tokenizer, ("text",), 12)
    part = EncodedSplit(table.slice(5, 9), torch.zeros(9))
    expected = table["input_ids"].to_pylist()[5:14]
    assert [part[i]["input_ids"].tolist() for i in range(9)] == expected
    assert part.lengths.tolist() == list(map(len, expected))
    assert part[-1]["input_ids"].tolist() == expected[-1] and part[-1]["index"] == 8
    with pytest.raises(IndexError):
        part[9]


def test_checks_of_many_chunks(make_data, monkeypatch):
    """Prevents a fingerprint, and with it every cache, that depends on the chunks; and leaks in all but the first of
    them.
    """
    expected = make_data(columns=("one", "two")).fingerprint("train")

    def leaks(splits):
        for row, place in enumerate((2, 20, 44, 43)):  # the last one twice
            splits["meta"]["text"][min(row, 2)] = splits["train"]["text"][place]
            splits["train"]["text"][43] = splits["train"]["text"][44]

    monkeypatch.setattr(task, "_CHUNK", 7)
    assert make_data(columns=("one", "two")).fingerprint("train") == expected
    with pytest.raises(
        UserError, match=r"has 3 row\(s\) whose text is in 'train' too, the first with row idx 200 there and 102"
    ):
        make_data(change=leaks)


def test_weights_in_row_groups(make_data, tokenizer, tmp_path, monkeypatch):
    """Prevents rows of weights.parquet that are lost, doubled or another sample's where one row group ends."""
    data = make_data()
    logits = torch.randn(45, 3)
    loaders = DistillationDataModule(data, tokenizer, label_noise=0.4, teacher_logits={"train": logits})
    ledger = Ledger(45, ("ce", "kd"))
    weights, losses, valid, influence, _, _ = ledger.parts()
    for table in (weights, losses, influence):
        table.copy_(torch.randn(45, 2))
    ledger.visits.copy_(torch.arange(45) % 3 + 1)
    ledger.meta_visits.fill_(1)
    valid.fill_(1)
    valid[11, 0] = 0  # a row without a label
    ledger.visits[[5, 30]] = ledger.meta_visits[[5, 30, 31]] = (
        0  # two that no step has seen, and one that no meta step has
    )
    monkeypatch.setattr(artefacts, "ROW_GROUP", 10)
    columns = artefacts.write_weights(tmp_path / "weights.parquet", ledger, loaders, teacher_ce(loaders))
    assert pyarrow.parquet.read_metadata(tmp_path / "weights.parquet").num_row_groups == 5
    found = pyarrow.parquet.read_table(tmp_path / "weights.parquet")
    labels = loaders.train_labels
    expected = {
        "idx": np.array(data.splits["train"]["idx"]),
        "split": ["train"] * 45,
        "label": labels.numpy(),
        "label_flipped": (labels != torch.tensor(data.splits["train"]["label"])).numpy(),
        "teacher_corrupted": np.zeros(45, dtype=bool),
        "visits": ledger.visits.int().numpy(),
    }
    for kind, table, missing in (
        ("w", ledger.weights, {5, 30}),
        ("loss", ledger.losses, {5, 30}),
        ("influence", ledger.influence, {5, 30, 31}),
    ):
        for k, term in enumerate(("ce", "kd")):
            nulls = missing | ({11} if term == "ce" else set())
            expected[f"{kind}_{term}"] = pa.array(
                [None if row in nulls else x for row, x in enumerate(table[:, k].tolist())], pa.float32()
            )
    assert found.drop_columns("loss_teacher_ce").equals(pa.table(expected))
    np.testing.assert_allclose(found["loss_teacher_ce"], F.cross_entropy(logits, labels, reduction="none"), rtol=1e-6)
    assert set(columns) | {"split"} == set(found.column_names) and len(columns["w_kd"]) == 45
