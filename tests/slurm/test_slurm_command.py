"""What a command line that submits to SLURM asks for, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from submitit.slurm.slurm import _make_sbatch_string

from rwkd_lightning.run import slurm
from rwkd_lightning.utils.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
TWO = ["-m", "hydra/launcher=slurm", "trainer=ddp", "trainer.devices=2", "weighting=kd,rwkd"]


def test_what_is_asked_for() -> None:
    """Prevents: one process for two GPUs, a GPU too few, a signal too late for a checkpoint."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose(
            "config", ["hydra/launcher=slurm", "trainer=ddp", "trainer.devices=2"], return_hydra_config=True
        )
        asked = OmegaConf.to_container(composed.hydra.launcher, resolve=False)
        resources = composed.hydra.launcher
    assert asked["_target_"].endswith("SlurmLauncher") and resources.max_num_timeout > 0 and resources.timeout_min > 15
    text = _make_sbatch_string(
        "run",
        "folder",
        time=resources.timeout_min,
        nodes=resources.nodes,
        ntasks_per_node=resources.tasks_per_node,
        gpus_per_node=resources.gpus_per_node,
        cpus_per_task=resources.cpus_per_task,
        signal_delay_s=resources.signal_delay_s,
        setup=list(resources.setup),
    )
    lines = text.splitlines()
    for line in (
        "--nodes=1",
        "--ntasks-per-node=2",
        "--gpus-per-node=2",
        "--cpus-per-task=4",
        "--signal=USR2@180",
        "--time=720",
    ):
        assert f"#SBATCH {line}" in lines
    assert lines.index("export SLURM_KILL_BAD_EXIT=1") < next(
        i for i, line in enumerate(lines) if line.startswith("srun ")
    )


def mistake(arguments: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        slurm.check(arguments, CONF)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (TWO[1:4], "hydra/launcher=slurm is for sweeps and would do nothing here: add -m"),
        (
            ["hydra/launcher=submitit_local"],
            "hydra/launcher=submitit_local is for sweeps and would do nothing here: add -m",
        ),
        (
            [*TWO[:3], "seed=0,1"],
            "trainer.devices=auto: SLURM is asked for a number of devices; write trainer.devices=2",
        ),
        (
            [*TWO, "trainer.devices=1,2"],
            "trainer.devices=1,2: the jobs of one command get the same resources; one command each",
        ),
        (
            [*TWO, "hydra.launcher.tasks_per_node=1"],
            "hydra.launcher.tasks_per_node=1: SLURM starts one process a device, and",
        ),
        ([*TWO, "hydra.launcher.nodes=2"], "hydra.launcher.nodes=2: a job runs on one node; set trainer.devices only"),
        ([*TWO, "trainer.accelerator=cpu"], "add hydra.launcher.gpus_per_node=null"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(arguments: list[str], said: str) -> None:
    """Prevents: a sweep that quietly runs here, jobs that fail after hours in the queue, GPUs that stand idle."""
    assert said in mistake(arguments)


def test_no_cluster_and_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: submitit's traceback on a machine that has no SLURM, or Hydra's list of search paths for a missing
    package.
    """
    monkeypatch.setenv("PATH", "")
    assert "there is no sbatch and srun here" in mistake(TWO)
    slurm.check([*TWO, "--cfg", "job"], CONF)  # only shows
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install hydra-submitit-launcher" in mistake(TWO)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["seed=1"],
        ["-m", "seed=0,1"],
        ["seed"],
        ["-m", "hydra/launcher=submitit_local", "seed=0,1"],
        ["hydra.mode=MULTIRUN", "hydra/launcher=submitit_local", "seed=0,1"],
        ["hydra/launcher=basic", "-m"],
    ],
    ids=" ".join,
)
def test_other_commands_pass(arguments: list[str]) -> None:
    """Prevents: a check that stands in the way of runs that have nothing to do with SLURM."""
    slurm.check(arguments, CONF)


def test_processes_of_a_job_fail_together(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: processes that wait for days for a first one that failed and ended as a success."""
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(SystemExit) as ended, slurm.together():
        raise UserError("data.path=x does not exist")
    assert ended.value.code == 1 and capsys.readouterr().err == "data.path=x does not exist\n"
    with pytest.raises(SystemExit) as ended, slurm.together():
        raise RuntimeError("out of memory")
    assert ended.value.code == 1 and "RuntimeError: out of memory" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    with pytest.raises(UserError), slurm.together():  # Hydra tells it
        raise UserError("data.path=x does not exist")
