"""``python train.py``: its help, the check of what is typed, and how a mistake looks."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rwkd_lightning.cli import composition, sweeps, tuning
from rwkd_lightning.cli import help as usage
from rwkd_lightning.cli.overrides import check
from rwkd_lightning.cli.sweeps import SAMPLE, jobs
from rwkd_lightning.utils.errors import UserError
from tests.forked import train

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"


def mistake(*arguments: str) -> str:
    """What the check says."""
    with pytest.raises(UserError) as caught:
        check(arguments, CONF)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def documented() -> list[str]:
    """The commands in the bash blocks of the documents, and in the comments of the configs."""
    found = []
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(r"```bash\n(.*?)```", file.read_text(), re.S):
            found += [
                command.strip() for line in block.replace("\\\n", " ").splitlines() for command in line.split("&&")
            ]
    found += [
        line.removeprefix("# ") for file in sorted(CONF.rglob("*.yaml")) for line in file.read_text().splitlines()
    ]
    return [command for command in [*found, *usage.EXAMPLES.values()] if command.startswith("python train.py")]


# --help


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_imports_nothing_heavy(flag: str) -> None:
    """Prevents: help that takes seconds, because torch or Hydra is loaded first."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "train.py", "task=mrpc", flag],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stdout == usage.text(CONF) + "\n"
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "rwkd_lightning" in imported
    assert not imported & {
        "torch",
        "hydra",
        "omegaconf",
        "lightning",
        "transformers",
        "datasets",
        "numpy",
        "pandas",
        "yaml",
    }


GROUPS = ("task", "pair", "weighting", "meta", "meta_features", "optimizer", "scheduler", "logger", "callbacks")


def test_help_names_every_option_with_its_description() -> None:
    """Prevents: a task or a method that is there and that nobody can find; help of which a terminal cuts the ends."""
    lines = usage.text(CONF).splitlines()
    assert max(map(len, lines)) <= 120
    for group in (*GROUPS, "experiment"):
        for file in (CONF / group).glob("*.yaml"):
            assert [line for line in lines if re.match(rf"  [ *] {file.stem}  +\w", line)], f"{group}={file.stem}"
    starred = {line.split()[1] for line in lines if line.startswith("  * ")}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        choices = compose("config", return_hydra_config=True).hydra.runtime.choices
    assert starred == {choices[group] for group in GROUPS}
    assert "@package" not in "\n".join(lines)


