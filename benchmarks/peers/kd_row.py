"""One row of ``kd.py``, in a process of its own: prints what it found as a line of JSON."""

from __future__ import annotations

import importlib
import json
import logging
import sys
import warnings
from importlib.metadata import version

import kd_torchvision  # noqa: F401 (before torchmetrics)
import torch
from kd_job import Job
from timing import machine

from rwkd_lightning.run.predict import predict
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.metrics import score


def main() -> None:
    given = json.loads(sys.argv[1])
    row, threads = given.pop("row"), given.pop("threads")
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    job = Job(**given)
    library, _, setting = row.partition(":")
    ours = library in ("kd", "rwkd")
    # a peer is imported where it is asked for: each of them needs a package of its own
    train = importlib.import_module("kd_ours" if ours else f"kd_{library}").train
    difference = train(job, library if ours else setting)

    loaders = DistillationDataModule(job.data, job.tokenizer)
    labels = loaders.encoded("validation").labels
    logits = predict(
        job.student, loaders.evaluation_dataloader("validation"), len(labels), torch.device("cpu"), "scoring"
    )
    clock = job.clock
    packages = ["rwkd_lightning", "torch", "transformers", *([] if ours else [library])]
    print(
        json.dumps(
            {
                "seconds": clock.seconds,
                "cpu_seconds": clock.cpu_seconds,
                "seconds_before_training": clock.before,
                "seconds_per_epoch": (clock.seconds - clock.before) / job.epochs,
                **score(job.data.task, logits, labels),
                "training_rows": len(job.data.splits["train"]),
                "steps": job.steps,
                "gradient_difference": difference,
                "machine": machine(),
                "versions": {name: version(name) for name in packages},
            }
        )
    )


if __name__ == "__main__":
    main()
