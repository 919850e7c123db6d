"""`nanocache export`: what a machine without a network needs, in one tar."""

from __future__ import annotations

import argparse
from typing import Any

from ..cache import Cache
from .arguments import EXIT_CODES, OK, about_base, about_json, parser
from .output import data
from .tables import as_json

__all__ = ["add_to"]

_DESCRIPTION = """\
Write what lock files or TARGETs (paths, URLs, digests) mean into a tar, and print its path. What of a lock file or of
URLs is missing is fetched first. `nanocache import` brings it in elsewhere. The same artifacts give the same bytes."""
_EXAMPLES = """\
examples:
  nanocache export nanocache.lock -o project.tar
  nanocache export nanocache.lock -o /media/stick/project.tar --split 4GB
  nanocache export hf://owner/name -o model.tar
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser,
        "export",
        help="write what a lock file names into a tar",
        description=_DESCRIPTION,
        epilog=f"{EXIT_CODES}\n{_EXAMPLES}",
    )
    command.add_argument("targets", metavar="LOCK|TARGET", nargs="+", help="a lock file, or a path, URL or digest")
    command.add_argument("-o", "--output", metavar="FILE", required=True, help="the tar")
    command.add_argument("--split", metavar="SIZE", help="parts of this size: FILE.000, FILE.001, ... (4GB, 4GiB)")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    progress = False if options.quiet else None
    paths = Cache(options.dir).export(options.targets, options.output, split=options.split, progress=progress)
    if options.json:
        as_json(paths=[str(path) for path in paths])
        return OK
    for path in paths:
        data(path)
    return OK