def test_help_names_keys_that_exist() -> None:
    """Prevents: help for a key that was renamed."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config"), resolve=False)
    for key in usage.KEYS:
        node = config
        for part in key.split("."):
            assert isinstance(node, dict) and part in node, key
            node = node[part]


# What is right passes


@pytest.mark.parametrize("command", documented())
def test_documented_commands_pass(command: str) -> None:
    """Prevents: a document with a command that no longer works, and a check that refuses it."""
    if "hydra/sweeper=optuna" in command and not tuning.installed("hydra_plugins.hydra_optuna_sweeper"):
        pytest.skip("hydra-optuna-sweeper is not installed")
    check(shlex.split(command, comments=True)[2:], CONF)


def test_documented_commands_are_found() -> None:
    """Prevents: the test above looking at nothing."""
    assert len(documented()) >= 10
    assert any("docs" not in c and "-m weighting=ce,kd,rwkd seed=0,1,2" in c for c in documented())
    assert any(c.endswith("weighting=ce,kd,rwkd,rwkd_online") for c in documented())  # of two lines


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["seed=1", "temperature=1", "optimizer.lr=1"],  # a whole number for a fraction
        ["optimizer.lr=1e-4", "meta=all", "meta.engine.radius=1e-3"],  # YAML 1.1 reads 1e-3 as text, OmegaConf does not
        ["trainer.max_steps=1000", "trainer.max_epochs=4", "trainer.max_epochs=null"],
        ["data.path=3", "data.path='a b'", 'data.path="it\'s"', "cache_dir=a/b-c_d.e", "runs_dir=/tmp/x"],  # any text
        ["force=true", "meta.engine.central=False", "meta=all"],
        [
            "terms=[ce,kd]",
            "terms=['ce']",
            "pair.student.layers=[7]",
            "pair.student.layers.0=2",
            "pair.student.layers=null",
        ],
        ["meta.lookahead_lr=0.1", "meta.lookahead_lr=null"],  # null by default
        ["trainer.devices=[0,1]"],
        ["trainer.devices=auto"],
        ["trainer.devices=2", "trainer.precision=32"],
        ["+trainer.limit_train_batches=3"],
        ["++trainer.limit_train_batches=3"],
        ["++seed=3"],
        ["+new.key=1", "new.key=2"],
        ["+new={key: 1}", "new.key=2"],
        ["+experiments=[corruption]"],
        ["++expriment=corruption"],
        ["~weighting.entropy"],
        ["~weighting.hidden=32"],
        ["task.load.sizes={teacher_train: 96, train: 64}"],
        ["data={path: x, batch_size: 2}"],
        ["task.load.sizes.train=5"],
        ["weighting.hidden=${meta.batch_size}", "seed=3", "trainer.max_epochs=${seed}"],
        ["weighting=kd", "weighting.alpha=0.3"],
        ["weighting=permuted", "weighting.inner.hidden=8"],
        ["weighting=annealing_kd"],
        ["weighting=annealing_kd", "weighting.stage_one=0.5", "task=stsb", "seed=1"],
        [
            "-m",
            "weighting=rwkd,annealing_kd,mwn,l2rw,tgeo",
            "seed=0,1",
            "data.label_noise=0.4",
        ],  # one with terms of its own
        ["-m", "weighting=mwn,l2rw", "weighting.alpha=0.1,0.5"],
        ["weighting=wls", "weighting.alpha=1"],
        ["-m", "weighting=kd,wls"],
        ["-m", "weighting=kd,wls", "weighting.alpha=0.5,1"],
        ["weighting=wls", "terms=[ce,kd]"],
        ["-m", "weighting=annealed,uncertainty,dwa,gradnorm,teacher_confidence,wls", "seed=0,1"],
        ["-m", "weighting=uncertainty,gradnorm", "weighting.lr=0.1,1"],
        ["weighting=dwa", "weighting.window=50"],
        ["meta_features=own", "meta_features._target_=a.B"],
        ["meta_features._target_=a.B"],
        ["meta_features.temperature=1"],
        ["-m", "meta_features=standard,influence,history", "weighting=rwkd,rwkd_plain"],
        ["data.meta_noise=0.2"],
        [
            "weighting.gate._target_=rwkd_lightning.weighting.gates.Reject",
            "weighting.gate.bound=3",
            "weighting.smoothing=0.5",
        ],
        ["-m", "weighting=kd", "weighting.alpha=0.1,0.5"],
        ["-m", "weighting=rwkd,global", "weighting.lr=1e-3,1e-2"],
        [
            "--multirun",
            "weighting=glob(*,exclude=[given,saliency,modality_oracle])",
            "data.label_noise=0.1",
            "seed=range(0,3)",
        ],
        ["-m", "task=glob(m*)"],
        ["hydra.mode=MULTIRUN", "seed=1,2"],
        ["-m", "seed=choice(1,2)", "terms=[ce],[ce,kd]", "data.path=choice('a,b',c)"],
        ["-m", "task=mrpc,rte,tweets", "weighting=kd,rwkd,ce,permuted", "meta=head,bank", "task.epochs=1,2"],
        ["-m", "+experiment=corruption", "data.label_noise=0.1,0.2"],
        ["+experiment=[corruption]"],
        ["task=mrpc.yaml"],
        ["task=base/glue", "task.load.task=mrpc"],
        ["trainer=[default]"],
        ["+weighting@other=kd"],
        ["hydra.run.dir=x", "hydra/job_logging=disabled", "hydra.verbose=true"],
        ["--cfg", "job", "-p", "trainer", "seed=1"],
        ["--info", "defaults", "seed=x"],
        ["-c", "job", "--resolve"],
        ["--config-dir=/tmp", "task=mrpc", "+zzz=1"],
        ["-cd", "/tmp", "task=mrpc"],
        ["-cn", "mine", "zzz=1"],
        ["-cp", "/tmp", "z=1"],
        ["hydra.searchpath=[file:///tmp]", "task=mine", "zzz=1"],
    ],
    ids=" ".join,
)
def test_valid_commands_pass(arguments: list[str]) -> None:
    """Prevents: a check that stands in the way of what Hydra takes."""
    check(arguments, CONF)


@pytest.mark.parametrize("arguments", [["data.batch_size"], ["data.batch_size=[1"], ["a={"], ["seed=1,"]], ids=" ".join)
def test_syntax(arguments: list[str]) -> None:
    """Prevents: a traceback from our own use of Hydra's parser, and its three lines of advice."""
    assert mistake(*arguments).startswith("the command line cannot be read (")


