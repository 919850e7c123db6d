"""`nanocache prune`: make room."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ..cache import Cache
from ..retention.prune import Pruned, Ruling
from ..sizes import read_age
from . import tables
from .arguments import OK, about_base, about_json, parser
from .output import data

__all__ = ["add_to"]

_DESCRIPTION = """\
Evict what is beyond a limit: first what killed processes left, then what hooks and snapshots made, then artifacts; of
each the longest unused first. Never what is pinned, held by a process, kept, or was used within 2 hours."""
_EXAMPLES = """\
examples:
  nanocache prune --max-size 500GB --dry-run --explain
  nanocache prune --older-than 30d --keep nanocache.lock
  nanocache prune                          only what killed processes left
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser, "prune", help="evict what was long unused", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    command.add_argument("--max-size", metavar="SIZE", help="bytes, 50GB, 50GiB, or 80%% of the disk")
    command.add_argument("--older-than", metavar="AGE", help="unused for so long: seconds, or 12h, 30d, 2w")
    command.add_argument(
        "--keep", metavar="TARGET", action="append", default=[], help="a path, URL, digest or lock file (repeatable)"
    )
    command.add_argument("-n", "--dry-run", action="store_true", help="only say what would go")
    command.add_argument("--explain", action="store_true", help="say of each thing why it goes or stays")
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    pruned = Cache(options.dir).prune(
        max_size=options.max_size,
        older_than=None if options.older_than is None else read_age("--older-than", options.older_than),
        keep=options.keep,
        dry_run=options.dry_run,
    )
    if options.json:
        kept = {} if options.explain else {"kept": len(pruned.kept)}
        tables.as_json(**asdict(pruned) | kept, freed=pruned.freed)
        return OK
    if options.explain:
        _explain(pruned)
    went = "would go" if pruned.dry_run else "went"
    data(f"{tables.size(pruned.freed)} {went} ({len(pruned.removed):,} things); {tables.size(pruned.size)} stay")
    return OK


def _explain(pruned: Pruned) -> None:
    now = time.time()
    went = "would go" if pruned.dry_run else "went"
    lines = [*_lines(pruned.removed, went, now), *_lines(pruned.kept, "stays", now)]
    if lines:
        tables.rows(("", "SIZE", "USED", "WHAT", "WHY"), lines, right=(1, 2))


def _lines(outcomes: tuple[Ruling, ...], verdict: str, now: float) -> Iterator[tuple[str, ...]]:
    for one in outcomes:
        what = f"{one.kind} {one.path.rpartition('/')[2][:12]}"
        yield verdict, tables.size(one.size), tables.age(one.used, now), what, one.reason
