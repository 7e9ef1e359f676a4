"""Tests for a GPU, most of which run on the CPU too: engines, resuming, a process group of one, no waiting, a run.

pytest -m gpu -n 0
"""

from __future__ import annotations

import functools
import warnings

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from rwkd_lightning.bilevel import FiniteDifference, Jvp, RandomState, Unrolled
from rwkd_lightning.meta import All, HeadWithBank, MetaStep
from rwkd_lightning.terms import CrossEntropy, DistillationKL, stack
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw
from rwkd_lightning.weighting import RWKD, ClassificationFeatures
from tests.meta.conftest import Stream, bert, separable
from tests.run.test_pipeline_pairs import run_in
from tests.training.conftest import Rows, Student

TERMS = [CrossEntropy(), DistillationKL(2.0)]
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU (CUDA)")]
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Settings of the process, of the group and of the environment that a test changes go with it."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield
    torch.use_deterministic_algorithms(False)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def module(dropout=0.1):
    """RW-KD as shipped on the tiny student, with 20 held-out rows."""
    torch.manual_seed(0)
    meta = MetaStep(Jvp(), HeadWithBank(), [CrossEntropy()], Stream(Rows(20, 7).rows, 5))
    return DistillationModule(
        Student(dropout), TERMS, RWKD(ClassificationFeatures()), functools.partial(adamw, lr=1e-2), 64, meta=meta
    )


def fit(net, device, folder, ckpt_path=None, **options):
    """Two epochs of eight steps, rows in order, deterministic kernels; none of the steps but the last is logged."""
    trainer = lightning.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu", devices=1, max_epochs=2, logger=False, deterministic=True,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False, default_root_dir=folder,
        log_every_n_steps=10_000, **options)  # fmt: skip
    loader = DataLoader(Rows(64, 1), 8, generator=torch.Generator())
    trainer.fit(net, loader, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return {name: value.cpu() for name, value in net.state_dict().items()}


@devices
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("engine", "tolerance"), [(Jvp(), 1e-3), (FiniteDifference(), 5e-2)], ids=["jvp", "finite"])
def test_engines_equal_the_double_backward(engine, tolerance, dropout, device):
    """Prevents another dropout mask, or another kernel's, in one of the passes: the influence would be noise."""
    net, batch = bert(dropout, torch.float32).to(device), {n: x.to(device) for n, x in separable(8, 1).items()}
    state = RandomState.capture(torch.device(device))
    weights = torch.full((8, 2), 0.5, device=device)
    found = []
    for one in (Unrolled(), engine):
        meta = MetaStep(one, All(), [CrossEntropy()], Stream(separable(10, 2), 5))
        meta.build(net)
        state.restore()
        found.append(meta.influence(net, batch, lambda: net(batch), lambda o: stack(TERMS, o, batch), weights, state))
    assert float((found[1] - found[0]).norm() / found[0].norm()) < tolerance


class SaveOnce(lightning.Callback):
    """Writes a checkpoint after the first epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


@devices
def test_resume_is_bit_identical(device, tmp_path):
    """Prevents a resumed run that draws other dropout masks on the device, or has lost φ, bank or record."""
    path = tmp_path / "after.ckpt"
    whole = fit(module(), device, tmp_path, callbacks=[SaveOnce(path)])
    torch.manual_seed(99)
    resumed = fit(module(), device, tmp_path, ckpt_path=path)
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []
    other = fit(module(0.0), device, tmp_path)
    assert not torch.equal(whole["student.body.weight"], other["student.body.weight"])


@devices
def test_one_process_of_ddp(device, tmp_path):
    """Prevents a collective on the wrong device, or of what NCCL cannot send: one process of DDP is one without it."""
    alone = fit(module(0.0), device, tmp_path)
    in_group = fit(module(0.0), device, tmp_path, strategy="ddp", use_distributed_sampler=False)
    assert torch.distributed.get_backend() == {"cpu": "gloo", "cuda": "nccl"}[device]
    for name, value in alone.items():
        torch.testing.assert_close(in_group[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_the_host_waits_for_nothing(device, tmp_path):
    """Prevents a step between two logged ones in which the host asks the device: each such question stops both."""
    net, steps = module(), []
    step = net.training_step

    def watched(batch, batch_idx):
        between = 3 <= net.global_step < 7 or 9 <= net.global_step < 14  # caches are filled; no last batch
        torch.cuda.set_sync_debug_mode("error" if between else "default")
        try:
            step(batch, batch_idx)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        steps.append(between)

    net.training_step = watched
    fit(net, device, tmp_path)
    assert sum(steps) == 9
    with pytest.raises(RuntimeError):  # the question is noticed
        torch.cuda.set_sync_debug_mode("error")
        try:
            float(torch.ones(1, device=device))
        finally:
            torch.cuda.set_sync_debug_mode("default")


@devices
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_whole_run(arguments, device, precision, tmp_path):
    """Prevents a stage that leaves a tensor on the other device: teacher, cache, student, scores, export."""
    accelerator = "gpu" if device == "cuda" else "cpu"
    options = (f"trainer.accelerator={accelerator}", f"trainer.precision={precision}")
    found = run_in(tmp_path / "run", *arguments, "weighting=rwkd", *options)
    assert 0 <= found["student"]["test"]["accuracy"] <= 1 and found["cost"]["steps"] == 8
