"""`nanocache import`: bring in what `nanocache export` wrote."""

from __future__ import annotations

import argparse
from typing import Any

from ..cache import Cache
from . import tables
from .arguments import EXIT_CODES, OK, about_base, about_json, parser
from .output import data

__all__ = ["add_to"]

_DESCRIPTION = """\
Bring in the bundle FILE, or its parts FILE.000, FILE.001, ...: its artifacts are cached then, each verified, and its
URLs are hits. What is here already is skipped, so that an import that was interrupted goes on."""
_EXAMPLES = """\
examples:
  nanocache import project.tar
  nanocache import /media/stick/project.tar.000
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser,
        "import",
        help="bring in what export wrote",
        description=_DESCRIPTION,
        epilog=f"{EXIT_CODES}\n{_EXAMPLES}",
    )
    command.add_argument("file", metavar="FILE", help="the tar, or its parts")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    loaded = Cache(options.dir).load(options.file, progress=False if options.quiet else None)
    here = len(loaded.digests) - loaded.added
    if options.json:
        tables.as_json(digests=loaded.digests, added=loaded.added, size=loaded.size)
        return OK
    data(f"{loaded.added:,} artifacts, {tables.size(loaded.size)}, came; {here:,} were here")
    return OK
