"""The configs of task=topics: published settings, what each distillation trains by, options that belong to another
task.
"""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from rwkd_lightning.cli import schema as values
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import ROOT


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", ["task=topics", *overrides])
    composed.weighting_name = "rwkd"
    return composed


@pytest.mark.parametrize(
    ("settings", "topics", "alpha", "temperature", "layers"),
    [
        ("m10", 10, 0.6, 2, 4),
        ("m10", 20, 0.8, 4, 5),
        ("m10", 50, 0.8, 1, 2),
        ("m10", 100, 0.9, 4, 3),
        ("20ng", 20, 0.1, 3, 1),
        ("20ng", 50, 0.9, 3, 1),
        ("20ng", 100, 0.9, 5, 5),
    ],
)
def test_published_settings(settings: str, topics: int, alpha: float, temperature: float, layers: int) -> None:
    """Prevents: results under the name of a published setting that is another one."""
    composed = config(f"task.settings={settings}", f"task.topics={topics}")
    values.check(composed)
    assert (composed.alpha, composed.temperature, composed.pair.teacher.layers) == (alpha, temperature, layers)
    assert (composed.loss_terms.soft_ce.temperature, composed.pair.student.layers) == (temperature, 0)
    assert (composed.optimizer.lr, list(composed.optimizer.betas), composed.trainer.max_epochs) == (
        2e-3,
        [0.99, 0.99],
        100,
    )


def test_other_topics_want_their_settings() -> None:
    """Prevents: another K trained by a setting that was published for none."""
    with pytest.raises(UserError, match="task.settings=20ng task.topics=10 has no published"):
        values.check(config("task.settings=20ng"))
    values.check(config("task.settings=20ng", "alpha=0.5", "temperature=2.0", "pair.teacher.layers=1"))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["pair=minilm_6to3"], "pair.student.layers"),
        (["data=text"], "test_fraction is missing"),
        (["task.distillation=both"], "task.distillation is 'both'"),
    ],
)
def test_options_of_another_task(more: list[str], match: str) -> None:
    """Prevents: a training with keys that nothing reads."""
    with pytest.raises(UserError, match=match):
        values.check(config(*more))


def test_the_features_are_for_documents_alone() -> None:
    """Prevents: a KeyError at the first meta step of a text classifier, after its teacher was trained."""
    from rwkd_lightning.run.build import weighting_of

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", ["meta_features=topics"])
    with pytest.raises(UserError, match="leave meta_features out"):
        weighting_of(composed)
