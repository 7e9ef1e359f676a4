"""A teacher on disk, in the layout that ``MultiVectorEncoder(path)`` of sentence-transformers 6 loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rwkd_lightning.cache.store import digest, file_digest
from rwkd_lightning.systems.retrieval.encoder import load_transformer
from rwkd_lightning.systems.retrieval.late_interaction import LateInteraction
from rwkd_lightning.systems.retrieval.modules_file import WEIGHTS, read_dense, write_dense, write_json, write_modules
from rwkd_lightning.systems.text.models.loading import load_tokenizer
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import fingerprint

DENSE, MASK, NORMALIZE = "1_Dense", "2_MultiVectorMask", "3_Normalize"
PACKAGE = "sentence_transformers"
MODULES = {
    "": f"{PACKAGE}.base.modules.transformer.Transformer",
    DENSE: f"{PACKAGE}.base.modules.dense.Dense",
    MASK: f"{PACKAGE}.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
    NORMALIZE: f"{PACKAGE}.base.modules.normalize.Normalize",
}
TOKENS = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}


def write_teacher(folder: Path, teacher: LateInteraction, tokenizer: Any) -> None:
    """Write the teacher; 32 times the ``meanmaxsim`` of that library are its scores."""
    teacher.network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_modules(
        folder,
        MODULES,
        {"model_type": "MultiVectorEncoder", "similarity_fn_name": "meanmaxsim", "prompts": {}},
    )
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        },
    )
    write_dense(folder / DENSE, teacher.projection.weight, **TOKENS)
    write_json(folder / MASK / "config.json", {"skiplist_words": [], "skiplist_tasks": [], "keep_only_token_ids": None})
    write_json(folder / NORMALIZE / "config.json", TOKENS)


def read_teacher(folder: Path) -> tuple[LateInteraction, Any]:
    """A teacher that was written here, and its tokenizer.

    Raises:
        UserError: if the folder holds none.
    """
    try:
        weight = read_dense(folder / DENSE)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{folder} holds no late-interaction teacher ({error}); train one: pair.teacher.epochs=2"
        ) from error
    teacher = LateInteraction(load_transformer(str(folder)), len(weight))
    with torch.no_grad():
        teacher.projection.weight.copy_(weight)
    return teacher, load_tokenizer(str(folder))


def is_teacher(folder: Path) -> bool:
    """Whether a map lies beside the transformer."""
    return (folder / DENSE / WEIGHTS).is_file()


def teacher_digest(folder: Path) -> str:
    """Changes with every file that its scores depend on."""
    return digest([fingerprint(folder), file_digest(folder / DENSE / WEIGHTS)])
