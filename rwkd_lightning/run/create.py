"""From a node with a ``_target_`` to the object that it describes, with every mistake told in one line."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rwkd_lightning.utils.errors import UserError

T = TypeVar("T")


def create(config: DictConfig, kind: type[Any], **more: Any) -> Any:
    """Instantiate from the keys and ``more``, with every mistake in one line, and our own errors not wrapped in
    Hydra's.

    Raises:
        UserError: if it cannot be made of these keys, or is no ``kind``.
    """
    key, target = place(config)
    with told(key, target):
        made = instantiate(config, **more)
    return checked(made, kind, key, target)


class Recipe(Generic[T]):
    """Makes objects of a node's keys, and of arguments that are known later.

    Args:
        config: the node.
        kind: of what is made.

    Attributes:
        function: the class or function that the node names.

    Raises:
        UserError: here for a ``_target_`` that there is not; when called, if nothing of this kind can be made.
    """

    def __init__(self, config: DictConfig, kind: type[T]) -> None:
        self.key, self.target = place(config)
        self.kind, self.given = kind, set(config)
        with told(self.key, self.target):
            self._partial = instantiate(config, _partial_=True, _convert_="all")
        checked(self._partial, functools.partial, self.key, self.target)
        self.function = self._partial.func

    def lacks(self, name: str) -> bool:
        """Whether this argument is taken, and not among the keys."""
        return name not in self.given and name in parameters(self.function)

    def bind(self, *arguments: Any) -> None:
        """Raise UserError if these arguments and the keys are not those that are taken."""
        with told(self.key, self.target):
            inspect.signature(self.function).bind(*arguments, **self._partial.keywords)

    def __call__(self, *arguments: Any, **more: Any) -> T:
        with told(self.key, self.target):
            made = self._partial(*arguments, **more)
        result: T = checked(made, self.kind, self.key, self.target)
        return result


def parameters(function: Any) -> set[str]:
    """Names of the arguments of a class or function; none of one that does not say."""
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return set()


def place(config: DictConfig) -> tuple[str, str]:
    """The key of a node, and its ``_target_``; UserError where it has none."""
    key, target = config._get_full_key(""), config.get("_target_")
    if target is None:
        raise UserError(f"{key} has no _target_, the class that it is made of; choose an option of the group")
    return key, str(target)


def checked(made: Any, kind: type[Any], key: str, target: str) -> Any:
    """The object; UserError if it is no ``kind``."""
    if not isinstance(made, kind):
        raise UserError(f"{key}._target_={target} makes a {type(made).__name__}, and no {kind.__name__}")
    return made


@contextlib.contextmanager
def told(key: str, target: str) -> Iterator[None]:
    """Raise UserError for whatever a class says to the keys of another one."""
    try:
        yield
    except UserError:
        raise
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: {target} cannot be made of these keys ({str(error).splitlines()[0]})") from error
    except Exception as error:
        cause = (error.__cause__ or error) if isinstance(error, InstantiationException) else error
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, ModuleNotFoundError) and package(target):
            raise UserError(
                f"{key}: {target} needs a package that is not installed; pip install {package(target)}"
            ) from error
        reason = " ".join(str(cause).split())[:300]
        raise UserError(f"{key}: {target} cannot be made of these keys ({reason})") from error


def package(target: str) -> str:
    """The name at PyPI of what one of Lightning's loggers needs; empty for any other class."""
    names = {
        "TensorBoardLogger": "tensorboard",
        "WandbLogger": "wandb",
        "MLFlowLogger": "mlflow",
        "CometLogger": "comet-ml",
        "NeptuneLogger": "neptune",
    }
    return names.get(target.rpartition(".")[2], "") if target.startswith(("lightning.", "rwkd_lightning.")) else ""
