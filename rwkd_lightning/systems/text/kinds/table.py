"""The word table that a student of another kind begins with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import find

KEY = "pair.student.table"
TEACHER, NONE = "teacher", "none"
LEAST = 0.5
"""Share of the tokenizer's whole words that a file of vectors must have."""


def table_of(path: str, source: str, width: int | None, tokenizer: Any) -> Tensor | None:
    """The first word table ``(V, D)``; None: at random.

    Args:
        path: of the model whose tokenizer and words the student takes.
        source: ``teacher``, ``none``, or a file of vectors as GloVe's: a word and its D numbers in each line.
        width: D; of the teacher's table its best approximation of that rank is taken (its singular value
            decomposition); None: as it is.

    Raises:
        UserError: for a file that is not there, that is none of vectors, or whose words are not the tokenizer's; and
            for more columns than there are.
    """
    if source == NONE:
        return None
    if source != TEACHER:
        return of_file(Path(source), width, tokenizer)
    table = words_of(path)
    if width is None or width == table.shape[1]:
        return table
    if width > table.shape[1]:
        raise UserError(
            f"pair.student.kind.embedding_size={width} is more than the {table.shape[1]} columns of the word table of "
            f"{path!r}; give {table.shape[1]} or less, or {KEY}=none"
        )
    u, s, _ = torch.linalg.svd(table.double(), full_matrices=False)
    low: Tensor = (u[:, :width] * s[:width]).to(table.dtype)
    return low


def words_of(path: str) -> Tensor:
    """The word table of a model, in float32."""
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(find(path), trust_remote_code=False, use_safetensors=True)
        weight: Tensor = model.get_input_embeddings().weight
    except UserError:
        raise
    except Exception as error:  # a kind without a word table, half a file: all raise differently
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{KEY}=teacher: model {path!r} has no word table ({reason}); use {KEY}=none") from error
    return weight.detach().float().clone()


def of_file(file: Path, width: int | None, tokenizer: Any) -> Tensor:
    """The vectors of a file by the tokenizer's words, others drawn with the same mean and deviation."""
    if not file.is_file():
        raise UserError(f"{KEY}={str(file)!r} is no file; give one of vectors (GloVe's), {KEY}=teacher or {KEY}=none")
    wanted = dict(tokenizer.get_vocab().items())
    found: dict[int, Tensor] = {}
    columns = width
    with file.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                word, *values = line.rstrip().split(" ")
                if number == 1 and len(values) == 1:  # word2vec's header: how many, how wide
                    continue
                columns = len(values) if columns is None else columns
                if len(values) != columns:
                    raise UserError(
                        f"{KEY}={str(file)!r}, line {number}: {len(values)} numbers after a word, and there should be "
                        f"{columns}; give a file of vectors, or another pair.student.kind.embedding_size"
                    )
                if word in wanted and wanted[word] not in found:
                    found[wanted[word]] = vector(values, file, number)
        except UnicodeDecodeError as error:
            raise UserError(f"{KEY}={str(file)!r} is not UTF-8 ({error.reason}); give a file of text") from error
    whole = [number for word, number in wanted.items() if word[:1].isalpha()]
    share = sum(number in found for number in whole) / max(1, len(whole))
    if share < LEAST:
        raise UserError(
            f"{KEY}={str(file)!r} has {share:.0%} of the tokenizer's {len(whole)} words; give vectors of the same "
            f"language and in the same case, or {KEY}=teacher"
        )
    rows = torch.stack(list(found.values()))
    table = rows.mean(0) + rows.std(0) * torch.randn(max(wanted.values()) + 1, rows.shape[1])
    table[list(found)] = rows
    return table


def vector(values: list[str], file: Path, number: int) -> Tensor:
    """A line's numbers."""
    try:
        numbers = [float(x) for x in values]
    except ValueError as error:
        raise UserError(f"{KEY}={str(file)!r}, line {number} has a word where a number should be ({error})") from error
    if not all(math.isfinite(x) for x in numbers):
        raise UserError(f"{KEY}={str(file)!r}, line {number} has a number that is not finite; give another file")
    return torch.tensor(numbers)
