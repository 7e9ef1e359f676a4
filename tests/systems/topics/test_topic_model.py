"""The topic models: their size, their files, and the meta step through batch normalisation and noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rwkd_lightning.bilevel import Engine, FiniteDifference, Jvp, RandomState, Unrolled
from rwkd_lightning.meta import All, MetaStep
from rwkd_lightning.systems.topics.model import Shape, TopicModel, load, save
from rwkd_lightning.systems.topics.module import TeacherWords
from rwkd_lightning.systems.topics.terms import PriorKL, Reconstruction, Wasserstein
from rwkd_lightning.terms import SoftCrossEntropy, stack
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adam
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import FixedAlpha
from tests.systems.topics.test_topic_terms import batch_of, model

SIZES = [  # vocabulary, topics, layers of the teacher, parameters of teacher and student, with the paper's encoders
    (1696, 10, 4, 1_692_824, 703_880),
    (1696, 20, 5, 1_721_924, 754_800),
    (1696, 50, 2, 1_748_624, 907_560),
    (1696, 100, 3, 1_853_724, 1_162_160),
    (1612, 20, 1, 1_598_448, 717_420),
]


@pytest.mark.parametrize(("vocabulary", "topics", "layers", "teacher", "student"), SIZES)
def test_parameters_are_those_of_the_paper(
    vocabulary: int, topics: int, layers: int, teacher: int, student: int
) -> None:
    """Prevents: an architecture that is nearly CombinedTM or ZeroShotTM, whose compression is another one."""
    both = Shape(vocabulary, topics, 768, layers, True), Shape(vocabulary, topics, 384, 0, False)
    assert [sum(p.numel() for p in TopicModel(shape).parameters()) for shape in both] == [teacher, student]


def test_a_saved_model_is_the_same(tmp_path: Path) -> None:
    """Prevents: running statistics that are not in the file, so that the shipped student answers otherwise."""
    network = model().float()
    batch = {n: x.float() for n, x in batch_of().items()}
    network.train()
    network(batch)
    save(network, tmp_path)
    again = load(tmp_path)
    network.eval()
    torch.testing.assert_close(again.encode(batch), network.encode(batch), rtol=0, atol=0)


@pytest.mark.parametrize("content", [None, "{}", '{"model": "topic", "topics": 3}', "[1]"])
def test_what_is_no_topic_model_is_told(tmp_path: Path, content: str | None) -> None:
    """Prevents: a traceback for a folder of something else."""
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="holds no topic model"):
        load(tmp_path)


def test_a_batch_in_parts_is_refused() -> None:
    """Prevents: trainer.accumulate changing the step, as each part would be normalised by statistics of its own."""
    with pytest.raises(UserError, match="`accumulate=2`"):
        DistillationModule(model(), [PriorKL()], FixedAlpha(), lambda m: adam(m, 1e-3), 8, accumulate=2)


TERMS = [PriorKL(), Reconstruction(), Wasserstein(), SoftCrossEntropy()]


class Stream:
    """Always the same held-out documents."""

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        return batch_of(5, seed=40)

    def __len__(self) -> int:
        return 5

    def all(self, batch_size: int) -> None:
        raise NotImplementedError


def influence(engine: Engine, lookahead: float | None) -> tuple[torch.Tensor, TopicModel]:
    """u of every term of every document by an engine, and the student after it."""
    student, batch = model(), batch_of()
    with torch.no_grad():
        for name, buffer in student.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(0.5)
    student.train()
    batch |= {f"teacher_{n}": x for n, x in TeacherWords(model())(batch).items()}
    randomness = RandomState.capture(torch.device("cpu"))
    meta = MetaStep(engine, All(), [PriorKL(), Reconstruction()], Stream(), lookahead)
    meta.build(student)

    def outputs() -> dict[str, torch.Tensor]:  # the training pass, which does move the statistics, once
        with randomness.replay():
            return student(batch)

    weights = torch.full((len(batch["index"]), len(TERMS)), 0.25, dtype=torch.float64)
    given = (
        outputs if lookahead is None else outputs()
    )  # the order of the loop, whose lookahead needs the weights first
    u = meta.influence(student, batch, given, lambda o: stack(TERMS, o, batch), weights, randomness)
    return u, student


@pytest.mark.parametrize("lookahead", [None, 0.01])
def test_the_meta_step_is_the_double_backward(lookahead: float | None) -> None:
    """Prevents: other noise or other statistics in one of the passes, so that u is the noise and not the derivative."""
    torch.manual_seed(5)
    reference, _ = influence(Unrolled(), lookahead)
    for engine, rtol in ((Jvp(), 1e-9), (FiniteDifference(1e-6, central=True), 1e-5)):
        torch.manual_seed(5)
        found, _ = influence(engine, lookahead)
        torch.testing.assert_close(found, reference, rtol=rtol, atol=rtol * float(reference.abs().max()))


def test_the_meta_step_leaves_the_running_statistics() -> None:
    """Prevents: a meta step that changes what the student does at inference, by passes that no training has asked
    for.
    """
    found, after = influence(Jvp(), None)  # which leaves the training pass to whoever needs it
    plain = model()
    with torch.no_grad():
        for name, buffer in plain.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(0.5)
    assert found.isfinite().all() and found.abs().max() > 0
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(after.named_buffers())[name], buffer, msg=name)


def test_the_held_out_loss_knows_what_batch_normalisation_undoes() -> None:
    """Prevents: a v that points along a scale of the weights, which the training pass normalises away and evaluation
    does not.
    """
    student, batch = model().train(), batch_of()
    randomness = RandomState.capture(torch.device("cpu"))
    view = All().view(student, batch, lambda: student(batch), randomness, Stream(), 0)
    before, _ = view.meta_outputs(view.parameters)
    scaled = {n: 3 * p if n.startswith(("to_mu", "to_log_var", "beta")) else p for n, p in view.parameters.items()}
    after, _ = view.meta_outputs(scaled)
    for name in ("mu", "log_var", "logits"):
        assert before[name].std() > 0.1
        torch.testing.assert_close(
            after[name], before[name], rtol=1e-2, atol=1e-2
        )  # but for the epsilon of the variance
    mu, log_var = (student.to_mu, student.to_log_var)
    x = torch.nn.functional.softplus(
        student.adapt(Stream()[0]["embeddings"])
    )  # without dropout, by the batch's own statistics
    for name, layer in (("mu", mu), ("log_var", log_var)):
        y = layer(x)
        torch.testing.assert_close(before[name], (y - y.mean(0)) / (y.var(0, correction=0) + 1e-5).sqrt())
    assert student.training and student.norm_mu.track_running_stats
