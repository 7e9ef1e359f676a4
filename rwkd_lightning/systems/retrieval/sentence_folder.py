"""A student on disk, in the layout that ``SentenceTransformer(path)`` loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rwkd_lightning.cache.store import digest, file_digest
from rwkd_lightning.run.outputs import whole
from rwkd_lightning.systems.retrieval.encoder import load_transformer
from rwkd_lightning.systems.retrieval.modules_file import WEIGHTS, read_dense, write_dense, write_json, write_modules
from rwkd_lightning.systems.retrieval.student import BiEncoder
from rwkd_lightning.systems.text.models.loading import load_tokenizer
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import fingerprint
from rwkd_lightning.utils.paths import place

POOLING, DENSE, NORMALIZE = "1_Pooling", "2_Dense", "3_Normalize"
KINDS = {"": "Transformer", POOLING: "Pooling", DENSE: "Dense", NORMALIZE: "Normalize"}
MODULES = {path: f"sentence_transformers.models.{kind}" for path, kind in KINDS.items()}
SETTINGS = "retrieval.json"
"""How this package reads the folder again."""


def write_student(folder: Path, student: BiEncoder, tokenizer: Any, query_length: int, document_length: int) -> int:
    """Write the student; returns the bytes of its weights. Texts are cut at ``document_length`` tokens by its users."""
    with whole(folder) as part:
        student.network.save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_modules(
            part, MODULES, {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine", "prompts": {}}
        )
        write_json(part / "sentence_bert_config.json", {"max_seq_length": document_length, "do_lower_case": False})
        states = student.projection.in_features
        write_json(
            part / POOLING / "config.json", {"word_embedding_dimension": states, "pooling_mode_mean_tokens": True}
        )
        write_dense(part / DENSE, student.projection.weight)
        write_json(
            part / SETTINGS,
            {"query_length": query_length, "document_length": document_length, "temperature": student.temperature},
        )
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def read_student(folder: Path) -> tuple[BiEncoder, Any, dict[str, Any]]:
    """A student that was written here, its tokenizer, and ``query_length`` and ``document_length``.

    Raises:
        UserError: if the folder holds none.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        weight = read_dense(folder / DENSE)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} holds no student of task=retrieval ({error}); give RUN/student") from error
    student = BiEncoder(load_transformer(str(folder)), len(weight), settings["temperature"])
    student.projection.load_state_dict({"weight": weight})
    return student.eval(), load_tokenizer(str(folder)), settings


def student_digest(folder: Path) -> str:
    """Changes with every file that its vectors depend on."""
    return digest([fingerprint(folder), file_digest(folder / DENSE / WEIGHTS)])


def student_of(run: str) -> Path:
    """The folder ``student/`` of a run, or that folder itself.

    Raises:
        UserError: if there is none.
    """
    folder = place(run, "RUN")
    found = next((f for f in (folder / "student", folder) if (f / SETTINGS).is_file()), None)
    if found is None:
        raise UserError(f"RUN={run!r} holds no student of task=retrieval; give the folder of a finished run")
    return found
