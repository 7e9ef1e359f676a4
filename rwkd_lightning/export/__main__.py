"""Export the student of a finished run: ``python -m rwkd_lightning.export RUN --onnx``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from rwkd_lightning.cache.disk import check_room, writing
from rwkd_lightning.export import card, compare, hub, onnx_model
from rwkd_lightning.export.compare import Form
from rwkd_lightning.export.shipped import FILE, Shipment, check_run
from rwkd_lightning.run import inputs
from rwkd_lightning.run.build import system_of
from rwkd_lightning.run.outputs import whole, write_json
from rwkd_lightning.utils import commands
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import size
from rwkd_lightning.utils.paths import place

STUDENT, TEACHER, ONNX, INT8 = "student", "teacher", "ONNX", "ONNX int8"
COMPARISON = "comparison.json"


def export(run: Path, out: Path, options: argparse.Namespace) -> None:
    """Write the export of a finished run to ``out``, whole or not at all.

    Raises:
        UserError: for every mistake in the input, and if a file that was written does not answer as the student does.
    """
    check_run(run)
    check_out(out, run, options.force)
    if options.onnx:
        onnx_model.check_installed(["onnx", "onnxruntime"], "--onnx")
    if options.push:
        hub.check(options.push)
    config, metrics = OmegaConf.load(run / "config.yaml"), json.loads((run / "metrics.json").read_text())
    assert isinstance(config, DictConfig)
    shipped = shipment_of(config, run)
    for note in shipped.notes if options.compare else ():
        print(note)
    room = (3 if options.onnx else 1) * size(run / "student")
    with writing(out.parent, "--out"):
        out.parent.mkdir(parents=True, exist_ok=True)
        check_room(out.parent, room, "--out")
        with whole(out) as part:
            fill(part, options.push or f"{metrics['task']}-{metrics['weighting']}", shipped, config, metrics, options)
            part.chmod(out.parent.stat().st_mode & 0o777)  # as a new folder there would be, and not the user's alone
    print(f"exported to {out}")
    if options.push:
        print(f"uploaded to {hub.push(out, options.push, options.public)}")


def check_out(out: Path, run: Path, force: bool) -> None:
    """Raise UserError if ``out`` may not be replaced."""
    if out.resolve() in (run.resolve(), *run.resolve().parents, (run / "student").resolve()):
        raise UserError(f"--out={str(out)!r} is the run itself, or holds it; give another folder")
    if not out.exists():
        return
    made = all((out / name).is_file() for name in (FILE, "README.md"))  # a run's student/ has no card
    if not out.is_dir() or (any(out.iterdir()) and not made):
        raise UserError(f"--out={str(out)!r} exists and is no export; give another folder")
    if any(out.iterdir()) and not force:
        raise UserError(f"--out={str(out)!r} exists; add --force to replace it, or give another folder")


def shipment_of(config: DictConfig, run: Path) -> Shipment:
    """The run's student and its real rows.

    Raises:
        UserError: if the data cannot be read any more, or are others than those of the run.
    """
    system = system_of(config)
    system.read()
    inputs.check_data(run, system.inputs, "export its student")
    return system.shipment(run)


def fill(
    folder: Path,
    name: str,
    shipped: Shipment,
    config: DictConfig,
    metrics: dict[str, Any],
    options: argparse.Namespace,
) -> None:
    """Write all files of an export."""
    student = shipped.student
    student.copy(folder)
    files, rows = {"model.safetensors": "the student for PyTorch"}, len(shipped.columns[0])
    ours = compare.outputs(student, compare.torch_call(student), shipped.columns, "student")
    forms = {STUDENT: Form(student, compare.torch_call(student), shipped.score(ours), size(folder))}
    if options.onnx:
        forms[ONNX], difference = onnx_form(folder / onnx_model.FLOAT, shipped, ours)
        files[onnx_model.FLOAT] = (
            f"the same for ONNX Runtime; its outputs differ from PyTorch's by {difference:.1e} at most, on "
            f"{rows:,} rows"
        )
        print(f"{ONNX}: largest difference from PyTorch {difference:.1e} on {rows:,} rows of {shipped.split}")
    if options.int8:
        forms[INT8] = int8_form(folder, shipped)
        files[onnx_model.INT8] = (
            f"the same with weights of 8 bits; {shipped.split} {shipped.metric} {forms[INT8].score:.4f}, "
            f"{forms[ONNX].score:.4f} with floats"
        )
        scores = f"{forms[INT8].score:.4f}, with floats {forms[ONNX].score:.4f}"
        print(f"{INT8}: {shipped.split} {shipped.metric} {scores}")
    if options.compare:
        if shipped.teacher is not None:
            call, score = compare.torch_call(shipped.teacher), metrics["teacher"].get(shipped.split, {})
            taught = score.get(shipped.metric)
            taught = float("nan") if taught is None else taught
            forms = {TEACHER: Form(shipped.teacher, call, taught, metrics["cost"]["teacher_bytes"]), **forms}
        compared = compare.compare(forms, shipped.columns, shipped.metric, shipped.split)
        write_json(folder / COMPARISON, compared)
        files[COMPARISON] = "score, size and speed of its forms and of the teacher, on the machine that exported it"
        print(f"\n{compare.table(compared)}\n")
    card.write(folder / "README.md", name, shipped.card, config, metrics, files)


def onnx_form(path: Path, shipped: Shipment, ours: Tensor) -> tuple[Form, float]:
    """The student as ONNX, checked, and its largest difference from ``ours``, PyTorch's outputs ``(M, C)``."""
    student = shipped.student
    few = compare.by_length(shipped.columns)
    traced = [few[0], few[len(few) // 2], few[-1]]  # lengths that differ
    onnx_model.write(student, student.batch(compare.pick(shipped.columns, traced)), path)
    session = onnx_model.Session(path)
    theirs = compare.outputs(student, session, shipped.columns, ONNX)
    one_by_one = compare.outputs(student, session, compare.pick(shipped.columns, traced), ONNX, size=1)
    few_of_ours = compare.pick_outputs(student, ours, shipped.columns, traced)
    difference = max(
        onnx_model.largest_difference(ours, theirs), onnx_model.largest_difference(few_of_ours, one_by_one)
    )
    return Form(student, session, shipped.score(theirs), onnx_model.bytes_of(path)), difference


def int8_form(folder: Path, shipped: Shipment) -> Form:
    """The ONNX model with weights of 8 bits."""
    path = folder / onnx_model.INT8
    onnx_model.write_int8(folder / onnx_model.FLOAT, path)
    session = onnx_model.Session(path)
    theirs = compare.outputs(shipped.student, session, shipped.columns, INT8)
    return Form(shipped.student, session, shipped.score(theirs), onnx_model.bytes_of(path))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status, 1 for a mistake reported in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m rwkd_lightning.export", description="Export the student of a finished run."
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run")
    parser.add_argument("-o", "--out", metavar="DIR", help="the folder to write (RUN/export)")
    parser.add_argument("--onnx", action="store_true", help="model.onnx too, checked against PyTorch on real rows")
    parser.add_argument("--int8", action="store_true", help="model_int8.onnx too (with model.onnx)")
    parser.add_argument("--compare", action="store_true", help="score, size and speed of teacher, student and ONNX")
    parser.add_argument("--push", metavar="USER/MODEL", help="upload to the Hugging Face hub, as a private model")
    parser.add_argument("--public", action="store_true", help="as a public model (with --push)")
    parser.add_argument("--force", action="store_true", help="replace an export")
    options = parser.parse_args(arguments)
    options.onnx = options.onnx or options.int8

    def work() -> None:
        run = place(options.run, "RUN")
        export(run, run / "export" if options.out is None else place(options.out, "--out"), options)

    commands.quietly()
    return commands.status(work)


if __name__ == "__main__":
    commands.run(main)
