"""`nanocache ls`: what is cached."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from ..cache import Cache
from ..upkeep.entries import Entry
from . import tables
from .arguments import OK, about_base, about_json, parser

__all__ = ["add_to"]

# --sort -> the order.
ORDERS = {
    "used": lambda entry: -entry.used,
    "size": lambda entry: -entry.size,
    "name": lambda entry: (entry.names, entry.digest),
    "created": lambda entry: -entry.created,
}
_EXAMPLES = """\
examples:
  nanocache ls --sort size | head          the largest
  nanocache ls --json | jq -r '.entries[] | select(.pinned) | .urls[]'
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser,
        "ls",
        help="list what is cached",
        description="List what is cached, one line for each digest, the last used first.",
        epilog=_EXAMPLES,
    )
    command.add_argument("--sort", choices=ORDERS, default="used", help="(default: used)")
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    cache = Cache(options.dir)
    entries = sorted(cache.entries(), key=ORDERS[options.sort])
    if options.json:
        tables.as_json(base_dir=str(cache.base_dir), entries=[entry.to_json() for entry in entries])
        return OK
    now = time.time()
    head = ("DIGEST", "SIZE", "USED", "KEPT", "NAME")
    tables.rows(head, (_line(entry, now) for entry in entries), right=(1, 2))
    return OK


def _line(entry: Entry, now: float) -> tuple[str, ...]:
    kept = "pinned" if entry.pinned else "held" if entry.held else "-"
    return entry.digest[:12], tables.size(entry.size), tables.age(entry.used, now), kept, _name(entry)


def _name(entry: Entry) -> str:
    if entry.is_snapshot:
        return ", ".join(f"{os.path.basename(path)}/ (a snapshot)" for path in entry.products)
    names = ", ".join(entry.names) or "(only what was built of it)"
    return f"{names} (written to since)" if entry.paths and entry.verified is None else names
