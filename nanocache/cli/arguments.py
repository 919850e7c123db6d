"""What the commands share: exit codes, arguments that say which artifact, and how a failure is told.

No command is here. Invariant: what a command prints on stdout is data; `fail` writes to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..archives.unpack import Decompress, Unpack

__all__ = ["EXIT_CODES", "about_artifact", "about_base", "digest_of", "fail", "parser"]

OK, FAILED, USAGE, NOT_CACHED, MISMATCH, INTERRUPTED = 0, 1, 2, 3, 4, 130

EXIT_CODES = """\
exit codes:
  0    done; the path is on stdout
  1    the download, the unpacking or the disk failed
  2    the arguments are wrong
  3    not cached (lookup, --offline, or a read-only cache)
  4    the bytes have another SHA-256; nothing was cached
  130  interrupted; what had come is kept, and the next call goes on from there
"""


def parser(make: Callable[..., argparse.ArgumentParser], *names: str, **options: Any) -> argparse.ArgumentParser:
    """A parser whose help keeps its line breaks."""
    return make(*names, formatter_class=argparse.RawDescriptionHelpFormatter, **options)


def fail(error: object, code: int) -> int:
    print(f"nanocache: {error}", file=sys.stderr)
    return code


def about_artifact(command: argparse.ArgumentParser) -> None:
    """The arguments that say which artifact is meant, and where it lies."""
    command.add_argument("url", metavar="URL", help="http, https or file")
    command.add_argument("--sha256", metavar="HEX", help="the SHA-256 that it must have")
    command.add_argument("--filename", metavar="NAME", help="its name on disk (default: from URL)")
    hooks = command.add_mutually_exclusive_group()
    hooks.add_argument(
        "--unpack",
        dest="postprocess",
        action="store_const",
        const=Unpack(),
        help="unpack a tar or zip, and print the folder",
    )
    hooks.add_argument(
        "--decompress",
        dest="postprocess",
        action="store_const",
        const=Decompress(),
        help="decompress a gz, xz, ..., and print the file",
    )
    about_base(command)


def about_base(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dir", metavar="DIR", type=os.path.expanduser, help="base directory (default: NANOCACHE_DIR)"
    )


def digest_of(path: Path) -> str:
    """The artifact's digest, from where it or its product lies."""
    folder = path.parent
    return folder.name if len(folder.name) == 64 else folder.parent.name
