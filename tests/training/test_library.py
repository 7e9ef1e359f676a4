"""One's own network, data and Trainer: the module does the bookkeeping, and says in one line what is missing."""

from __future__ import annotations

import csv
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from rwkd_lightning import (
    RWKD,
    All,
    BernoulliKL,
    BinaryCrossEntropy,
    ClassificationFeatures,
    CrossEntropy,
    DistillationKL,
    DistillationModule,
    DynamicWeightAverage,
    FixedAlpha,
    FromBatch,
    GlobalAlpha,
    GradNorm,
    HeadWithBank,
    IndexedDataset,
    Jvp,
    LabelsOnly,
    MetaStep,
    MetaWeightNet,
    Metrics,
    SquaredError,
    Step,
    TeacherConfidence,
    TrilateralGeometry,
    Uncertainty,
    UserError,
    adamw,
    linear_schedule,
)
from rwkd_lightning.terms import stack
from rwkd_lightning.training.contract import columns_of

CLASSES, WIDTH = 3, 6


def rows(size: int, seed: int) -> TensorDataset:
    """Linearly separable rows and labels, as tuples."""
    x = torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :CLASSES].argmax(1))


def network(hidden: int = 8, seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, CLASSES))


class Expert(nn.Module):
    """A teacher that is always right."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": 6 * batch["x"][:, :CLASSES]}


def loader(size: int = 48, seed: int = 1, **options: Any) -> DataLoader[dict[str, Any]]:
    options.setdefault("batch_size", 8)
    return DataLoader(IndexedDataset(rows(size, seed), "x", "labels"), generator=torch.Generator(), **options)


def made(weighting: Any = None, student: Any = None, **options: Any) -> DistillationModule:
    options = {
        "teacher": Expert(),
        "meta_data": loader(20, 7),
        "optimizer": functools.partial(adamw, lr=2e-2),
        **options,
    }
    return DistillationModule(
        student or FromBatch(network(), "x", head="3"),
        [CrossEntropy(), DistillationKL(2.0)],
        weighting or RWKD(ClassificationFeatures()),
        **options,
    )


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., lightning.Trainer]:
    """A plain Trainer."""

    def make(**options: Any) -> lightning.Trainer:
        options = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, **options}
        return lightning.Trainer(
            accelerator="cpu",
            devices=1,
            default_root_dir=tmp_path,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )

    return make


def test_import_is_cheap() -> None:
    """Prevents: seconds of PyTorch for whoever asks for the version or the help."""
    code = (
        "import sys, rwkd_lightning; rwkd_lightning.UserError; assert not {'torch', 'lightning', 'hydra'} &"
        " set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_at_the_top() -> None:
    """Prevents: a name that is listed and cannot be imported, or another class under it; an unknown one that is
    found.
    """
    import rwkd_lightning
    from rwkd_lightning.training.module import DistillationModule as there

    assert rwkd_lightning.DistillationModule is there
    assert all(hasattr(rwkd_lightning, name) for name in dir(rwkd_lightning))
    with pytest.raises(ImportError):
        from rwkd_lightning import NoSuchThing  # noqa: F401


@pytest.mark.parametrize(("head", "theta"), [("3", HeadWithBank), (None, All)])
def test_a_plain_network_is_distilled(trainer: Any, head: str | None, theta: type) -> None:
    """Prevents: rows without a place in the ledger, a meta step over a head that the student does not have, no
    learning.
    """
    student = FromBatch(network(), "x", head=head)
    module = made(student=student)
    assert isinstance(module.meta, MetaStep) and isinstance(module.meta.theta, theta)
    trainer(max_epochs=20).fit(module, loader(shuffle=True))
    assert module.ledger.visits.tolist() == [20] * 48 and module.meta.steps == 120
    assert bool(module.ledger.influence.ne(0).any(1).all())
    test = rows(300, 5)
    accuracy = (module({"x": test.tensors[0]})["logits"].argmax(1) == test.tensors[1]).float().mean()
    assert float(accuracy) > 0.85


def test_the_same_as_with_the_bookkeeping_by_hand(trainer: Any) -> None:
    """Prevents: another training where the module counts the rows and makes the meta step than where all is given to
    it.
    """
    ends = []
    for by_hand in (False, True):
        module = made()
        if by_hand:
            meta = MetaStep(Jvp(), HeadWithBank(), [CrossEntropy()], loader(20, 7))
            module = made(train_size=48, meta=meta, meta_data=None)
        torch.manual_seed(3)
        trainer().fit(module, loader())
        ends.append(module.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert [name for name, value in ends[0].items() if not torch.equal(value, ends[1][name])] == []


def test_prepare_sees_the_training_set_in_its_order(trainer: Any) -> None:
    """Prevents: a method that averages over a training set which it has not seen, or over shuffled rows; generators
    moved on.
    """
    seen: list[dict[str, Tensor]] = []

    class Prepared(FixedAlpha):
        def prepare(self, training_set: Any) -> None:
            seen.append(dict(training_set))

    state = torch.get_rng_state()
    columns_of(loader(shuffle=True), lambda batch: None, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    trainer(max_epochs=1).fit(made(Prepared()), loader(shuffle=True))
    x, labels = rows(48, 1).tensors
    assert torch.equal(seen[0]["labels"], labels) and seen[0]["index"].tolist() == list(range(48))
    torch.testing.assert_close(seen[0]["teacher_logits"], 6 * x[:, :CLASSES])
    trainer(max_epochs=1).fit(made(TrilateralGeometry()), loader())  # refuses to work unprepared
    seen.clear()
    trainer(max_epochs=1).fit(made(Prepared(), train_size=48), loader())
    assert not seen  # the caller has done it


def logged(folder: Path) -> list[dict[str, str]]:
    with next(folder.rglob("metrics.csv")).open(newline="") as file:
        return list(csv.DictReader(file))


def test_callbacks_and_loggers_of_lightning(trainer: Any, tmp_path: Path) -> None:
    """Prevents: a module that needs a Trainer of its own: metrics that no logger sees, a rate, a checkpoint or an early
    stop that does nothing.
    """
    module = made(metrics={"accuracy": MulticlassAccuracy(CLASSES, average="micro")}, schedule=linear_schedule)
    best = ModelCheckpoint(tmp_path / "kept", monitor="meta/accuracy", mode="max", save_last=True)
    stop = EarlyStopping("meta/accuracy", mode="max", stopping_threshold=0.9, patience=1000)
    own = trainer(
        max_epochs=60,
        logger=CSVLogger(tmp_path),
        callbacks=[best, stop, LearningRateMonitor("step")],
        enable_checkpointing=True,
        log_every_n_steps=2,
    )
    own.fit(module, loader(), loader(60, 2))
    assert stop.stopped_epoch and own.current_epoch < 60
    table = logged(tmp_path)
    steps = [int(row["step"]) for row in table if row["loss"]]
    assert steps == list(range(1, own.global_step, 2))  # every second one of 6 an epoch
    for name in ("loss/ce", "loss/kd", "weight/kd", "weight_spread/ce"):
        assert all(row[name] for row in table if row["loss"]), name
    scores = [float(row["meta/accuracy"]) for row in table if row["meta/accuracy"]]
    assert len(scores) == own.current_epoch and max(scores) >= 0.9 == stop.stopping_threshold
    assert float(best.best_model_score) == pytest.approx(max(scores))
    rates = [float(row["lr-AdamW/pg1"]) for row in table if row["lr-AdamW/pg1"]]
    assert len(rates) > 10 and max(rates) <= 2e-2 and rates[-1] < max(rates)


def test_checkpoint_without_the_constructor(trainer: Any, tmp_path: Path) -> None:
    """Prevents: a checkpoint that pickles student or teacher, one that is not read with weights_only, or that loses φ,
    bank or ledger; a resumed training that is not the whole one.
    """

    def build() -> DistillationModule:
        return made(student=FromBatch(network(dropout=0.3), "x", head="3"))

    torch.manual_seed(1)
    whole, save = build(), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(enable_checkpointing=True, callbacks=[save]).fit(whole, loader())
    path = tmp_path / "epoch=1.ckpt"
    parts = {"terms": [CrossEntropy(), DistillationKL(2.0)], "weighting": RWKD(ClassificationFeatures())}
    loaded = DistillationModule.load_from_checkpoint(
        path, student=FromBatch(network(seed=9), "x", head="3"), **parts, meta_data=loader(20, 7), weights_only=True
    )
    assert loaded.state_dict().keys() == whole.state_dict().keys()
    assert [n for n, v in loaded.state_dict().items() if not torch.equal(v, whole.state_dict()[n])] == []
    assert not any("teacher" in name for name in torch.load(path, weights_only=True)["state_dict"])
    batch = next(iter(loader()))
    torch.testing.assert_close(loaded.eval()(batch)["logits"], whole.eval()(batch)["logits"])

    resumed = build()
    torch.manual_seed(99)
    trainer().fit(resumed, loader(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert [n for n, v in resumed.state_dict().items() if not torch.equal(v, whole.state_dict()[n])] == []


@pytest.mark.parametrize(
    "method",
    [RWKD, GlobalAlpha, TrilateralGeometry, MetaWeightNet, Uncertainty, DynamicWeightAverage, GradNorm, FixedAlpha],
)
def test_every_method_is_loaded(method: Any, trainer: Any, tmp_path: Path) -> None:
    """Prevents: a method that has to see the training set again before its checkpoint can be loaded, or gives other
    weights afterwards.
    """

    def build() -> DistillationModule:
        return made(method(ClassificationFeatures()) if method is RWKD else method())

    whole, loaded = build(), build()
    trained = trainer()
    trained.fit(whole, loader())
    trained.save_checkpoint(tmp_path / "last.ckpt")
    loaded = DistillationModule.load_from_checkpoint(
        tmp_path / "last.ckpt",
        student=FromBatch(network(seed=9), "x", head="3"),
        terms=[CrossEntropy(), DistillationKL(2.0)],
        weighting=method(ClassificationFeatures()) if method is RWKD else method(),
        meta_data=loader(20, 7),
        weights_only=True,
    )
    assert [n for n, v in whole.state_dict().items() if not torch.equal(v, loaded.state_dict()[n])] == []
    batch = {**next(iter(loader())), "teacher_logits": torch.randn(8, CLASSES)}
    outputs = whole.student.eval()(batch)
    losses = stack(whole.loss_terms, outputs, batch)
    step = Step(losses, losses >= 0, ("ce", "kd"), outputs, batch)
    assert torch.equal(whole.weighting(step), loaded.weighting(step))


def test_without_metrics_the_losses_are_logged(trainer: Any) -> None:
    """Prevents: early stopping and ModelCheckpoint with nothing to watch; means of batches in place of rows."""
    module, data = made(), loader(50, 3, batch_size=16)
    x, labels = rows(50, 3).tensors
    logits, teacher = module.student.network.eval()(x).detach(), 6 * x[:, :CLASSES]
    ce = nn.functional.cross_entropy(logits, labels).item()
    kd = 4 * nn.functional.kl_div((logits / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean").item()
    expected = {"meta/loss": ce, "meta/loss_ce": ce, "meta/loss_kd": kd}
    assert trainer().validate(module, data, verbose=False) == [pytest.approx(expected, rel=1e-5)]
    alone = DistillationModule(module.student, [CrossEntropy(), DistillationKL(2.0)], FixedAlpha())
    assert trainer().validate(alone, data, verbose=False) == [
        pytest.approx({"meta/loss": ce, "meta/loss_ce": ce}, rel=1e-5)
    ]
    trainer(callbacks=[EarlyStopping("meta/loss", patience=1)]).fit(module, loader(), data)


def test_predict_validate_and_test(trainer: Any) -> None:
    """Prevents: predictions that are not the student's, in training mode or out of order; scores of batches in place of
    rows.
    """
    module = made(
        metrics={"accuracy": MulticlassAccuracy(CLASSES, average="micro")},
        student=FromBatch(network(dropout=0.5), "x", head="3"),
    )
    plain, data = trainer(), loader(50, 3, batch_size=16)
    predicted = torch.cat([outputs["logits"] for outputs in plain.predict(module, data)])
    x, labels = rows(50, 3).tensors
    torch.testing.assert_close(predicted, module.student.network.eval()(x).detach())
    expected = float((predicted.argmax(1) == labels).float().mean())
    assert plain.test(module, data, verbose=False) == [{"test/accuracy": pytest.approx(expected)}]
    assert plain.validate(module, data, verbose=False) == [{"meta/accuracy": pytest.approx(expected)}]
    mean = Metrics({"mean": lambda predictions, targets: targets.float().mean()}, output="features")
    assert plain.test(made(validation=mean), data, verbose=False) == [
        {"test/mean": pytest.approx(float(labels.float().mean()))}
    ]


def test_a_teacher_in_the_batches(trainer: Any) -> None:
    """Prevents: a teacher that must run along although its answers are there."""
    x, labels = rows(48, 1).tensors
    data = DataLoader(IndexedDataset(TensorDataset(x, labels, 6 * x[:, :CLASSES]), "x", "labels", "teacher_logits"), 8)
    with_it, without = made(), made(teacher=None)
    for module, batches in ((with_it, loader()), (without, data)):
        trainer().fit(module, batches)
    assert all(torch.equal(a, b) for a, b in zip(with_it.parameters(), without.parameters(), strict=True))


class Endless(IterableDataset[dict[str, Tensor]]):
    def __iter__(self) -> Any:
        while True:
            yield {"x": torch.randn(WIDTH), "labels": torch.tensor(1), "index": 0}


def unlabelled() -> DataLoader[Any]:
    return DataLoader(IndexedDataset(TensorDataset(rows(8, 1).tensors[0]), "x"), 4)


@pytest.mark.parametrize(
    ("options", "data", "said"),
    [
        (
            {},
            lambda: DataLoader(rows(8, 1), 4),
            r"is a list and not a dict.*DataLoader\(IndexedDataset\(dataset, 'x', 'labels'\)",
        ),
        (
            {},
            lambda: DataLoader([{"x": torch.ones(WIDTH), "labels": 0}] * 8, 4),
            r"no 'index'.*DataLoader\(IndexedDataset\(",
        ),
        ({"train_size": 20}, loader, "'index' from 16 to 23, and train_size is 20; leave train_size out"),
        ({"weighting": LabelsOnly()}, unlabelled, "a loss term reads 'labels', which neither the batch"),
        (
            {"weighting": FixedAlpha(), "teacher": None},
            loader,
            r"reads batch\['teacher_logits'\].*give DistillationModule the teacher",
        ),
        (
            {
                "weighting": FixedAlpha(),
                "student": nn.Sequential(FromBatch(nn.Linear(WIDTH, CLASSES), "x", output="scores")),
            },
            loader,
            r"reads the student's output 'logits', and it gives scores",
        ),
        (
            {"weighting": FixedAlpha(), "student": FromBatch(network(), "y")},
            loader,
            "FromBatch reads 'y', which the batch .* lacks",
        ),
        ({"weighting": FixedAlpha()}, lambda: DataLoader(Endless(), 4), "has no length.*their number, train_size"),
    ],
    ids=["tuples", "no index", "another size", "no labels", "no teacher", "no logits", "no input", "endless"],
)
def test_what_is_missing(trainer: Any, options: dict[str, Any], data: Any, said: str) -> None:
    """Prevents: a KeyError from the middle of the loop, or a record of the wrong rows."""
    with pytest.raises(UserError, match=said) as caught:
        trainer(max_steps=4).fit(made(**options), data())
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)


class Tensors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, CLASSES)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.layer(batch["x"])


def test_a_student_that_returns_a_tensor(trainer: Any) -> None:
    """Prevents: an index into logits that are taken for outputs by name."""
    with pytest.raises(UserError, match=r"returned a Tensor and not outputs by name; .*FromBatch\(student, 'x'\)"):
        trainer().fit(made(FixedAlpha(), student=Tensors()), loader())


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: made(meta_data=None), r"learns from held-out samples.*meta_data"),
        (lambda: made(meta_data=DataLoader(Endless())), "Endless has no length"),
        (lambda: made(meta_data=TensorDataset(torch.ones(0, 1))), "TensorDataset has no rows"),
        (
            lambda: IndexedDataset(rows(4, 0))[0],
            r"is a tuple and not a dict; name its parts, as IndexedDataset\(dataset, 'x'",
        ),
        (lambda: IndexedDataset(rows(4, 0), "x")[0], r"has 2 parts, and the names \('x',\)"),
        (lambda: DistillationModule(FromBatch(network(), "x"), [CrossEntropy()], FixedAlpha()), "has no teacher term"),
        (
            lambda: DistillationModule(
                FromBatch(network(), "x"), [SquaredError(), DistillationKL()], TeacherConfidence()
            ),
            "this task is a regression; use `FixedAlpha",
        ),
        (
            lambda: DistillationModule(
                FromBatch(network(), "x"), [BinaryCrossEntropy(), BernoulliKL()], TeacherConfidence()
            ),
            "this task is a multi-label task; use `FixedAlpha",
        ),
    ],
    ids=["no held-out rows", "endless", "no rows", "tuples", "names", "no teacher term", "check", "several labels"],
)
def test_refused_when_it_is_made(build: Callable[[], Any], said: str) -> None:
    """Prevents: a method that is never asked whether it suits the terms, and data that fails after hours."""
    with pytest.raises(UserError, match=said):
        build()
