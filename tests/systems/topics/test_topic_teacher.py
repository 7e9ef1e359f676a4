"""What a run says of a teacher before it distils it."""

import pytest
import torch

from rwkd_lightning.systems.topics.model import Shape, TopicModel
from rwkd_lightning.systems.topics.teacher import warn_of_sharing

WORDS = [f"w{i}" for i in range(40)]


@pytest.mark.parametrize(("same", "warned"), [(False, False), (True, True)])
def test_topics_that_are_all_the_same_are_told(same, warned, caplog):
    """Prevents: a collapsed teacher whose student collapses too, seen only in the table at the end."""
    model = TopicModel(Shape(40, 4, 8, 5, True))
    beta = torch.zeros(4, 40)
    for k in range(4):
        beta[k, 0 if same else 10 * k :][:10] = 1.0
    model.beta.data = beta
    warn_of_sharing(model, WORDS)
    assert bool(caplog.records) == warned
    if warned:
        assert "only 25 % are distinct" in caplog.text and "pair.teacher.layers=5" in caplog.text
