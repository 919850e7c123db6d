"""`nanocache du`: how much the cache takes, and for what."""

from __future__ import annotations

import argparse
from typing import Any

from ..cache import Cache
from ..upkeep import usage
from . import tables
from .arguments import OK, about_base, about_json, parser

__all__ = ["add_to"]

_DESCRIPTION = """\
Say how many bytes the cache takes on disk, and for what. A file with several names is counted once: the files of a
snapshot are further names of blobs."""
_EXAMPLES = """\
examples:
  nanocache du
  nanocache du --json | jq .size           bytes, all together
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser, "du", help="say how much the cache takes", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    cache = Cache(options.dir)
    found = usage.measure(cache.store)
    files, size = sum(one.files for one in found), sum(one.size for one in found)
    if options.json:
        kinds = [one.to_json() for one in found]
        tables.as_json(base_dir=str(cache.base_dir), files=files, size=size, kinds=kinds)
        return OK
    lines = [(tables.size(one.size), f"{one.files:,}", one.kind) for one in found]
    tables.rows(("SIZE", "FILES", "WHAT"), [*lines, (tables.size(size), f"{files:,}", "all")], right=(0, 1))
    return OK
