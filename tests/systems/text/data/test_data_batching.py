import itertools
import warnings
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch

from rwkd_lightning.data.batching import BucketBatchSampler, LengthSortedBatchSampler, MetaStream
from rwkd_lightning.systems.text.data.collate import Collator, EncodedSplit
from rwkd_lightning.systems.text.data.encoding import encode
from rwkd_lightning.utils.errors import UserError

LENGTHS = np.random.default_rng(0).integers(1, 40, size=103)


@pytest.fixture
def split(make_data, tokenizer):
    data = make_data(columns=("one", "two"))
    rows = encode(data.splits["train"], tokenizer, ("one", "two"), 12)
    return EncodedSplit(rows, torch.tensor(data.splits["train"]["label"]), {"teacher_logits": torch.randn(45, 3)})


def test_encoding_equals_the_tokenizer_and_reports_cuts(make_data, tokenizer, caplog):
    """Prevents lost second sentences, and cut texts that nobody hears of."""
    rows = make_data(columns=("one", "two")).splits["train"]
    with caplog.at_level("INFO"):
        encoded = encode(rows, tokenizer, ("one", "two"), 12, name="train")
    for row, text in zip(encoded.to_pylist(), rows, strict=True):
        expected = tokenizer(text["one"], text["two"], truncation=True, max_length=12)
        assert row == {key: expected[key] for key in ("input_ids", "token_type_ids")}
    cut = sum(len(tokenizer(r["one"], r["two"])["input_ids"]) > 12 for r in rows)
    assert 0 < cut < 45 and f"train: {100 * cut / 45:.1f}% of 45 rows cut" in caplog.text


@pytest.mark.parametrize("max_length", [4, 129])
def test_max_length_out_of_range(make_data, tokenizer, max_length):
    """Prevents rows of special tokens alone, and positions that the model has no embedding for."""
    with pytest.raises(UserError, match="data.max_length"):
        encode(make_data(columns=("one", "two")).splits["meta"], tokenizer, ("one", "two"), max_length)


@pytest.mark.parametrize("side", ["right", "left"])
def test_collator_pads_as_the_tokenizer_does(split, tokenizer, side):
    """Prevents attention to padding, and labels or teacher logits of other rows."""
    numbers = [5, 0, 44, 17]
    tokenizer.padding_side = side
    try:
        batch = Collator(tokenizer)([split[i] for i in numbers])
        keys = ("input_ids", "token_type_ids")
        expected = tokenizer.pad({key: [split[i][key].tolist() for i in numbers] for key in keys}, return_tensors="pt")
    finally:
        tokenizer.padding_side = "right"
    for key, value in expected.items():
        assert torch.equal(batch[key], value)
    assert batch["index"].tolist() == numbers and torch.equal(batch["labels"], split.labels[numbers])
    assert torch.equal(batch["teacher_logits"], split.extras["teacher_logits"][numbers])


def test_batches_of_mapped_memory_are_the_readers_own(split, tokenizer):
    """Prevents a warning for each run, and a write into a batch that reaches the tokens of all runs."""
    for flat in split.tokens.values():
        assert not flat.flags.writeable
    before = split[3]["input_ids"].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = Collator(tokenizer)([split[3], split[4]])
    batch["input_ids"].zero_()
    assert split[3]["input_ids"].tolist() == before and batch["input_ids"].dtype == torch.long


def test_each_row_once_an_epoch_in_an_order_of_seed_and_epoch():
    """Prevents lost or doubled rows, and a resumed run that sees another order."""
    sampler = BucketBatchSampler(LENGTHS, 8, seed=3, pool_factor=4)
    orders = []
    for epoch in (0, 1, 0):
        sampler.sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(itertools.chain(*orders[-1])) == list(range(103)) and len(orders[-1]) == len(sampler) == 13
        assert Counter(map(len, orders[-1])) == {8: 12, 7: 1}
    assert orders[0] == orders[2] != orders[1]
    spread = np.mean([np.ptp(LENGTHS[batch]) for batch in orders[0]])
    assert spread < 0.5 * np.mean([np.ptp(LENGTHS[i : i + 8]) for i in range(0, 103, 8)])


def test_processes_together_see_the_batch_of_one_process():
    """Prevents that all processes train on the same rows, or stop at different steps."""
    one = list(BucketBatchSampler(LENGTHS, 8, seed=3))
    ranks = [list(BucketBatchSampler(LENGTHS, 4, seed=3, num_replicas=2, rank=rank)) for rank in (0, 1)]
    for whole, left, right in zip(one, *ranks, strict=True):
        assert set(whole) == {*left, *right} and len(left) == len(right) == -(-len(whole) // 2)


def test_sorted_sampler():
    """Prevents that evaluation skips or repeats rows."""
    batches = list(LengthSortedBatchSampler(LENGTHS, 10))
    order = list(itertools.chain(*batches))
    assert sorted(order) == list(range(103)) and len(batches) == 11
    assert (np.diff(LENGTHS[order]) <= 0).all()


@pytest.mark.parametrize("size", [4, 45, 100])
def test_meta_stream_is_a_function_of_the_step(split, tokenizer, size):
    """Prevents a meta order that restarts on resume, and rows used more often than others."""
    stream = MetaStream(split, Collator(tokenizer), size, seed=5)
    steps = 3 * 45  # whole cycles for every size
    rows = [stream.rows(t) for t in range(steps)]
    flat = list(itertools.chain(*rows))
    cycles = [tuple(flat[i : i + 45]) for i in range(0, len(flat), 45)]
    assert all(sorted(cycle) == list(range(45)) for cycle in cycles)
    assert len(set(cycles)) == len(cycles)
    fresh = MetaStream(split, Collator(tokenizer), size, seed=5)
    assert fresh[7]["index"].tolist() == rows[7] and fresh[2]["index"].tolist() == rows[2]
    assert MetaStream(split, Collator(tokenizer), size, seed=6).rows(0) != rows[0]
    with pytest.raises(IndexError):
        stream[-1]
    assert sorted(torch.cat([batch["index"] for batch in stream.all(10)]).tolist()) == list(range(45))


def test_meta_batches_hold_rows_of_similar_length(tokenizer):
    """Prevents a refresh of the bank that pays for padding: with rows in any order a third of a batch of tweets is
    padding.
    """
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 60, 203)
    rows = pa.table({"input_ids": pa.array([np.ones(n, dtype=np.int64) for n in lengths])})
    stream = MetaStream(EncodedSplit(rows, torch.zeros(203)), Collator(tokenizer), 8, seed=5)
    for cycle in range(3):
        steps = [t for t in range(100) if cycle * 203 <= t * 8 and (t + 1) * 8 <= (cycle + 1) * 203]
        batches = [lengths[stream.rows(t)] for t in steps]
        padded = sum(batch.max() * 8 for batch in batches)
        assert padded < 1.1 * sum(batch.sum() for batch in batches)
        assert np.corrcoef(range(len(batches)), [b.mean() for b in batches])[0, 1] ** 2 < 0.3  # not from short to long


def test_split_refuses_extras_of_another_length(make_data, tokenizer):
    """Prevents that row i gets the teacher logits of another row."""
    rows = encode(make_data().splits["train"], tokenizer, ("text",), 12)
    for extras in ({"teacher_logits": torch.zeros(44, 3)}, {"labels": torch.zeros(45)}):
        with pytest.raises(ValueError):
            EncodedSplit(rows, torch.zeros(45), extras)
