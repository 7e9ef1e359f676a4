"""A cluster of one machine: ``sbatch``, ``srun``, ``sacct`` and ``scontrol requeue`` as far as submitit uses them.

What they know of each other lies in the folder FAKE_SLURM: what was submitted, ``ID.state`` and ``ID.tasks`` (process
ids) of each job, ``ID.requeue`` where it is to run again.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

FIRST_JOB = 4100


def sbatch(script: str) -> None:
    """Start each element of the array, one after the other, in the background."""
    text = Path(script).read_text()
    (state() / "submitted.sh").write_text(text)
    elements = re.search(r"--array=0-(\d+)", text)
    jobs = [f"{FIRST_JOB}_{i}" for i in range(int(elements[1]) + 1)] if elements else [str(FIRST_JOB)]
    for job in jobs:
        (state() / f"{job}.state").write_text("PENDING")
    subprocess.Popen(
        [sys.executable, __file__, *jobs],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    print(f"Submitted batch job {FIRST_JOB}")


def controller(jobs: list[str]) -> None:
    """Run jobs, and run those again that were put in the queue again."""
    text = (state() / "submitted.sh").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
    for i, job in enumerate(jobs):
        for restart in range(5):
            environment = {
                **os.environ,
                "SLURM_JOB_ID": str(FIRST_JOB + i),
                "SLURM_JOB_NAME": asked["job-name"],
                "JOB": job,
                "SLURM_NTASKS": asked["ntasks-per-node"],
                "SLURM_NTASKS_PER_NODE": asked["ntasks-per-node"],
                "SLURM_CPUS_PER_TASK": asked["cpus-per-task"],
                "SLURM_NNODES": "1",
                "SLURM_JOB_NUM_NODES": "1",
                "SLURM_NODELIST": "127.0.0.1",
                "SLURM_JOB_NODELIST": "localhost",
                **({"SLURM_RESTART_COUNT": str(restart)} if restart else {}),
            }
            if "_" in job:
                environment |= {"SLURM_ARRAY_JOB_ID": str(FIRST_JOB), "SLURM_ARRAY_TASK_ID": str(i)}
            (state() / f"{job}.state").write_text("RUNNING")
            with (state() / f"{job}.out").open("a") as output:
                done = subprocess.run(
                    ["bash", state() / "submitted.sh"], env=environment, stdout=output, stderr=output, check=False
                )
            if not (state() / f"{job}.requeue").exists():
                break
            (state() / f"{job}.requeue").unlink()
        (state() / f"{job}.state").write_text("FAILED" if done.returncode else "COMPLETED")


def srun(arguments: list[str]) -> None:
    """Start the tasks of the job; with SLURM_KILL_BAD_EXIT end all when one has failed."""
    files = {"--output": os.devnull, "--error": os.devnull}
    while arguments[0].startswith("--"):
        name = arguments.pop(0)
        if name in files:
            files[name] = arguments.pop(0)
    tasks, job = [], os.environ["JOB"]
    for rank in range(int(os.environ["SLURM_NTASKS"])):
        names = {"%j": os.environ["SLURM_JOB_ID"], "%A": str(FIRST_JOB), "%a": job.rpartition("_")[2], "%t": str(rank)}
        output, error = (
            functools.reduce(lambda file, item: file.replace(*item), names.items(), file) for file in files.values()
        )
        environment = {
            **os.environ,
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_NODEID": "0",
            "SLURM_STEP_NUM_TASKS": os.environ["SLURM_NTASKS"],
        }
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        tasks.append(subprocess.Popen(arguments, env=environment, stdout=open(output, "a"), stderr=open(error, "a")))  # noqa: SIM115
    (state() / f"{job}.tasks").write_text(" ".join(str(task.pid) for task in tasks))
    limit = None
    while any(task.poll() is None for task in tasks):
        failed = os.environ.get("SLURM_KILL_BAD_EXIT") == "1" and any(task.poll() for task in tasks)
        if limit is None and (failed or (state() / f"{job}.requeue").exists()):
            limit = time.monotonic() + 2  # KillWait
            for task in tasks:
                task.send_signal(signal.SIGTERM)
        if limit is not None and time.monotonic() > limit:
            for task in tasks:
                task.kill()
        time.sleep(0.1)
    sys.exit(max(abs(task.returncode) for task in tasks))


def sacct() -> None:
    """State of all jobs."""
    print("JobID|State|NodeList")
    for file in sorted(state().glob("*.state")):
        print(f"{file.stem}|{file.read_text()}|localhost")


def state() -> Path:
    return Path(os.environ["FAKE_SLURM"])


def install(folder: Path) -> dict[str, str]:
    """Put the commands into a folder; the environment in which they are found."""
    (folder / "bin").mkdir(parents=True)
    for name in ("sbatch", "srun", "sacct", "scontrol"):
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\nCALLED={name} exec {shlex.join([sys.executable, __file__])} "$@"\n')
        command.chmod(0o755)
    return {"FAKE_SLURM": str(folder), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


if __name__ == "__main__":
    called, given = os.environ.pop("CALLED", ""), sys.argv[1:]
    if called == "sbatch":
        sbatch(given[0])
    elif called == "srun":
        srun(given)
    elif called == "sacct":
        sacct()
    elif called == "scontrol":
        (state() / f"{given[1]}.requeue").touch()
    else:
        controller(given)
