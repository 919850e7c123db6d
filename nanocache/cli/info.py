"""`nanocache info`: what a file is, where it came from, and what keeps it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

from ..cache import Cache
from ..retention.reasons import GRACE
from ..upkeep.entries import Entry
from . import tables
from .arguments import OK, about_base, about_json, parser
from .output import data

__all__ = ["add_to"]

_DESCRIPTION = """\
Say what TARGET is, where it came from, since when it is here, when its bytes were last verified, who uses it, and why
it is still here. TARGET is a path, a URL, or a digest of which the first 8 digits suffice."""
_EXAMPLES = """\
exit codes:
  0    it is here
  3    nothing of it is cached

examples:
  nanocache info https://host/weights.safetensors
  nanocache info 9f86d081
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser, "info", help="say what a path is, and why", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    command.add_argument("target", metavar="TARGET", help="a path, a URL, or a digest")
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    cache = Cache(options.dir)
    entry = cache.info(options.target)
    if options.json:
        uses = {"holders": entry.holders, "snapshots": entry.snapshots}
        tables.as_json(base_dir=str(cache.base_dir), **entry.to_json(), **uses)
        return OK
    for name, text in _facts(entry, own=all(map(cache.store.holds, (*entry.paths, *entry.products)))):
        data(f"{name:<10}{text}")
    return OK


def _facts(entry: Entry, *, own: bool) -> Iterator[tuple[str, str]]:
    """What is known, a line each. Paths and URLs are whole: they are copied."""
    yield "what", _what(entry)
    yield "sha256", entry.digest
    yield "size", f"{tables.size(entry.size)} ({entry.size:,} bytes)"
    yield from (("path", tables.shown(path)) for path in entry.paths)
    yield from (("built", tables.shown(path)) for path in entry.products)
    yield from (("from", tables.shown(url)) for url in entry.urls or ("unknown: it was fetched by its digest",))
    yield "since", f"{tables.age(entry.created)} ago"
    yield "used", f"{tables.age(entry.used)} ago, to the hour"
    yield "verified", _verified(entry)
    if entry.links:
        names = "name" if entry.links == 1 else "names"
        yield "links", f"{entry.links} further {names} outside, in snapshots or folders of yours"
    yield from (("kept", why) for why in (_kept(entry) if own else ["in a read-only cache: its owner decides"]))


def _what(entry: Entry) -> str:
    if entry.is_snapshot:
        return "a snapshot: the list of its files, and folders of links to them"
    if not entry.paths:
        return "what was built of an artifact; the artifact itself is gone"
    return "an artifact" + (", and what was built of it" if entry.products else "")


def _kept(entry: Entry) -> list[str]:
    """Why it is still here, and which processes use it."""
    note = f": {tables.shown(entry.note)}" if entry.note else ""
    why = [
        *([f"it is pinned{note}"] if entry.pinned else []),
        *(f"{holder} holds it" for holder in entry.holders),
        *(f"a snapshot shows it: {tables.shown(folder)}" for folder in entry.snapshots),
        *(["it was used less than 2 h ago"] if time.time() - entry.used < GRACE else []),
    ]
    return why or ["by nothing: a prune that needs the room takes it"]


def _verified(entry: Entry) -> str:
    if entry.verified is not None:
        return f"{tables.age(entry.verified)} ago, to the day; not written to since"
    if not entry.paths:
        return "the artifact itself is gone"
    return "no: it was written to since; the next fetch reads it, and heals it"
