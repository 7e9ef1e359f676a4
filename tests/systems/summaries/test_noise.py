"""Noise on documents, the bank's draws, and the rows of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rwkd_lightning.systems.summaries.along import NoisyTeacher
from rwkd_lightning.systems.summaries.bank import TokenBank, drawn
from rwkd_lightning.systems.summaries.corruption import dealt
from rwkd_lightning.systems.summaries.datamodule import Pairs, together
from rwkd_lightning.systems.summaries.noise import SourceNoise, sentence_ends, shuffled


def test_noise_depends_on_seed_epoch_and_row_alone() -> None:
    """Prevents: a resumed run that reads other documents than the whole one."""
    ids = np.arange(10, 60)
    noise = SourceNoise(0.2, 2, frozenset({19, 29, 39}), seed=3)
    first = noise(ids, 1, 7)
    np.random.default_rng(0).random(5)
    noise(ids, 2, 8)
    assert np.array_equal(first, noise(ids, 1, 7))
    others = [noise(ids, 2, 7), noise(ids, 1, 8), SourceNoise(0.2, 2, frozenset({19, 29, 39}), seed=4)(ids, 1, 7)]
    assert not any(np.array_equal(first, other) for other in others)


def test_tokens_are_dropped_at_their_rate_and_special_ones_stay() -> None:
    """Prevents: a document without its end, or without any token."""
    ids = np.array([0, *range(10, 60), 2])
    noise = SourceNoise(0.1, special=frozenset({0, 2}))
    found = [noise(ids, 0, row) for row in range(400)]
    assert all(row[0] == 0 and row[-1] == 2 and set(row) <= set(ids) for row in found)
    assert abs(np.mean([1 - (len(row) - 2) / 50 for row in found]) - 0.1) < 0.01
    assert all(len(SourceNoise(0.99)(np.array([5, 6]), 0, row)) >= 1 for row in range(200))
    assert np.array_equal(SourceNoise(0.9, special=frozenset({0, 2}))(np.array([0, 2]), 0, 0), [0, 2])


def test_a_sentence_moves_by_few_places_and_stays_whole() -> None:
    """Prevents: words of two sentences mixed, or an order without a bound."""
    words = np.concatenate([[100 + i, 200 + i, 9] for i in range(10)])
    moves = set()
    for seed in range(300):
        found = shuffled(words, {9}, 2, np.random.default_rng(seed)).reshape(10, 3)
        assert all(b == a + 100 and end == 9 for a, b, end in found)
        moves |= {int(place - (a - 100)) for place, a in enumerate(found[:, 0])}
    assert moves == {-2, -1, 0, 1, 2}


def test_sentence_ends_are_found_under_any_mark_of_a_space() -> None:
    """Prevents: documents of one sentence, for a vocabulary that writes a space before the stop."""
    assert sentence_ends({".": 1, "Ġ.": 2, "▁.": 3, "a.": 4, "?": 5}) == {1, 2, 3, 5}


def test_a_batch_holds_what_the_teacher_says_of_each_token() -> None:
    """Prevents: answers for another token than the label beside them; −100 or −1 in an embedding."""
    targets = [np.array([3, 4, 2]), np.array([5, 2]), np.array([6, 7, 8, 2])]
    taught = {"gold": torch.arange(9).half(), "top_ids": torch.arange(18, dtype=torch.int32).reshape(9, 2)}
    pairs = Pairs([np.array([1, 2])] * 3, targets, start=1, pad=0, taught=taught)
    batch = pairs.batch([2, 1], [0, 0])
    assert batch["labels"].tolist() == [[6, 7, 8, 2], [5, 2, -1, -1]]
    assert batch["decoder_input_ids"].tolist() == [[1, 6, 7, 8], [1, 5, 2, 0]]
    assert batch["teacher_gold"].tolist() == [[5, 6, 7, 8], [3, 4, 0, 0]]
    assert batch["teacher_top_ids"][1].tolist() == [[6, 7], [8, 9], [0, 0], [0, 0]]
    assert batch["length_share"].tolist() == pytest.approx([4 / 3, 2 / 3])


def test_a_teacher_that_runs_along_draws_by_batch_and_visit_alone() -> None:
    """Prevents: another noise in a resumed run; a teacher that moves the student's dropout, or reads its noise."""
    pairs = Pairs([np.array([4, 2])] * 3, [np.array([3, 2])] * 3, 1, 0, clean=[np.array([5, 6, 2])] * 3)

    class Drops(torch.nn.Module):
        def forward(self, batch: Any) -> dict[str, torch.Tensor]:
            assert batch["input_ids"][0].tolist() == [5, 6, 2]
            return {"logits": F.dropout(torch.ones(2, 2, 8), 0.5, self.training)}

    drops: Any = Drops()
    teacher = NoisyTeacher(drops, True, 3)
    before = torch.get_rng_state()
    asked = (([0, 1], [1, 1]), ([0, 2], [1, 1]), ([0, 1], [2, 2]))
    first, other, later = (teacher(pairs.batch(rows, visits))["logits"] for rows, visits in asked)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, teacher(pairs.batch([0, 1], [1, 1]))["logits"])
    assert not torch.equal(first, other) and not torch.equal(first, later)
    assert bool((NoisyTeacher(drops, False, 3)(pairs.batch([0, 1], [0, 0]))["logits"] == 1).all())


