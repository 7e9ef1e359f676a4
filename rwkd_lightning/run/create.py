"""From a node with a ``_target_`` to the object that it describes, with every mistake told in one line."""

from __future__ import annotations

import contextlib
import functools
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any, Generic, NoReturn, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rwkd_lightning.cli.words import in_config_words
from rwkd_lightning.utils.errors import UserError

T = TypeVar("T")


def create(config: DictConfig, key: str, kind: type[Any], **more: Any) -> Any:
    """Instantiate the node at ``key`` from its keys and ``more``.

    Raises:
        UserError: if it cannot be made of these keys, or is no ``kind``; in one line, in the words of the config.
    """
    node, target = node_at(config, key)
    with told(key, target, config):
        made = instantiate(node, **more)
    return checked(made, kind, key, target)


class Recipe(Generic[T]):
    """Makes objects of a node's keys, and of arguments that are known later.

    Args:
        config: with the node at ``key``.
        kind: of what is made.

    Attributes:
        function: the class or function that the node names.

    Raises:
        UserError: here for a ``_target_`` that there is not; when called, if nothing of this kind can be made.
    """

    def __init__(self, config: DictConfig, key: str, kind: type[T]) -> None:
        node, self.target = node_at(config, key)
        self.key, self.kind, self.given = key, kind, set(node)
        with told(self.key, self.target, config):
            self._partial = instantiate(node, _partial_=True, _convert_="all")
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


def node_at(config: DictConfig, key: str) -> tuple[DictConfig, str]:
    """The node at a key, and its ``_target_``; UserError where it has none."""
    node = OmegaConf.select(config, key)
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if target is None:
        raise UserError(f"{key} has no _target_, the class that it is made of; choose an option of the group")
    return node, str(target)


def checked(made: Any, kind: type[Any], key: str, target: str) -> Any:
    """The object; UserError if it is no ``kind``."""
    if not isinstance(made, kind):
        raise UserError(f"{key}._target_={target} makes a {type(made).__name__}, and no {kind.__name__}")
    return made


@contextlib.contextmanager
def told(key: str, target: str, config: DictConfig | None = None) -> Iterator[None]:
    """Raise UserError, in the words of the config, for whatever a class raises about its arguments.

    Args:
        config: with the nodes of the objects within the one at ``key``, if they are made here too.
    """
    try:
        yield
    except UserError as error:
        raise in_words(error, key, target) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: {target} cannot be made of these keys ({str(error).splitlines()[0]})") from error
    except Exception as error:
        cause = (error.__cause__ or error) if isinstance(error, InstantiationException) else error
        if isinstance(cause, UserError):
            within = re.search(r"full_key: (\S+)", str(error))
            if within and config is not None:
                key, target = within[1], node_at(config, within[1])[1]
            raise in_words(cause, key, target) from None
        if isinstance(cause, ModuleNotFoundError) and package(target):
            raise UserError(
                f"{key}: {target} needs a package that is not installed; pip install {package(target)}"
            ) from error
        reason = " ".join(str(cause).split())[:300]
        raise UserError(f"{key}: {target} cannot be made of these keys ({reason})") from error


def in_words(error: UserError, key: str, target: str) -> UserError:
    """The error that a class has raised when it was made, in the words of the config."""
    arguments: set[str] = set()
    with contextlib.suppress(Exception):
        arguments |= parameters(pkgutil.resolve_name(target))
    message = in_config_words(str(error), key.replace("weighting.features", "meta_features"), arguments)
    error.args = (message,)
    return error


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


def not_given() -> NoReturn:
    """Stands in ``conf/meta_features/own.yaml`` for the class that was not named.

    Raises:
        UserError: always.
    """
    raise UserError("meta_features=own needs your class: add meta_features._target_=my_package.MyFeatures")