def test_yaml_and_command_line_agree_on_numbers() -> None:
    """Prevents: 1e-4 in a config being text, against which every number on the command line would be refused."""
    for key in ("optimizer.lr", "pair.teacher.lr", "weighting.lr"):
        assert mistake(f"{key}=1e-4x").startswith(f"{key}=1e-4x is not a number; the default is 0.0")


# What is misspelt


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["task=mrcp"], "task=mrcp is not known; did you mean task=mrpc? known are cola, emoji, mnli,"),
        (["weighting=rwdk"], "did you mean weighting=rwkd? known are amal, "),
        (["task=xyz"], "task=xyz is not known; known are cola,"),
        (["task=1"], "task=1 is not known; known are"),
        (["task=null"], "task=null is not known; known are"),
        (["-m", "task=mrpc,colla", "seed=1,2"], "task=colla is not known; did you mean task=cola?"),
        (["-m", "seed=1,2", "weighting=choice(kd,rkwd)"], "weighting=rkwd is not known; did you mean weighting=rwkd?"),
        (
            ["+experiment=corupption"],
            "+experiment=corupption is not known; did you mean +experiment=corruption? known are",
        ),
        (["-m", "+experiment=corruption,corupption"], "did you mean +experiment=corruption?"),
        (["experiment=corruption"], "experiment=corruption needs a +: +experiment=corruption"),
        (["+task=mrpc"], "+task=mrpc adds a second task; leave out the +"),
        (["+expriment=corruption"], "did you mean +experiment=corruption?"),
    ],
)
def test_options_that_do_not_exist(arguments: list[str], said: str) -> None:
    """Prevents: a sweep that stops at its last task, an experiment that is quietly none, and a traceback for task=1."""
    assert said in mistake(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["temprature=1"], "temprature is not a key; did you mean temperature? (+temprature=... adds a new one)"),
        (
            ["data.bath_size=3"],
            "data.bath_size is not a key with data=text; did you mean data.batch_size? (+data.bath_size=... adds "
            "a new one)",
        ),
        (
            ["weighting.entropi=1"],
            "weighting.entropi is not a key with weighting=rwkd; did you mean weighting.entropy?",
        ),
        (["wieghting=kd"], "wieghting is not a key; did you mean weighting?"),
        (["wieghting.lr=1"], "did you mean weighting.lr?"),
        (["optimiser.lr=1"], "did you mean optimizer.lr?"),
        (["optimizer.warmup=0.2"], "write scheduler.warmup=..."),
        (["batch_size=3"], "data.batch_size"),
        (["lr=1"], "optimizer.lr"),
        (["epochs=1"], "task.epochs"),
        (["zzz=3"], "zzz is not a key (+zzz=... adds a new one)"),
        (
            ["trainer.max_epoch=3"],
            "did you mean trainer.max_epochs? (+trainer.max_epoch=... hands it to lightning.Trainer)",
        ),
        (["trainer.limit_train_batches=3"], "(+trainer.limit_train_batches=... hands it to lightning.Trainer)"),
        (["data={pth: 3}"], "data.pth is not a key with data=text; did you mean data.path?"),
        (["data.path.x=1"], "data.path.x is not a key"),
        (["weighting.alpha=0.3"], "weighting.alpha is not a key with weighting=rwkd; weighting=amal and"),
        (["-m", "weighting=wls,rwkd", "weighting.alpha=0.3,0.5"], "weighting.alpha is not a key with weighting=rwkd;"),
        (
            ["-m", "task=tweets,mrpc", "task.load.sizes.train=3"],
            "is not a key with task=mrpc; task=tweets would have it",
        ),
        (
            ["-m", "task=mrpc,rte,cola,qnli,sst2", "meta=bank,head", "weighting=kd,ce", "weighting.alpha=0"],
            "with weighting=ce;",
        ),
        (["-m", "weighting=glob(rwkd*)", "weighting.alpha=0"], "with weighting=rwkd; weighting=amal and"),
        (["~meta", "meta.batch_size=3"], "meta.batch_size is not a key"),
        (["=3"], "=3 names no key; write KEY=VALUE"),
    ],
)
def test_keys_that_do_not_exist(arguments: list[str], said: str) -> None:
    """Prevents: Hydra's advice to add the misspelt key, and a sweep that dies when the first method without the key
    comes.
    """
    assert said in mistake(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["weighting=wls", "weighting.alpha=x"], "weighting.alpha=x is not a number; the default is 2.5"),
        (["weighting=wls", "terms=ce"], "terms=ce is not a list; the default is [ce,soft_ce]"),
        (["data.batch_size=abc"], "data.batch_size=abc is not a whole number; the default is 32"),
        (["data.batch_size=1.5"], "data.batch_size=1.5 is not a whole number; the default is 32"),
        (["data.batch_size=true"], "data.batch_size=true is not a whole number"),
        (["seed=x"], "seed=x is not a whole number; the default is 0"),
        (["seed="], "seed= is not a whole number"),
        (["optimizer.lr=fast"], "optimizer.lr=fast is not a number; the default is 0.0001"),
        (["optimizer.lr=true"], "optimizer.lr=true is not a number"),
        (
            ["trainer.max_epochs=many"],
            "trainer.max_epochs=many is not a whole number; the default is 3",
        ),  # ${task.epochs}
        (["task=mrpc", "trainer.max_epochs=2.5"], "trainer.max_epochs=2.5 is not a whole number; the default is 5"),
        (["pair.teacher.epochs=x"], "the default is 1"),
        (["force=yes"], "force=yes is not true or false; the default is false"),
        (["force=no"], "force=no is not true or false; the default is false"),
        (["terms=ce"], "terms=ce is not a list; the default is [ce,kd]"),
        (["pair.student.path=[a,b]"], "pair.student.path=[a,b] is not a single value"),
        (
            ["meta.engine=jvp"],
            "meta.engine=jvp would replace all keys below it; to choose an option write meta/engine=jvp",
        ),
        (["task=topics", "+topics=20"], "+topics=20 adds a key that nothing reads; did you mean task.topics=...?"),
        (["task=topics", "topics=20"], "topics is not a key; did you mean task.topics?"),
        (
            ["weighting=permuted", "weighting.inner=kd"],
            "would replace all keys below it; to choose an option write weighting@weighting.inner=kd",
        ),
        (["data={batch_size: x}"], "data.batch_size=x is not a whole number"),
        (["-m", "data.batch_size=16,x"], "data.batch_size=x is not a whole number"),
        (["-m", "seed=range(0,3)", "optimizer.lr=choice(1e-3,slow)"], "optimizer.lr=slow is not a number"),
    ],
)
def test_values_of_another_type(arguments: list[str], said: str) -> None:
    """Prevents: a traceback from torch minutes later, and force=no that means yes."""
    assert said in mistake(*arguments)


