"""`nanocache dir`: the base directory in use."""

from __future__ import annotations

import argparse
from typing import Any

from ..cache import Cache
from . import tables
from .arguments import OK, about_base, about_json, parser
from .output import data

__all__ = ["add_to"]

_EXAMPLES = """\
examples:
  nanocache dir                            where everything is
  df -h "$(nanocache dir)"                 the disk that it is on
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser,
        "dir",
        help="print the base directory",
        description="Print the base directory.",
        epilog=_EXAMPLES,
    )
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    base = Cache(options.dir).base_dir
    if options.json:
        tables.as_json(base_dir=str(base))
        return OK
    data(base)
    return OK
