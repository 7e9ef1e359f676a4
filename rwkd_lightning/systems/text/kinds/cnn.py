"""A gated CNN (Dauphin et al., Language Modeling with Gated Convolutional Networks, ICML 2017), reading both ways."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from rwkd_lightning.systems.text.kinds.network import Body, KindConfig, KindModel
from rwkd_lightning.utils.errors import UserError


class GatedCNNConfig(KindConfig):
    """``kernel`` tokens, an odd number, are seen by a convolution."""

    model_type = "rwkd_gated_cnn"

    def __init__(self, hidden_size: int = 256, num_hidden_layers: int = 4, kernel: int = 5, **others: object) -> None:
        self.kernel = kernel
        super().__init__(hidden_size=hidden_size, num_hidden_layers=num_hidden_layers, **others)  # type: ignore[arg-type]


class GatedCNN(KindModel):
    """Residual blocks x + (A ⊙ σ(B)), A and B convolutions of the normalised states (eq. 1, with LayerNorm)."""

    config_class = GatedCNNConfig

    @staticmethod
    def made(config: GatedCNNConfig) -> Body:
        if config.kernel % 2 == 0:
            raise UserError(f"kernel={config.kernel} of a cnn has no middle; give an odd number")
        widths = [config.embedding_size, *[config.hidden_size] * (config.num_hidden_layers - 1)]
        return Body(config, [Gated(width, config.hidden_size, config.kernel, config.dropout) for width in widths])


class Gated(nn.Module):
    """One block; the first maps the words to H as well."""

    def __init__(self, width: int, hidden: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.map = nn.Linear(width, hidden) if width != hidden else nn.Identity()
        self.norm = nn.LayerNorm(hidden)
        self.convolution = nn.Conv1d(hidden, 2 * hidden, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, there: Tensor) -> Tensor:
        """``(B, T, H)``, 0 at padding."""
        states = self.map(states)
        read = self.norm(states) * there  # as beyond a text's end, where a convolution reads 0
        gated = functional.glu(self.convolution(read.transpose(1, 2)), 1).transpose(1, 2)
        sums: Tensor = (states + self.dropout(gated)) * there
        return sums
