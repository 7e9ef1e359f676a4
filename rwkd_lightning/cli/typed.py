"""A command line that cannot be read, corrected where it is clear how: misplaced options, dashes, blanks, colons."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence

KEY = r"[+~]{0,2}[A-Za-z_][\w./@]*"
FLAGS_FIRST = "options such as -m stand before all settings"
NO_DASHES = "settings have no dashes"
NO_BLANKS = "a setting is KEY=VALUE, in quotes where there are blanks"


def put_right(arguments: Sequence[str], options: Sequence[argparse.Action]) -> tuple[list[str], list[str]]:
    """The words as they were perhaps meant, and what was done to them.

    Args:
        options: Hydra's own.
    """
    flags: list[str] = []
    settings: list[str] = []
    done: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        action = known(word, options)
        if action is not None:
            name, _, value = word.partition("=")
            if name not in action.option_strings:
                wrong, name = name, close(name, options) or name
                done.append(f"{wrong} is not known, {name} is")
            flags.append(name)
            choices = action.choices
            if value:
                flags.append(value)
            elif action.nargs != 0 and words and (words[0] in choices if choices is not None else "=" not in words[0]):
                flags.append(words.pop(0))
            elif action.const is not None and action.nargs == "?":
                flags.append(action.const)  # or else the first setting would be taken for its value
            if settings and FLAGS_FIRST not in done:
                done.append(FLAGS_FIRST)
        elif word.startswith("-") and re.match(KEY, word.lstrip("-")):
            word = word.lstrip("-")
            if "=" not in word:  # --key VALUE, or a switch
                word += (
                    f"={words.pop(0)}" if words and not words[0].startswith("-") and "=" not in words[0] else "=true"
                )
            settings.append(word)
            if NO_DASHES not in done:
                done.append(NO_DASHES)
        else:
            settings.append(word)
    whole = joined(settings)
    return [*flags, *whole], [*done, *([NO_BLANKS] if whole != settings else [])]


def known(word: str, options: Sequence[argparse.Action]) -> argparse.Action | None:
    """The option of Hydra's that a word names, or nearly names."""
    name = word.partition("=")[0]
    for action in options:
        if name in action.option_strings or (word.startswith("-") and close(name, options) in action.option_strings):
            return action
    return None


def close(name: str, options: Sequence[argparse.Action]) -> str | None:
    """The long option that is nearly this: ``--multi-run``, ``-multirun``."""
    long = [text for action in options for text in action.option_strings if text.startswith("--")]
    near = difflib.get_close_matches(f"--{name.lstrip('-')}", long, 1, 0.85) if len(name) > 2 else []
    return near[0] if near else None


def joined(words: Sequence[str]) -> list[str]:
    """Settings that blanks have torn apart, or that have a colon for the equals sign, as one word each."""
    found: list[str] = []
    for word in words:
        last = found[-1] if found else "~"
        waits = "=" not in last and not last.startswith("~")  # a key without its value
        if waits and word[0] in "=:":
            found[-1] = f"{last}={word[1:]}"
        elif last.endswith("=") and "=" not in word:
            found[-1] += word
        elif unfinished(last):
            found[-1] += f" {word}"
        elif "=" in word or word.startswith("~"):
            found.append(word)
        elif waits:
            found[-1] = f"{last.removesuffix(':')}={word}"
        elif last.endswith(","):
            found[-1] += word
        else:
            found.append(word.replace(":", "=", 1) if re.fullmatch(rf"{KEY}:.+", word) else word)
    whole: list[str] = []
    for word in found:
        if "=" in word or word.startswith("~") or not whole:
            whole.append(word)
        else:
            whole[-1] += f" {word}"  # the rest of a text
    return whole


def unfinished(word: str) -> bool:
    """Whether a bracket or a quote is still open."""
    return any(word.count(a) > word.count(b) for a, b in ("[]", "{}", "()")) or word.count("'") % 2 == 1
