"""Sizes and ages as people write them: 50GB, 512MiB, 80%, 30d.

Invariant: GB is 10^9 bytes and GiB 2^30, whatever the case; what cannot be read is a ValueError that names the setting.
"""

from __future__ import annotations

import os
import re

__all__ = ["read_age", "read_size"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", re.IGNORECASE)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.IGNORECASE)
_PREFIXES = " kmgtp"
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def read_size(name: str, value: object, base: str) -> int:
    """Bytes. A share is of the disk that holds `base`. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        if match := _SHARE.fullmatch(value.strip()):
            return _share(name, value, float(match[1]), base)
        if match := _SIZE.fullmatch(value.strip()):
            unit = 1024 if match[3] else 1000
            return int(float(match[1]) * unit ** _PREFIXES.index(match[2].lower() or " "))
    raise ValueError(f"{name} must be bytes, like 50000000000, 50GB, 50GiB, or a share of the disk, 80%; got {value!r}")


def _share(name: str, value: str, percent: float, base: str) -> int:
    if percent > 100:
        raise ValueError(f"{name} must be at most 100%, got {value!r}")
    while not os.path.isdir(base):
        base = os.path.dirname(base)
    st = os.statvfs(base)
    return int(st.f_blocks * st.f_frsize * percent / 100)


def read_age(name: str, text: str) -> float:
    """Seconds, from `3600`, `90m`, `12h`, `30d`, `2w`. Raises ValueError."""
    if (match := _AGE.fullmatch(text.strip())) is None:
        raise ValueError(f"{name} must be seconds, or like 90m, 12h, 30d, 2w; got {text!r}")
    return float(match[1]) * SECONDS[match[2].lower()]
