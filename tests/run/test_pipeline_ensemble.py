"""Several teachers: their mean, and each of them as a term of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scipy.special import expit, log_softmax, logit, logsumexp

from rwkd_lightning.systems.text.data.tweets import load_tweets
from rwkd_lightning.systems.text.teacher_outputs import (
    mean_of_label_probabilities,
    mean_of_logits,
    mean_of_probabilities,
)
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import finished


def two(backbone: Path, folder: Path) -> list[str]:
    """The same backbone twice, the second one's weights somewhat moved."""
    from transformers import AutoModel

    other = folder / "other"
    shutil.copytree(backbone, other)
    model = AutoModel.from_pretrained(backbone)
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(other)
    return [f"pair.teacher.path=[{backbone},{other}]", "pair.teacher.epochs=1"]


def test_means_against_scipy() -> None:
    """Prevents: a mean over the wrong axis, or probabilities whose logarithms do not have the sum 1."""
    members = torch.randn(3, 5, 4, dtype=torch.float64)
    shares = log_softmax(members.numpy(), axis=2)
    expected = logsumexp(shares, axis=0, b=1 / 3)
    torch.testing.assert_close(mean_of_probabilities(list(members)), torch.from_numpy(expected))
    torch.testing.assert_close(mean_of_logits(list(members)), torch.from_numpy(members.numpy().mean(0)))
    each = torch.from_numpy(logit(expit(members.numpy()).mean(0)))  # where a row has several labels
    torch.testing.assert_close(mean_of_label_probabilities(list(members)), each)


def test_a_run_with_two_teachers(arguments: list[str], backbone: Path, tmp_path: Path) -> None:
    """Prevents: one teacher used for both, a term that reads the mean and not its teacher, noise that spares one."""
    pair = [
        *two(backbone, tmp_path),
        "pair.teacher.mean=probabilities",
        "terms=[ce,kd_1,kd_2]",
        "data.teacher_noise=0.2",
    ]
    result = finished([*arguments, *pair], tmp_path / "run", "weighting=rwkd")
    kept = [
        (json.loads((file.parent / "key.json").read_text()), load_file(file))
        for file in (tmp_path / "cache/logits").glob("*/logits.safetensors")
    ]
    assert len(kept) == 2 and len(list((tmp_path / "cache/teacher").glob("*/key.json"))) == 2
    mean = mean_of_probabilities([logits["test"] for _, logits in kept])
    scored = [one["test"]["accuracy"] for one in result["teachers"]]
    sizes = {"teacher_train": 96, "train": 64, "meta": 24, "validation": 24, "test": 24}
    labels = torch.tensor(load_tweets(arguments[0].removeprefix("data.path="), sizes).splits["test"]["label"])
    right = [float((logits["test"].argmax(1) == labels).float().mean()) for _, logits in kept]
    assert sorted(scored) == pytest.approx(sorted(right))
    assert result["teacher"]["test"]["accuracy"] == pytest.approx(float((mean.argmax(1) == labels).float().mean()))
    assert result["cost"]["teacher_parameters"] > result["cost"]["student_parameters"]
    import pyarrow.parquet as pq

    columns = pq.read_table(tmp_path / "run/weights.parquet").to_pydict()
    assert {"w_ce", "w_kd_1", "w_kd_2"} <= set(columns) and columns["loss_kd_1"] != columns["loss_kd_2"]
    assert sum(columns["teacher_corrupted"]) == 13


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["terms=[ce,kd,hidden]"], "'hidden' reads the states of one teacher, and there are 2 teachers"),
        (["terms=[ce,kd_3]"], "reads the teacher's output 'logits_3', and it gives logits, logits_1, logits_2"),
        (["pair.student.path=teacher"], "there is not one model that has them"),
        (["pair.teacher.labels=[a,b,c]", "pair.teacher.epochs=0"], "says what the outputs of one teacher mean"),
    ],
)
def test_settings_of_one_teacher(
    settings: list[str], said: str, arguments: list[str], backbone: Path, tmp_path: Path
) -> None:
    """Prevents: hours of training before a term finds no teacher, or one of several taken in silence."""
    with pytest.raises(UserError, match=said):
        finished([*arguments, *two(backbone, tmp_path), *settings], tmp_path / "run", "weighting=kd")
    assert not (tmp_path / "cache/teacher").exists()


def test_one_teacher_has_no_members(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: kd_1 that reads the only teacher, so that a forgotten path goes unnoticed."""
    with pytest.raises(UserError, match=r"reads the teacher's output 'logits_1', and it gives logits; set"):
        finished([*arguments, "terms=[ce,kd_1]"], tmp_path / "run", "weighting=kd")
