"""`nanocache pin` and `nanocache unpin`: what is never evicted."""

from __future__ import annotations

import argparse
from typing import Any

from ..cache import Cache
from ..upkeep.targets import digests_of
from . import tables
from .arguments import OK, about_base, about_json, parser

__all__ = ["add_to"]

_PIN = "Never evict TARGET (a path, a URL, or a digest), nor what was built of it."
_UNPIN = "Let TARGET be evicted again."
_PIN_EXAMPLES = """\
examples:
  nanocache pin hf://owner/name --note "baseline of the paper"
  nanocache ls | grep pinned
"""
_UNPIN_EXAMPLES = """\
examples:
  nanocache unpin hf://owner/name
"""


def add_to(commands: Any) -> None:
    """Add the commands to argparse's sub-commands."""
    pin = parser(commands.add_parser, "pin", help="never evict it", description=_PIN, epilog=_PIN_EXAMPLES)
    pin.add_argument("--note", metavar="TEXT", default="", help="why, for people")
    unpin = parser(commands.add_parser, "unpin", help="let it be evicted", description=_UNPIN, epilog=_UNPIN_EXAMPLES)
    for command, run in ((pin, _pin), (unpin, _unpin)):
        command.add_argument("targets", metavar="TARGET", nargs="+", help="a path, a URL, or a digest")
        about_json(command)
        about_base(command)
        command.set_defaults(run=run)


def _pin(options: argparse.Namespace) -> int:
    cache = Cache(options.dir)
    cache.pin(options.targets, options.note)
    return _told(cache, options, pinned=True)


def _unpin(options: argparse.Namespace) -> int:
    cache = Cache(options.dir)
    cache.unpin(options.targets)
    return _told(cache, options, pinned=False)


def _told(cache: Cache, options: argparse.Namespace, *, pinned: bool) -> int:
    if options.json:
        digests = digests_of(cache.store, options.targets)
        tables.as_json(base_dir=str(cache.base_dir), digests=digests, pinned=pinned)
    return OK
