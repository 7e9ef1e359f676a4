from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rwkd_lightning.systems.text.data.task import TaskData, TaskSpec, build_split

WORDS = [f"w{i}" for i in range(50)]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def text(i: int) -> str:
    """A text of 1 to 7 words that differs from those of other rows."""
    return " ".join(WORDS[(i * 7 + k) % 50] for k in range(1 + i % 7))


def rows(spec: TaskSpec, n: int, start: int = 0) -> dict[str, list[Any]]:
    numbers = range(start, start + n)
    labels = [i / 10 if spec.is_regression else i % spec.num_labels for i in numbers]
    texts = {name: [f"{text(i)} w{c}" for i in numbers] for c, name in enumerate(spec.text_columns)}
    return {"idx": list(numbers), "label": labels, **texts}


@pytest.fixture
def make_data() -> Callable[..., TaskData]:
    """Builds a task of tiny splits; `change` edits the columns of its splits first."""

    def make(
        labels: tuple[str, ...] | None = ("a", "b", "c"),
        columns: tuple[str, ...] = ("text",),
        change: Callable[[dict[str, dict[str, list[Any]]]], object] = lambda splits: None,
    ) -> TaskData:
        spec = TaskSpec("toy", columns, labels, ("accuracy",), "accuracy", ("validation",))
        sizes = {"teacher_train": 30, "train": 45, "meta": 7, "validation": 11}
        splits = {name: rows(spec, n, 100 * k) for k, (name, n) in enumerate(sizes.items())}
        change(splits)
        return TaskData(spec, {name: build_split(spec, columns) for name, columns in splits.items()})

    return make
