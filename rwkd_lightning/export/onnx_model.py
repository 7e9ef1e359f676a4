"""A student as ONNX: written, loaded again by ONNX Runtime, compared with PyTorch on real rows, made int8."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.export.shipped import Shipped
from rwkd_lightning.utils.errors import UserError

FLOAT, INT8 = "model.onnx", "model_int8.onnx"
OPSET = 17
"""Of ONNX 1.12 (2022), which every ONNX Runtime since 1.13 reads."""
TOLERANCE = 1e-4
"""The largest difference from PyTorch that is taken for rounding, as a share of the largest output (of 1, if that is
smaller).
"""


def check_installed(names: Sequence[str], option: str) -> None:
    """Raise UserError if one of these packages is missing."""
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise UserError(f"{option} needs {' and '.join(missing)}, not installed here; pip install {' '.join(missing)}")


class Session:
    """An ONNX model in ONNX Runtime, called as a network: tensors by name in, its one output out.

    Args:
        path: of the file.
        threads: that one operator may use; None: as many as PyTorch uses.

    Raises:
        UserError: if ONNX Runtime is not installed, or cannot read the file.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        check_installed(["onnxruntime"], "an ONNX model")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors
        try:
            self.session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a dozen of its own
            raise UserError(
                f"{path} cannot be read by ONNX Runtime {onnxruntime.__version__} ({line(error)}); export the run again"
            ) from error
        self.inputs = [one.name for one in self.session.get_inputs()]  # the exporter leaves out what changes nothing

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """The model's output.

        Raises:
            UserError: if the file does not take these tensors.
        """
        try:
            (output,) = self.session.run(None, {name: batch[name].numpy() for name in self.inputs})
        except Exception as error:  # of a kind that was traced for one shape only
            shapes = ", ".join(f"{name} {list(batch[name].shape)}" for name in self.inputs)
            raise UserError(
                f"the ONNX model does not take {shapes} ({line(error)}); leave out --onnx: PyTorch does"
            ) from error
        return torch.from_numpy(output)


def write(student: Shipped, batch: dict[str, Tensor], path: Path) -> None:
    """Write the student's network for batches of any size and length.

    torch.onnx's older exporter (``dynamo=False``) is used: of the kinds of models tried it takes all but Longformer,
    and the newer one not XLNet either.

    Args:
        batch: a real one to trace the network with, of several rows that differ in length.

    Raises:
        UserError: if this kind of model cannot be exported.
    """
    axes = {name: {0: "batch", 1: "length"} for name in student.inputs} | {student.output: dict(student.axes)}
    try:
        with quiet(), torch.inference_mode():
            torch.onnx.export(
                student.network(),
                tuple(batch[name] for name in student.inputs),
                str(path),
                input_names=list(student.inputs),
                output_names=[student.output],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except OSError:  # of the disk
        raise
    except Exception as error:  # operators that ONNX lacks, control flow, more than 2 GiB: all raise differently
        raise UserError(
            f"this student cannot be exported to ONNX ({line(error)}); leave out --onnx: the safetensors work"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's warnings to itself: what it got wrong is found by `largest_difference`."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    core: Any = torch._C
    switch = getattr(core, "_jit_set_onnx_log_enabled", None)
    if switch is not None:  # torch.onnx asks for this log, which prints a whole graph, whether it is wanted or not
        core._jit_set_onnx_log_enabled = lambda enabled: None
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            if switch is not None:
                core._jit_set_onnx_log_enabled = switch
            logging.getLogger("torch.onnx").setLevel(level)


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference between outputs ``(M, C)``; of what neither reads (NaN) there is none.

    Raises:
        UserError: if it is above the tolerance, or not a number.
    """
    unread = ours.isnan() & theirs.isnan()
    difference = float((ours - theirs).masked_fill(unread, 0.0).abs().max())
    allowed = TOLERANCE * max(1.0, float(ours.masked_fill(unread, 0.0).abs().max()))
    if not difference <= allowed:
        raise UserError(
            f"the ONNX model answers differently: its outputs differ from PyTorch's by up to {difference:.2g} on real "
            f"rows, and {allowed:.2g} is allowed for rounding; nothing was written, leave out --onnx: the safetensors "
            "work"
        )
    return difference


def write_int8(source: Path, path: Path) -> None:
    """Write the same model with weights of 8 bits, one scale per output channel; activations are scaled as they come.

    Raises:
        UserError: if ONNX Runtime cannot do that.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preparation through the root logger, which changes nothing here
    try:
        quantize_dynamic(source, path, weight_type=QuantType.QInt8, per_channel=True)
    except OSError:
        raise
    except Exception as error:
        raise UserError(f"this student cannot be made int8 ({line(error)}); leave out --int8") from error
    finally:
        root.setLevel(level)


def bytes_of(path: Path) -> int:
    """The size of a file on disk."""
    return os.stat(path).st_size


def line(error: BaseException) -> str:
    """An error in one short line."""
    return " ".join(str(error).split())[:160]
