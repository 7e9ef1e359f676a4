"""Hydra's own options, read from a command line as Hydra does; it has no public parser for them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from rwkd_lightning.cli.kinds import first_line


class Unreadable(Exception):
    """No parser can read this command line."""


class Parser(argparse.ArgumentParser):
    """Hydra's options; every other word is a setting. It raises Unreadable in place of printing its usage."""

    def __init__(self) -> None:
        super().__init__(add_help=False)
        self.add_argument("overrides", nargs="*")
        self.flags = [
            *(
                self.add_argument(*names, action="store_true")
                for names in (
                    ("--help", "-h"),
                    ("--hydra-help",),
                    ("--version",),
                    ("--resolve",),
                    ("--run", "-r"),
                    ("--multirun", "-m"),
                    ("--shell-completion", "-sc"),
                )
            ),
            *(
                self.add_argument(*names)
                for names in (
                    ("--package", "-p"),
                    ("--config-path", "-cp"),
                    ("--config-name", "-cn"),
                    ("--config-dir", "-cd"),
                    ("--experimental-rerun",),
                )
            ),
            self.add_argument("--cfg", "-c", choices=("job", "hydra", "all")),
            self.add_argument(
                "--info",
                "-i",
                nargs="?",
                const="all",
                choices=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
            ),
        ]

    def error(self, message: str) -> NoReturn:
        raise Unreadable(message)


def read(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[Override]]:
    """Hydra's options, and the settings that follow them.

    Raises:
        Unreadable: with the reason.
    """
    parsed = Parser().parse_args(list(arguments))
    try:
        return parsed, OverridesParser.create().parse_overrides(parsed.overrides)
    except HydraException as error:
        raise Unreadable(first_line(error)) from error
