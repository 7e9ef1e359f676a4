"""Sweeps of ``train.py`` through submitit: as processes of this machine, and as jobs of a cluster that is only
played.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from tests.forked import GLOO, Command, train
from tests.slurm.fake_slurm import FIRST_JOB, install


def wait_for(what: str, folder: Path) -> list[Path]:
    """The files that match, once there is one."""
    for _ in range(2400):
        if found := list(folder.glob(what)):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not appear in {folder}")


def test_a_sweep_in_processes_of_their_own(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a job that starts from the pickled sweep and knows no ${config_digest:}, or writes into another folder
    than the same command without the launcher.
    """
    sweep = ["-m", *arguments, "weighting=ce,kd", "data.label_noise=0.4"]
    done = train(*sweep, "hydra/launcher=submitit_local")
    assert done.returncode == 0, done.stderr[-3000:]
    found = {
        file.parent.name.split("-")[0]: json.loads(file.read_text())
        for file in (tmp_path / "runs").rglob("metrics.json")
    }
    assert {name: result["weighting"] for name, result in found.items()} == {"ce": "ce", "kd": "kd"}
    again = train(*sweep)
    assert again.returncode == 0 and again.stdout.count("already finished") == 2, again.stderr[-3000:]


def test_a_job_whose_time_is_over_goes_on(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: two processes that each train alone or wait for the other, a requeued job that begins anew (with
    force=true each time), or one that is not put in the queue again.
    """
    cluster, folder = tmp_path / "cluster", tmp_path / "runs"
    launcher = Command(
        "-m",
        "hydra/launcher=slurm",
        *arguments,
        "trainer=ddp",
        "trainer.devices=2",
        "weighting=kd",
        "trainer.max_epochs=20",
        "trainer.select=best",
        "hydra.launcher.gpus_per_node=null",
        "force=true",
        environment={**GLOO, **install(cluster)},
    )
    wait_for("tweets/*/checkpoints/step-*.ckpt", folder)
    for task in (cluster / f"{FIRST_JOB}.tasks").read_text().split():
        os.kill(int(task), signal.SIGUSR2)
    told = launcher.communicate(timeout=300)[0]
    logs = folder / f".submitit/{FIRST_JOB}"
    log = (logs / f"{FIRST_JOB}_0_log.out").read_text()
    assert launcher.returncode == 0, told + log
    starts = log.count("Starting with JobEnvironment")  # what tells of the requeue its SIGTERM may have cut off
    assert (starts, log.count("\nresuming from ")) == (2, 1), log
    while (ended := (cluster / f"{FIRST_JOB}.state").read_text()) in ("RUNNING", ""):  # "": half written
        time.sleep(0.05)
    assert ended == "COMPLETED"
    (metrics,) = folder.rglob("metrics.json")
    assert json.loads(metrics.read_text())["cost"]["steps"] == 40
    asked = (cluster / "submitted.sh").read_text()
    for line in ("#SBATCH --ntasks-per-node=2", "#SBATCH --nodes=1", "#SBATCH --signal=USR2@180", "#SBATCH --mem=32GB"):
        assert line in asked.splitlines()
    assert "--gpus-per-node" not in asked
