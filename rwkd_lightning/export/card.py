"""The model card ``README.md`` of an exported student, in the format of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rwkd_lightning import __version__
from rwkd_lightning.export.shipped import Card
from rwkd_lightning.run.result_table import costs
from rwkd_lightning.run.result_table import scored as compared
from rwkd_lightning.utils.errors import UserError

CITATION = """```bibtex
@inproceedings{lu-etal-2021-rw-kd,
  title     = {{RW-KD}: Sample-wise Loss Terms Re-Weighting for Knowledge Distillation},
  author    = {Lu, Peng and Ghaddar, Abbas and Rashid, Ahmad and Rezagholizadeh, Mehdi and Ghodsi, Ali and
               Langlais, Philippe},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP 2021},
  year      = {2021},
  doi       = {10.18653/v1/2021.findings-emnlp.270}
}
```"""


def write(
    path: Path, name: str, card: Card, config: DictConfig, metrics: Mapping[str, Any], files: Mapping[str, str]
) -> None:
    """Write the card.

    Args:
        name: of the model on the hub, or what it may be called there.
        card: the system's part.
        config: of the run.
        metrics: the content of its ``metrics.json``.
        files: a line about each file beside the card, by the file's name.

    Raises:
        UserError: if huggingface_hub does not read it as a card.
    """
    text = content(name, card, config, metrics, files)
    check(text)
    path.write_text(text, encoding="utf-8")


def content(name: str, card: Card, config: DictConfig, metrics: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """The card: its fields as YAML, then the text."""
    from huggingface_hub import EvalResult, ModelCardData

    title = name.rpartition("/")[2]
    scored = [
        EvalResult(
            task_type=card.metadata["pipeline_tag"],
            dataset_type=metrics["task"],
            dataset_name=metrics["task"],
            dataset_split=split,
            metric_type=metric,
            metric_value=value,
        )
        for split, scores in metrics["student"].items()
        for metric, value in scores.items()
        if value is not None
    ]
    used = sorted({one.metric_type for one in scored})
    data = ModelCardData(**dict(card.metadata), model_name=title, metrics=used, eval_results=scored or None)
    cost = metrics["cost"]
    rows = ["| " + " | ".join(row) + " |" for row in (*compared(metrics), *costs(cost))]
    teacher, student = config.pair.teacher, config.pair.student
    method = config.weighting_name
    seeds = f"seed {config.seed}" + (f" (teacher: {teacher.seed})" if "seed" in teacher else "")
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {title}\n",
        f"{card.task} Distilled with rwkd_lightning {__version__}.\n",
        f"## Use\n\n{card.use.format(name=name)}\n",
        f"## Data\n\n{card.data}\n",
        "## Teacher and method\n",
        f"- Teacher: {base(teacher)}.",
        f"- Student: {base(student)}.",
        f"- Method: `weighting={method}`, loss terms {', '.join(f'`{term}`' for term in config.terms)};"
        f" {cost['steps']} steps; {seeds}; one run.\n",
        "## Scores and cost\n",
        "| | teacher | student |\n|---|---|---|",
        *rows,
        "\n## Files\n",
        *(f"- `{file}`: {about}" for file, about in files.items()),
        "\n## Limits\n",
        *(f"- {limit}" for limit in card.limits),
        "- The licence is that of the student's base model and of the data; the card's author must state it.\n",
        f"## Citation\n\n{CITATION}\n",
    ]
    return "\n".join(parts)


def base(model: DictConfig) -> str:
    """The checkpoint that a model starts from, without the folders of this machine, and the blocks that it keeps."""
    path, layers = Path(str(model.path)), model.get("layers")
    name = f"`{path.name}` (a local folder)" if path.expanduser().is_dir() else f"`{path}`"
    return name if layers is None or isinstance(layers, int) else f"{name}, its blocks {', '.join(map(str, layers))}"


def check(text: str) -> None:
    """Raise UserError unless huggingface_hub reads the card, and knows from it what the model is for."""
    from huggingface_hub import ModelCard

    try:
        data: Any = ModelCard(text).data
        if not data.pipeline_tag:
            raise ValueError("no pipeline_tag")
    except Exception as error:  # of PyYAML, and the hub's own
        raise UserError(f"the model card is not in the hub's format ({' '.join(str(error).split())[:160]})") from error
