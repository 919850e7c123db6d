"""What the commands share: exit codes, arguments that say which artifact, and what they make of them.

No command is here, and nothing is printed.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..archives.unpack import Decompress, Unpack

__all__ = ["EXIT_CODES", "about_artifact", "about_base", "about_json", "digest_of", "facts_of", "header", "parser"]

OK = 0
FAILED = 1
USAGE = 2
NOT_CACHED = 3
MISMATCH = 4
INTERRUPTED = 130

EXIT_CODES = """\
exit codes:
  0    done; the path is on stdout
  1    the download, the unpacking or the disk failed
  2    the arguments are wrong
  3    not cached (lookup, --offline, a read-only cache), or not locked
  4    the bytes have another SHA-256; nothing was cached
  130  interrupted; what had come is kept, and the next call goes on from there
"""


def parser(make: Callable[..., argparse.ArgumentParser], *names: str, **options: Any) -> argparse.ArgumentParser:
    """A parser whose help keeps the line breaks of its examples, and fits 80 columns."""
    options["description"] = textwrap.fill(options["description"], 80)
    return make(*names, formatter_class=argparse.RawDescriptionHelpFormatter, **options)


def about_artifact(command: argparse.ArgumentParser) -> None:
    """The arguments that say which artifact is meant, and where it lies."""
    command.add_argument("--sha256", metavar="HEX", help="the SHA-256 that it must have")
    command.add_argument("--filename", metavar="NAME", help="its name on disk (default: from URL)")
    command.add_argument(
        "--header", metavar="'NAME: VALUE'", action="append", default=[], help="sent to URL's own host only"
    )
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


def about_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument("--into", metavar="DIR", help="have it in DIR as well, under its name, and print that path")


def about_base(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dir", metavar="DIR", help="base directory (default: NANOCACHE_DIR)")


def about_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="one JSON object, for a program")


def header(text: str) -> tuple[str, str]:
    """The header that `--header` says. Raises ValueError."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError("a header is 'Name: value', with a colon")  # the text may be a secret: it is not quoted
    return name.strip(), value.strip()


def facts_of(url: str, path: Path, digest: str | None) -> dict[str, Any]:
    """What JSON says of an artifact. `size`: bytes; None of a folder."""
    return {"url": url, "path": str(path), "sha256": digest, "size": path.stat().st_size if path.is_file() else None}


def digest_of(path: Path) -> str:
    """The artifact's digest, from where it or its product lies."""
    folder = path.parent
    return folder.name if len(folder.name) == 64 else folder.parent.name
