"""An exported folder on its way to the Hugging Face hub, by the hub's own client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rwkd_lightning.utils.errors import UserError


def client() -> Any:
    """The hub's client, with the token that the user has logged in with."""
    from huggingface_hub import HfApi

    return HfApi()


def check(name: str) -> None:
    """Ask the hub who the user is, before anything is computed.

    Raises:
        UserError: for a name that the hub does not take, without a login, or if the hub is out of reach.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push {name!r} is no name of a model on the hub; give it as USER/MODEL") from error
    with reported(name, "nothing was exported; log in with `hf auth login`, or leave out --push"):
        client().whoami()


def push(folder: Path, name: str, public: bool) -> str:
    """Upload a folder as the model ``name``, made if it does not exist; returns its address.

    Raises:
        UserError: if the hub does not take it.
    """
    way_out = f"{folder} is whole; upload it later with `hf upload {name} {folder}`"
    with reported(name, way_out):
        hub = client()
        hub.create_repo(name, private=not public, exist_ok=True)
        return str(hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a distilled student"))


@contextmanager
def reported(name: str, way_out: str) -> Iterator[None]:
    """Turn whatever the client raises into one line: its own errors, those of two HTTP libraries, those of sockets."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"--push {name}: the hub did not take it ({type(error).__name__}: {reason}); {way_out}"
        ) from error
