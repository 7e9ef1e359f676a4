"""The teacher: a vector for each token, texts compared by MaxSim (ColBERT, Khattab and Zaharia, SIGIR 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwkd_lightning.systems.retrieval.encoder import Encoder, unit

TOKENS = 32
"""A query's score is that of so many tokens, however many it has, so that a temperature means the same for all."""


class LateInteraction(Encoder):
    """Token vectors of length 1, and φ(q, d) = 32 · mean_i max_j ⟨q_i, d_j⟩ over the tokens of query and document.

    ColBERT sums over a fixed number of query tokens, to which it fills queries up with ``[MASK]``; here nothing is
    filled up, markers are not added, and the mean takes the place of the sum.
    """

    def token_vectors(self, batch: Mapping[str, Tensor], what: str) -> tuple[Tensor, Tensor]:
        """Vectors ``(N, T, d)`` of the tokens of the queries or documents of a batch, and their mask ``(N, T)``."""
        states, mask = self.states(batch, what)
        return unit(self.projection(states)), mask.bool()

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``logits`` φ ``(B, U)`` of the batch's B queries and U documents."""
        return {"logits": maxsim(*self.token_vectors(batch, "query"), *self.token_vectors(batch, "document"))}


def maxsim(queries: Tensor, query_mask: Tensor, documents: Tensor, document_mask: Tensor) -> Tensor:
    """φ ``(B, U)`` of queries ``(B, S, d)`` and documents ``(U, T, d)``, tokens where their masks are true.

    A document without tokens scores −32, the least there is.
    """
    with torch.autocast(queries.device.type, enabled=False):  # sums of 32 tokens lose a digit in half precision
        each = torch.einsum("bsd,utd->bust", queries, documents)
        each = each.masked_fill(~document_mask[None, :, None, :], -1.0)
        best = each.amax(3)  # (B, U, S)
        weights = query_mask.to(best.dtype)[:, None]
        total = (best * weights).sum(2)
    return TOKENS * total / weights.sum(2).clamp_min(1)


@torch.no_grad()
def begin_at_main_directions(teacher: LateInteraction, batches: list[Mapping[str, Tensor]]) -> None:
    """Let the map begin at the directions in which the token vectors of some texts are largest (a truncated SVD).

    A random map would destroy what the transformer's states say of similarity. Nothing is done for a map that keeps
    the width.
    """
    width, states = teacher.projection.weight.shape
    if width == states:
        return
    second = torch.zeros(states, states, dtype=torch.float64, device=teacher.projection.weight.device)
    for batch in batches:
        for what in ("query", "document"):
            found, mask = teacher.states(batch, what)
            tokens = unit(found)[mask.bool()].double()
            second += tokens.T @ tokens
    directions = torch.linalg.eigh(second)[1].flip(1)[:, :width]
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()  # else the machine's choice
    teacher.projection.weight.copy_((directions * signs).T)
