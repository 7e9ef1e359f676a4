"""A searchable collection: a vector for each document, compared exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from rwkd_lightning.run.outputs import whole
from rwkd_lightning.utils.errors import UserError

VECTORS, IDS = "vectors.safetensors", "ids.txt"


@dataclass(frozen=True)
class Index:
    """Identifiers and unit vectors ``(D, d)``, float16 on disk and float32 in memory."""

    ids: list[str]
    vectors: Tensor

    def write(self, folder: Path) -> int:
        """Write it whole or not at all; returns its bytes."""
        with whole(folder) as part:
            save_file({"vectors": self.vectors.half().contiguous()}, part / VECTORS)
            (part / IDS).write_text("".join(f"{json.dumps(name)}\n" for name in self.ids), encoding="utf-8")
        return sum(file.stat().st_size for file in folder.iterdir())

    @classmethod
    def read(cls, folder: Path) -> Index:
        """One that was written; UserError where there is none."""
        try:
            ids = [json.loads(line) for line in (folder / IDS).read_text(encoding="utf-8").splitlines()]
            vectors = load_file(folder / VECTORS)["vectors"].float()
        except Exception as error:  # SafetensorError is no subclass of anything that says so
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{folder} holds no index ({reason}); give RUN/index, or build one again") from error
        if len(ids) != len(vectors):
            raise UserError(f"{folder} has {len(ids)} identifiers and {len(vectors)} vectors; build the index again")
        return cls(ids, vectors)

    def search(self, queries: Tensor, top: int) -> list[list[tuple[str, float]]]:
        """The best documents of each query ``(Q, d)``, identifier and cosine, best first."""
        scores, places = (queries @ self.vectors.T).topk(min(top, len(self.ids)))
        return [
            [(self.ids[place], float(score)) for place, score in zip(found, values, strict=True)]
            for found, values in zip(places.tolist(), scores.tolist(), strict=True)
        ]


def write_run(
    path: Path, queries: Sequence[str], ids: Sequence[str], ranked: Sequence[Sequence[int]], scores: Tensor
) -> None:
    """A run in TREC's format: the ranked places of each query with their scores ``(Q, D)``."""
    with path.open("w", encoding="utf-8") as file:
        for row, (query, places) in enumerate(zip(queries, ranked, strict=True)):
            for rank, place in enumerate(places, 1):
                file.write(f"{query} Q0 {ids[place]} {rank} {float(scores[row, place]):.6f} student\n")
