"""The word table that a student of another kind begins with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from rwkd_lightning.systems.text.kinds.table import table_of
from rwkd_lightning.systems.text.models import load_tokenizer
from rwkd_lightning.utils.errors import UserError
from tests.run.tiny import WORDS

ALL = ["the", "a", "is", "it", *(word for group in WORDS.values() for word in group)]


def test_a_teachers_table_and_its_best_approximation(backbone: Path) -> None:
    """Prevents: a table of other words, or one whose products are not those of the teacher's."""
    tokenizer = load_tokenizer(str(backbone))
    whole = AutoModel.from_pretrained(backbone).get_input_embeddings().weight.detach()
    given = table_of(str(backbone), "teacher", None, tokenizer)
    assert given is not None and torch.equal(given, whole)
    low = table_of(str(backbone), "teacher", 3, tokenizer)
    assert low is not None and low.shape == (len(whole), 3)
    u, s, v = np.linalg.svd(whole.double().numpy(), full_matrices=False)
    best = u[:, :3] @ np.diag(s[:3]) @ v[:3]
    np.testing.assert_allclose((low @ low.T).numpy(), best @ best.T, atol=1e-5)
    with pytest.raises(UserError, match=r"embedding_size=999 is more than the \d+ columns"):
        table_of(str(backbone), "teacher", 999, tokenizer)
    assert table_of(str(backbone), "none", 5, tokenizer) is None


def test_a_file_of_vectors(backbone: Path, tmp_path: Path) -> None:
    """Prevents: vectors at other words' rows, and words without one that are far from all others."""
    tokenizer, file = load_tokenizer(str(backbone)), tmp_path / "glove.txt"
    vectors = {word: [float(i), -0.5 * i, 1.0] for i, word in enumerate(ALL[:-2])}
    file.write_text("".join(f"{w} {' '.join(map(str, v))}\n" for w, v in [*vectors.items(), ("other", [9, 9, 9])]))
    table = table_of(str(backbone), str(file), None, tokenizer)
    assert table is not None and table.shape == (len(tokenizer), 3)
    for word, numbers in vectors.items():
        assert table[tokenizer.convert_tokens_to_ids(word)].tolist() == numbers
    assert bool(table.isfinite().all()) and float(table[:, 0].max()) < 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no file; give one of vectors"),
        ("other 1 2\n", "has 0% of the tokenizer's"),
        ("the 1 2\na 1\n", "line 2: 1 numbers after a word, and there should be 2"),
        ("the 1 x\n", "line 1 has a word where a number should be"),
        ("the 1 nan\n", "line 1 has a number that is not finite"),
        (b"caf\xe9 1 2\n", "is not UTF-8"),
    ],
)
def test_a_file_that_is_none_of_vectors(content: object, message: str, backbone: Path, tmp_path: Path) -> None:
    """Prevents: a student of random words that is taken for one of GloVe's."""
    file = tmp_path / "glove.txt"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    with pytest.raises(UserError, match=message):
        table_of(str(backbone), str(file), None, load_tokenizer(str(backbone)))
