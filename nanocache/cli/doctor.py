"""`nanocache doctor`: what works on the disk of the cache, what degrades, and what to set."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from ..cache import Cache
from ..diagnosis.doctor import doctor
from ..diagnosis.findings import FINE, FROM_GOOD_TO_BAD, Finding, worst
from . import tables
from .arguments import about_base, about_json, parser
from .output import data

__all__ = ["add_to"]

_DESCRIPTION = """\
Try on the disk of the base directory what a fetch needs of it (locks, renames, links, times, syncing, room), look at
the settings, and say what works, what degrades, and what to do. Takes 2 seconds, and is safe beside running fetches."""
_EXAMPLES = """\
exit codes:
  0    all is fine
  1    it works, with losses: files are right, and something is slower or larger
  2    it is unusable: fetches fail

examples:
  nanocache doctor
  nanocache doctor --dir /scratch/cache --json | jq -r .level
"""
MARKS = dict(zip(FROM_GOOD_TO_BAD, ("fine", "LOSSES", "UNUSABLE"), strict=True))
INDENT = 10  # columns of the level, which stands before all


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser,
        "doctor",
        help="try what works on this disk, and say what to set",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    found = doctor(options.dir)
    level = worst(found)
    if options.json:
        tables.as_json(base_dir=_base(options.dir), level=level, findings=[finding.to_json() for finding in found])
        return FROM_GOOD_TO_BAD.index(level)
    for finding in found:
        _show(finding)
    count = sum(finding.level == level for finding in found)
    data(f"{level}" + ("" if level == FINE else f": {count} of {len(found)}"))
    return FROM_GOOD_TO_BAD.index(level)


def _base(given: str | None) -> str | None:
    try:
        return str(Cache(given).base_dir)
    except ValueError:  # which is among the findings
        return None


def _show(finding: Finding) -> None:
    _paragraph(MARKS[finding.level], f"{finding.probe}: {finding.seen}")
    for name, text in (("lost", finding.degrades), ("to do", finding.remedy)):
        if text:
            _paragraph("", f"  {name}: {text}")


def _paragraph(mark: str, text: str) -> None:
    lead = len(text) - len(text.lstrip())
    data(
        textwrap.fill(
            tables.shown(text).lstrip(),
            tables.columns(),
            initial_indent=f"{mark:<{INDENT}}{' ' * lead}",
            subsequent_indent=" " * (INDENT + 2 + lead),
            break_on_hyphens=False,
        )
    )
