"""Sizes and ages as people write them: 50GB, 512MiB, 80%, 30d.

Invariant: GB is 10^9 bytes and GiB 2^30, whatever the case; what cannot be read is a ValueError that names the setting.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

__all__ = ["Size", "parse_size", "read_age", "read_size"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", re.IGNORECASE | re.ASCII)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%", re.ASCII)
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.IGNORECASE | re.ASCII)
_PREFIXES = " kmgtp"
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Size(NamedTuple):
    """So many bytes, or a share of a disk whose size is asked for when it counts."""

    size: int
    percent: float | None = None

    def on(self, base: str) -> int:
        """Bytes. A share is of the disk that holds `base`, which need not be there yet."""
        if self.percent is None:
            return self.size
        while not os.path.isdir(base):
            base = os.path.dirname(base)
        st = os.statvfs(base)
        return int(st.f_blocks * st.f_frsize * self.percent / 100)


def parse_size(name: str, value: object) -> Size:
    """Raises ValueError, which calls the setting `name`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Size(value)
    if isinstance(value, str):
        if match := _SHARE.fullmatch(value.strip()):
            return _share(name, value, float(match[1]))
        if match := _SIZE.fullmatch(value.strip()):
            unit = 1024 if match[3] else 1000
            number = int(match[1]) if match[1].isdigit() else float(match[1])
            return Size(int(number * unit ** _PREFIXES.index(match[2].lower() or " ")))
    raise ValueError(f"{name} must be bytes, like 50000000000, 50GB, 50GiB, or a share of the disk, 80%; got {value!r}")


def _share(name: str, value: str, percent: float) -> Size:
    if percent > 100:
        raise ValueError(f"{name} must be at most 100%, got {value!r}")
    return Size(0, percent)


def read_size(name: str, value: object, base: str) -> int:
    """Bytes; of a share, those of the disk that holds `base`. Raises ValueError."""
    return parse_size(name, value).on(base)


def read_age(name: str, text: str) -> float:
    """Seconds, from `3600`, `90m`, `12h`, `30d`, `2w`. Raises ValueError."""
    if (match := _AGE.fullmatch(text.strip())) is None:
        raise ValueError(f"{name} must be seconds, or like 90m, 12h, 30d, 2w; got {text!r}")
    return float(match[1]) * SECONDS[match[2].lower()]