def test_rows_of_similar_lengths_stand_together() -> None:
    """Prevents: batches of which most is padding, of one side or the other."""
    draw = np.random.default_rng(0)
    documents, targets = draw.integers(1, 129, 2000), np.minimum(48, 5 + draw.exponential(10, 2000).astype(int))

    def padding(key: np.ndarray) -> float:
        parts = np.argsort(key, kind="stable").reshape(-1, 20)
        wide = [documents[part].max() / 128 + targets[part].max() / 48 for part in parts]
        return float(np.mean(wide) - np.mean(documents / 128 + targets / 48))

    assert padding(together(documents, targets)) < 0.6 * padding(documents)
    assert together(np.array([3, 5, 4]), np.array([1, 1, 1])).argsort().tolist() == [0, 2, 1]


def test_the_bank_keeps_each_token_beside_its_target() -> None:
    """Prevents: held-out states under the label of another token."""
    targets = [np.array([3, 4, 2]), np.array([5, 2])]
    pairs = Pairs([np.array([1])] * 2, targets, start=1, pad=0, taught={"gold": torch.arange(5).half()})
    bank = TokenBank(pairs.read, 1)
    for rows in ([1], [0, 1]):
        batch = pairs.batch(rows, [0] * len(rows))
        bank.place(batch)
        bank.refresh(batch["labels"][..., None].float(), batch)
    assert bank.filled and bank.features[:, 0].tolist() == bank.targets["labels"].tolist() == [3, 4, 2, 5, 2]
    assert bank.targets["teacher_gold"].tolist() == [0, 1, 2, 3, 4]
    assert bank.targets["index"].tolist() == [0, 0, 0, 1, 1]  # halves are of whole summaries


def test_the_tokens_of_a_step_are_drawn_by_it_and_all_are_asked_in_turn() -> None:
    """Prevents: held-out tokens that no step reads, and steps that a resume draws again."""
    assert drawn(5, 8, 3).tolist() == [0, 1, 2, 3, 4]
    steps = [set(drawn(10, 4, step).tolist()) for step in range(3)]
    assert set.union(*steps) == set(range(10)) and drawn(10, 4, 7).tolist() == drawn(10, 4, 7).tolist()
    assert all(len(drawn(10, 4, step)) == 4 for step in range(6))


def test_corrupted_rows_get_the_text_of_another_family() -> None:
    """Prevents: a swap within a family, which is none, under the flag of one."""
    families = [f"f{i // 4}" for i in range(40)]
    places, flags = dealt(families, 0.5, 1, 61)
    assert 12 <= flags.sum() <= 20
    assert all(families[row] != families[place] for row, place in enumerate(places) if flags[row])
    assert all(place == row for row, place in enumerate(places) if not flags[row])
