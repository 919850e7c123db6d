"""Output for a person: tables that fit the terminal, sizes and ages in words. And JSON for a machine.

Invariants: no line is wider than the terminal, 80 columns where there is none; what a stranger named shows no control
character. JSON has one object, `schema` first; sizes are bytes, times seconds since the epoch, digests whole.
"""

from __future__ import annotations

import json
import shutil
import time
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from .output import data

__all__ = ["SCHEMA", "age", "as_json", "rows", "shown", "size"]

SCHEMA = 1  # raised when a field changes its meaning or goes
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")  # of 1000 each
# Seconds up to which an age is given in a unit -> the unit's length, and its name.
AGES = ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h"), (86_400 * 730, 86_400, "days"))
YEAR = 86_400 * 365.25  # seconds
GAP = "  "  # between two columns


def size(count: float) -> str:
    """Bytes, to three digits: 1.23 GB is 1,230,000,000."""
    for unit in UNITS:
        if count < 999.5 or unit == UNITS[-1]:
            break
        count /= 1000
    digits = 0 if unit == "B" else max(0, 3 - len(f"{count:.0f}"))
    return f"{count:.{digits}f} {unit}"


def age(then: float, now: float | None = None) -> str:
    """How long ago that was."""
    seconds = max(0.0, (time.time() if now is None else now) - then)
    for limit, length, unit in AGES:
        if seconds < limit:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds / YEAR:.1f} years"


def shown(text: str, width: int | None = None) -> str:
    """`text` as a terminal may show it, cut to `width` columns in its middle."""
    plain = text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
    if width is None or _width(plain) <= width:
        return plain
    end = plain
    while end and _width(end) > (width - 3) // 2:
        end = end[1:]
    while plain and _width(plain) > width - 3 - _width(end):
        plain = plain[:-1]
    return f"{plain}...{end}"


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def columns() -> int:
    """The terminal's width."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def rows(head: Sequence[str], lines: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> None:
    """Write a table; the columns in `right` stand to the right, and the last one takes what is left of the line."""
    table = [head, *lines]
    widths = [max(_width(line[n]) for line in table) for n in range(len(head) - 1)]
    rest = max(8, columns() - sum(widths) - len(GAP) * len(widths))
    data("\n".join(_line(line, widths, rest, right) for line in table))  # one write: there may be 100,000 lines


def _line(line: Sequence[str], widths: Sequence[int], rest: int, right: Collection[int]) -> str:
    cells = [_cell(text, width, n in right) for n, (text, width) in enumerate(zip(line, widths, strict=False))]
    return GAP.join([*cells, shown(line[-1], rest)]).rstrip()


def _cell(text: str, width: int, right: bool) -> str:
    blank = " " * (width - _width(text))
    return blank + text if right else text + blank


def as_json(**facts: Any) -> None:
    """Write one object."""
    data(json.dumps({"schema": SCHEMA, **facts}))
