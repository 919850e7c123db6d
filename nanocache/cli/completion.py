"""Completion for shells: the only module that knows shtab, which reads it off the parser.

The commands know nothing of it: what is a file or a folder is told by an argument's metavar. Nothing is imported
before a script is asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from .output import data

__all__ = ["SHELLS", "PrintCompletion"]

SHELLS = ("bash", "zsh", "fish")
FOLDERS_NAMED = ("DIR",)  # metavars
FILES_NAMED = ("FILE", "TARGET", "LOCK", "PATH", "KEY")


class PrintCompletion(argparse.Action):
    """Print the script of a shell, and end."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        data(_script(parser, values).rstrip())
        parser.exit()


def _script(top: argparse.ArgumentParser, shell: str) -> str:
    try:
        import shtab
    except ImportError:
        raise OSError("completion needs a package: pip install 'nanocache[completion]'") from None
    for action in _actions(top):
        if isinstance(action, argparse._SubParsersAction):
            _shorten(action)
        elif _is_named(action, FOLDERS_NAMED):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif _is_named(action, FILES_NAMED):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    script: str = shtab.complete(top, shell=shell)
    return script


def _is_named(action: argparse.Action, names: tuple[str, ...]) -> bool:
    return any(name in names for name in str(action.metavar).split("|"))


def _shorten(commands: argparse._SubParsersAction[Any]) -> None:
    """Have a command be described by its one line in the list, instead of by the first line of its own help."""
    for line in commands._choices_actions:
        commands.choices[line.dest].description = line.help


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
