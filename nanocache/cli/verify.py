"""`nanocache verify`: is what is cached what it should be?"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from ..cache import Cache
from . import tables
from .arguments import FAILED, OK, about_base, about_json, parser
from .output import data

__all__ = ["add_to"]

_DESCRIPTION = """\
Read all that is cached, or the TARGETs (paths, URLs, digests), and compare it with its digests. What is damaged is
listed, and is no hit any more. With --repair it is made or downloaded again."""
_EXAMPLES = """\
exit codes:
  0    sound, or repaired
  1    there is damage left

examples:
  nanocache verify --repair
  nanocache verify 9f86d081 /data/cache/blobs-v1/sha256/3a/3a7b.../model.bin
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser, "verify", help="read it all, and compare", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    command.add_argument("targets", metavar="TARGET", nargs="*", help="(default: everything)")
    command.add_argument("--repair", action="store_true", help="make or download again what is damaged")
    command.add_argument("--workers", metavar="N", type=int, help="threads that read (default: one for each core)")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with _said_once():
        found = Cache(options.dir).verify(
            options.targets or None,
            repair=options.repair,
            workers=options.workers,
            progress=False if options.quiet else None,
        )
    if options.json:
        tables.as_json(**asdict(found), repaired=found.repaired, left=found.left)
        return OK if found.sound else FAILED
    for damage in found.damage:
        data(f"{'repaired' if damage.repaired else 'damaged'}: {tables.shown(damage.path)}: {damage.reason}")
    data(f"{found.checked:,} files read, {tables.size(found.size)}: {_verdict(found.left, found.repaired)}")
    return OK if found.sound else FAILED


@contextmanager
def _said_once() -> Iterator[None]:
    """Have the library not warn of what is listed anyway."""
    logger = logging.getLogger("nanocache")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)


def _verdict(left: int, repaired: int) -> str:
    if left:
        return f"{left} damaged" + (
            f", {repaired} repaired" if repaired else "; with --repair it is made or downloaded again"
        )
    return f"{repaired} repaired" if repaired else "sound"