def test_every_job_of_a_sweep_is_looked_at_and_a_sample_of_many() -> None:
    """Prevents: a combination that is never looked at, or ten billion jobs that take longer to check than to run."""
    small = [["a", "b"], ["x", "y"], ["p"]]
    assert jobs(small) == [(a, b, "p") for a in "ab" for b in "xy"]  # type: ignore[arg-type, comparison-overlap]
    large = [[f"{name}{i}" for i in range(100)] for name in "abcde"]
    few = jobs(large)  # type: ignore[arg-type]
    assert len(few) == 1 + 5 * 99 + SAMPLE and {one for row in few for one in row} == {
        one for row in large for one in row
    }  # type: ignore[comparison-overlap]
    assert few == jobs(large)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["weighting=kd,rwkd,l2rw", "meta.every=1,4", "seed=0,1"],
            "it needs a meta step every step (meta.every=1); that is of the job weighting=l2rw meta.every=4 seed=0",
        ),
        (
            ["trainer.accumulate=1,2", "weighting=kd,gradnorm"],
            "that is of the job trainer.accumulate=2 weighting=gradnorm",
        ),
        (["weighting=rwkd,oracle", "data.label_noise=0.1,0"], "that is of the job weighting=oracle data.label_noise=0"),
        (["terms=[ce,kd],[ce,kb]"], "terms: 'kb' is not known; known are"),
        (["task=tweets,stsb", "terms=[ce,kd]"], "terms="),
        (["trainer.max_steps=3,-1", "trainer.max_epochs=1,null"], "would train without end"),
        (["weighting=kd,wls", "weighting.alpha=0.5,7"], "weighting.alpha"),
        (["weighting=glob(z*)"], "weighting=glob(z*) has no values, so that nothing would run"),
    ],
)
def test_a_combination_that_cannot_be_is_told_before_the_first_job(arguments: list[str], said: str) -> None:
    """Prevents: the last job of a sweep that is refused after the days that the others took."""
    assert said in mistake("-m", *arguments)


