"""Lets torchvision be imported beside torch for CPUs, before a package imports it that finds it there (torchmetrics).

PyPI's torchvision is built for CUDA: it cannot load its operators beside such a torch, and asks for these two at its
import.
"""

import torch

try:
    import torchvision
except RuntimeError:
    OPERATORS = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401
