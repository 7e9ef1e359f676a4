"""A bidirectional LSTM (Graves, Schmidhuber, 2005), largest state over the tokens, linear head."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from rwkd_lightning.systems.text.kinds.network import Body, KindConfig, KindModel
from rwkd_lightning.utils.errors import UserError


class BiLSTMConfig(KindConfig):
    """H is of both directions together, and even."""

    model_type = "rwkd_bilstm"

    def __init__(self, hidden_size: int = 512, num_hidden_layers: int = 2, **others: object) -> None:
        super().__init__(hidden_size=hidden_size, num_hidden_layers=num_hidden_layers, **others)  # type: ignore[arg-type]


class BiLSTM(KindModel):
    """Blocks of one bidirectional layer each."""

    config_class = BiLSTMConfig

    @staticmethod
    def made(config: BiLSTMConfig) -> Body:
        if config.hidden_size % 2:
            raise UserError(f"hidden_size={config.hidden_size} of a bilstm is of two directions; give an even number")
        widths = [config.embedding_size, *[config.hidden_size] * (config.num_hidden_layers - 1)]
        return Body(config, [Both(width, config.hidden_size // 2, config.dropout) for width in widths])


class Both(nn.Module):
    """One layer in both directions.

    Each direction runs from its own end of a text: the backward one reads the row's tokens reversed within its own
    length, so that padding comes last for both. Packed sequences would do the same, and cannot be differentiated
    forward (``torch.func.jvp``), nor without asking the GPU for the lengths.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.forwards, self.backwards = (nn.LSTM(width, hidden, batch_first=True) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, there: Tensor) -> Tensor:
        """``(B, T, 2h)``, 0 at padding."""
        places = reversed_places(there)
        onward = ran(self.forwards, states)
        back = ran(self.backwards, taken(states, places))
        both: Tensor = self.dropout(torch.cat([onward, taken(back, places)], 2)) * there
        return both


def reversed_places(there: Tensor) -> Tensor:
    """Of each place ``(B, T)`` the one that stands there when each row is reversed within its length."""
    count = there.sum(1).long()  # (B, 1)
    places = torch.arange(there.shape[1], device=there.device)
    turned = count - 1 - places
    return torch.where(turned >= 0, turned, places)


def taken(states: Tensor, places: Tensor) -> Tensor:
    """The states ``(B, T, D)`` at these places of their rows."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))


def ran(layer: nn.LSTM, states: Tensor) -> Tensor:
    """A layer's states; the libraries' fused layers have no derivative in forward mode, torch's own has."""
    output: Tensor
    if forward_ad._current_level < 0:
        output = layer(states)[0]
    else:
        with warnings.catch_warnings(), torch.backends.cudnn.flags(enabled=False):
            warnings.filterwarnings("ignore", "TF32")  # which setting these flags back tells of
            with torch.backends.mkldnn.flags(enabled=False, allow_tf32=False):
                output = layer(states)[0]
    return output