def test_a_sweep_of_a_hundred_jobs_reads_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: files read, and methods built, for each seed of each method again."""
    from hydra import compose

    from rwkd_lightning.run import before

    composed: list[object] = []
    built: list[object] = []
    monkeypatch.setattr(composition, "compose", lambda *a, **k: composed.append(a) or compose(*a, **k))
    monkeypatch.setattr(before, "check_combination", lambda *a: built.append(a))
    check(["-m", "weighting=ce,kd,rwkd,mwn", "seed=range(0,25)", "optimizer.lr=1e-4"], CONF)
    assert len(composed) == len(built) == 4


def test_a_sweep_too_large_to_look_at_every_job_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a check that is silent about what it has left out."""
    monkeypatch.setattr(sweeps, "MOST", 10)
    assert "optimizer.lr is 0; give a number above 0" in mistake("-m", "seed=range(0,10)", "optimizer.lr=1e-4,0")
    assert "a sweep of 20 jobs: each of its values, and 100 of the jobs, are checked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "terms"),
    [
        (["weighting=wls"], ["ce", "soft_ce"]),
        (["weighting=wls", "task=mrpc"], ["ce", "soft_ce"]),
        (["weighting=wls", "terms=[ce,kd]"], ["ce", "kd"]),
        (["weighting=kd"], ["ce", "kd"]),
        (["weighting=kd", "task=stsb"], ["squared_error", "logit_mse"]),
    ],
)
def test_terms_of_a_weighting(overrides: list[str], terms: list[str]) -> None:
    """Prevents: the task's terms in place of the method's own, the method's in place of those on the command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("config", overrides).terms == terms


# How it looks


@pytest.mark.parametrize("arguments", [["task=mrcp"], ["data.bath_size=3"], ["--cfg", "job", "seed=x"]], ids=" ".join)
def test_a_mistake_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a traceback, two messages, an exit status of 0, or a folder for a run that never was."""
    done = train(*arguments, f"runs_dir={tmp_path / 'runs'}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("argument", ["data.batch_size", "data.batch_size=[1"])
def test_syntax_errors_have_no_traceback(argument: str) -> None:
    """Prevents: Hydra's stack for a forgotten = or bracket."""
    done = train(argument)
    assert done.returncode == 1 and "Traceback" not in done.stderr and argument.partition("=")[2] in done.stderr


def test_hydra_runs_after_the_check() -> None:
    """Prevents: a check that leaves Hydra initialised, or changes what it composes."""
    done = train("--cfg", "job", "task=mrpc", "weighting=kd", "weighting.alpha=0.25", "+trainer.fast_dev_run=true")
    assert done.returncode == 0, done.stderr
    config = OmegaConf.create(done.stdout)
    assert (config.task.load.task, config.weighting.alpha, config.trainer.fast_dev_run) == ("mrpc", 0.25, True)


def test_a_failed_job_of_a_sweep_is_told_and_the_others_run(tmp_path: Path) -> None:
    """Prevents: a sweep that exits with 0, or stops, because of one job; and failed jobs of which only the first is
    told.
    """
    missing = str(tmp_path / "none.csv")
    sweep = ["-m", "seed=0,1,2", f"data.path={missing}", f"runs_dir={tmp_path}"]
    done = train(*sweep)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    failed = [line.split(": ")[0] for line in done.stderr.splitlines() if line.startswith("#") and missing in line]
    assert failed == [f"#{i} failed" for i in range(3)], done.stderr
    one = {"test": {"accuracy": 0.5}}
    cost = {
        "teacher_parameters": 1,
        "student_parameters": 1,
        "teacher_bytes": 1,
        "student_bytes": 1,
        "speed_up": 1.0,
        "teacher_seconds": 1.0,
        "train_seconds": 1.0,
    }
    finished = [folder for seed in (0, 2) for folder in (tmp_path / "tweets").glob(f"rwkd-seed{seed}-*")]
    for folder in finished:
        (folder / "metrics.json").write_text(
            json.dumps(
                {
                    "task": "tweets",
                    "weighting": "rwkd",
                    "seed": int(folder.name[9]),
                    "student": one,
                    "teacher": one,
                    "cost": cost,
                }
            )
        )
    done = train(*sweep)
    assert len(finished) == 2 and done.stdout.count("already finished") == 2, done.stderr
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert [line.split(": ")[0] for line in done.stderr.splitlines() if line.startswith("#")] == ["#1 failed"]
