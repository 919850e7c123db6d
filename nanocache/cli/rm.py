"""`nanocache rm`: remove what is cached."""

from __future__ import annotations

import argparse
from typing import Any

from ..cache import Cache
from . import tables
from .arguments import OK, about_base, about_json, parser
from .output import note

__all__ = ["add_to"]

_DESCRIPTION = """\
Remove each TARGET (a path, a URL, or a digest), what was built of it, and the memory of its URLs. With a snapshot go
its files that no other snapshot shows. What is pinned, or held by a process, is refused."""
_EXAMPLES = """\
examples:
  nanocache rm https://host/weights.safetensors
  nanocache rm hf://owner/name
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser, "rm", help="remove what is cached", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    command.add_argument("targets", metavar="TARGET", nargs="+", help="a path, a URL, or a digest")
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    cache = Cache(options.dir)
    removed = cache.remove(options.targets)
    if options.json:
        tables.as_json(base_dir=str(cache.base_dir), removed=removed)
        return OK
    for digest in removed:
        note(f"removed {digest}")
    return OK
