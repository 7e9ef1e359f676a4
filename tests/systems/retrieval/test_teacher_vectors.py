"""The term over vectors, and what it reads of the teacher."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from rwkd_lightning.systems.retrieval.late_interaction import LateInteraction
from rwkd_lightning.systems.retrieval.scoring import mean_vectors
from rwkd_lightning.systems.retrieval.terms import TeacherVectors


def test_the_formula() -> None:
    """Prevents: a mean over numbers or rows, and a map of the document alone."""
    torch.manual_seed(0)
    outputs = {name: torch.randn(4, 6, dtype=torch.float64) for name in ("query_vectors", "document_vectors")}
    for width in (6, 3):
        term = TeacherVectors()
        term.connect(SimpleNamespace(width=6), SimpleNamespace(width=width))
        term.double()
        batch = {f"teacher_{name}": torch.randn(4, width, dtype=torch.float64) for name in outputs}
        a = term.map.weight if width == 3 else torch.eye(6, dtype=torch.float64)
        expected = [
            sum(((a @ outputs[name][i] - batch[f"teacher_{name}"][i]) ** 2).sum() for name in outputs) for i in range(4)
        ]
        torch.testing.assert_close(term(outputs, batch), torch.stack(expected), rtol=1e-12, atol=1e-12)
        assert len(list(term.parameters())) == (width == 3)


def test_means_are_over_the_tokens_alone() -> None:
    """Prevents: padding that draws a short text's mean to another place."""

    class Teacher(LateInteraction):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.projection = torch.nn.Linear(3, 2, bias=False)

        def states(self, batch, what):  # type: ignore[no-untyped-def]
            return batch["x"], batch["mask"]

    class Some(list):  # type: ignore[type-arg]
        what = "query"

        def batches(self, size):  # type: ignore[no-untyped-def]
            yield [0, 1], {"x": torch.stack(list(self)), "mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}

    teacher, texts = Teacher(), Some(torch.randn(2, 3, 3))
    found = mean_vectors(teacher, texts, 2, torch.device("cpu"), "", "32-true")  # type: ignore[arg-type]
    for row, length in enumerate((2, 3)):
        tokens = texts[row][:length] @ teacher.projection.weight.T
        expected = (tokens / tokens.norm(dim=1, keepdim=True)).mean(0)
        torch.testing.assert_close(found[row], expected.detach())
