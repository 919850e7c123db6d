"""What a run shows on the terminal: coloured log lines, a banner, and a stand-in for wandb.

Not a logging set-up that happens by itself: `setup_default_logging` is called, or nothing changes. Invariants: handlers
that an application installed are left alone; escape codes go to a terminal only, and not under NO_COLOR.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any, TextIO

from ..rank import print0

__all__ = ["ColoredFormatter", "DummyWandb", "print_banner", "setup_default_logging"]

FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"

RESET, BOLD = "\033[0m", "\033[1m"
GREEN, YELLOW, RED, MAGENTA, CYAN = "\033[32m", "\033[33m", "\033[31m", "\033[35m", "\033[36m"
LEVELS = {"DEBUG": CYAN, "INFO": GREEN, "WARNING": YELLOW, "ERROR": RED, "CRITICAL": MAGENTA}

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?\s*(?:GB|MB|%|docs))")
_SHARD = re.compile(r"(Shard \d+)")

BANNER = r"""
  _ __   __ _ _ __   ___
 | '_ \ / _` | '_ \ / _ \
 | | | | (_| | | | | (_) |
 |_| |_|\__,_|_| |_|\___/
"""


class ColoredFormatter(logging.Formatter):
    """Colours the level and, in INFO lines, sets amounts (GB, MB, %, docs) bold and `Shard 12` green."""

    def format(self, record: logging.LogRecord) -> str:
        colored = logging.makeLogRecord(record.__dict__)  # other handlers get the same record, uncoloured
        if color := LEVELS.get(record.levelname):
            colored.levelname = f"{color}{BOLD}{record.levelname}{RESET}"
        text = super().format(colored)
        if record.levelno == logging.INFO:
            text = _AMOUNT.sub(rf"{BOLD}\1{RESET}", text)
            text = _SHARD.sub(rf"{GREEN}{BOLD}\1{RESET}", text)
        return text


def setup_default_logging(level: int = logging.INFO) -> None:
    """Log `level` and above to stderr, coloured on a terminal. Does nothing if the root logger has handlers."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(ColoredFormatter(FORMAT) if wants_color(handler.stream) else logging.Formatter(FORMAT))
    root.addHandler(handler)
    root.setLevel(level)


def wants_color(stream: TextIO) -> bool:
    """Whether escape codes belong there: a terminal, and NO_COLOR (https://no-color.org) unset or empty."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def print_banner() -> None:
    """Print the banner, on rank 0."""
    color = wants_color(sys.stdout)
    print0(f"{GREEN}{BANNER}{RESET}" if color else BANNER)


class DummyWandb:
    """Takes the calls that a wandb run takes, and does nothing."""

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass

    def finish(self, *args: Any, **kwargs: Any) -> None:
        pass
