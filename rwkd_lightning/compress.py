"""Make the word table of a finished run's student small: ``python -m rwkd_lightning.compress RUN ratio=10``."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rwkd_lightning.cache.disk import check_room, writing
from rwkd_lightning.cli.kinds import check_value
from rwkd_lightning.export import compare, onnx_model
from rwkd_lightning.export.__main__ import onnx_form
from rwkd_lightning.export.shipped import Shipment, check_run
from rwkd_lightning.run import inputs
from rwkd_lightning.run.build import system_of
from rwkd_lightning.run.outputs import whole
from rwkd_lightning.systems.text.compression.build import DEFAULTS, exchanged, told
from rwkd_lightning.systems.text.compression.files import FACTORED, load, multiplied_out, write
from rwkd_lightning.systems.text.schema import EMBEDDING
from rwkd_lightning.systems.text.shipped import TextModel
from rwkd_lightning.systems.text.system import TextSystem
from rwkd_lightning.utils import commands
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import size
from rwkd_lightning.utils.paths import place


def compress(run: Path, out: Path, settings: dict[str, Any], options: argparse.Namespace) -> None:
    """Write ``out``: the student with its word table multiplied out, for every other tool, and ``factored/``, small.

    Raises:
        UserError: for every mistake in the input.
    """
    check_run(run)
    if out.exists() and not options.force:
        raise UserError(f"--out={str(out)!r} exists; add --force to replace it, or give another folder")
    if options.onnx:
        onnx_model.check_installed(["onnx", "onnxruntime"], "--onnx")
    config = OmegaConf.load(run / "config.yaml")
    assert isinstance(config, DictConfig)
    system = system_of(config)
    if not isinstance(system, TextSystem):
        raise UserError(f"{str(run)!r} is a run of another task; only students that classify texts are compressed")
    system.read()
    inputs.check_data(run, system.inputs, "compress its student")
    shipment = system.shipment(run)
    student = shipment.student
    assert isinstance(student, TextModel)
    rows = [("student", scored(shipment), size(run / "student"))]
    made = exchanged(student.classifier, student.tokenizer, system.data, settings, student.max_length)
    print(told(made, settings))
    with writing(out.parent, "--out"):
        check_room(out.parent, 3 * size(run / "student"), "--out")
        with whole(out) as part:
            student.copy(part)
            rows += filled(part, shipment, student, options)
            part.chmod(out.parent.stat().st_mode & 0o777)
    print(f"{'':<22}{shipment.metric + ' on ' + shipment.split:>22}{'bytes':>14}")
    for name, score, held in rows:
        print(f"{name:<22}{score:>22.4f}{held:>14,}")
    print(f"written to {out}")


def filled(
    folder: Path, shipment: Shipment, student: TextModel, options: argparse.Namespace
) -> list[tuple[str, float, int]]:
    """Write the forms; of each its name, score and bytes."""
    network: Any = student.classifier.network
    small = folder / FACTORED
    if small.exists():  # of a student that was compressed before its training
        shutil.rmtree(small)
    held = write(small, network, student.tokenizer, options.int8)
    network.set_input_embeddings(load(small).get_input_embeddings())  # what is scored is what is on disk
    multiplied_out(network).save_pretrained(folder)
    rows = [(f"{FACTORED}{', int8' if options.int8 else ''}", scored(shipment), held)]
    if options.onnx:
        ours = compare.outputs(student, compare.torch_call(student), shipment.columns, "student")
        form, difference = onnx_form(folder / onnx_model.FLOAT, shipment, ours)
        rows.append((onnx_model.FLOAT, form.score, form.bytes))
        print(f"ONNX: largest difference from PyTorch {difference:.1e}")
    return rows


def scored(shipment: Shipment) -> float:
    """The student's score on the run's rows."""
    student = shipment.student
    return shipment.score(compare.outputs(student, compare.torch_call(student), shipment.columns, "student"))


def settings_of(given: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words as the settings.

    Raises:
        UserError: for a key that there is not, and a value that it does not take.
    """
    settings = dict(DEFAULTS)
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or key not in EMBEDDING:
            raise UserError(f"{word!r} is no setting; give one of {', '.join(EMBEDDING)}, an equals sign and its value")
        settings[key] = OmegaConf.to_container(OmegaConf.from_dotlist([f"x={value}"]))["x"]  # type: ignore[index,call-overload]
        check_value(key, settings[key], EMBEDDING[key])
    return settings


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m rwkd_lightning.compress", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=f"{', '.join(EMBEDDING)}; as in the configs")
    parser.add_argument("--out", help="a new folder (default: compressed-RATIO in the run's)")
    parser.add_argument("--int8", action="store_true", help="the factors in eight bits")
    parser.add_argument("--onnx", action="store_true", help="for ONNX Runtime too, in factors")
    parser.add_argument("--force", action="store_true", help="replace an earlier result")
    options = parser.parse_args(arguments)

    def work() -> None:
        commands.quietly()
        run, settings = place(options.run, "RUN"), settings_of(options.settings)
        out = place(options.out, "--out") if options.out else run / f"compressed-{settings['ratio']:g}"
        compress(run, out, settings, options)

    return commands.status(work)


if __name__ == "__main__":
    commands.run(main)
