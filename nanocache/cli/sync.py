"""`nanocache sync`: have all here that nanocache.lock names."""

from __future__ import annotations

import argparse
from typing import Any

from ..calls.locks import open_lock
from ..lockfile.file import LOCK_FILE
from .arguments import EXIT_CODES, OK, about_base, about_json, parser
from .output import data
from .tables import as_json

__all__ = ["add_to"]

_DESCRIPTION = """\
Have all artifacts of nanocache.lock in the current folder here, with the digests that it has, and print their paths. A
server that gives other bytes is exit code 4. A lock file that was merged or written by hand is put into its usual form;
with --frozen it stays as it is."""
_EXAMPLES = """\
examples:
  nanocache sync --frozen --into data
  nanocache sync --require-signature key.pub
  nanocache sync --file registry.txt       pooch's, TFDS's, or sha256sum's
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser,
        "sync",
        help="have all here that nanocache.lock names",
        description=_DESCRIPTION,
        epilog=f"{EXIT_CODES}\n{_EXAMPLES}",
    )
    command.add_argument("--frozen", action="store_true", help="do not touch the lock file")
    command.add_argument("--require-signature", metavar="PUBKEY", help="refuse a lock file that this key did not sign")
    command.add_argument("--file", metavar="FILE", default=LOCK_FILE, help=f"the lock file (default: {LOCK_FILE})")
    command.add_argument("--into", metavar="DIR", help="have all in DIR as well, under their names")
    command.add_argument("--offline", action="store_true", help="never use the network")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    lock = open_lock(options.file, require_signature=options.require_signature, base_dir=options.dir)
    paths = lock.sync(
        frozen=options.frozen,
        into=options.into,
        offline=options.offline or None,
        progress=False if options.quiet else None,
    )
    if options.json:
        as_json(artifacts={name: str(path) for name, path in paths.items()})
        return OK
    for path in paths.values():
        data(path)
    return OK
