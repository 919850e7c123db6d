"""`nanocache fetch`: the path of an artifact, downloaded if it is not here."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from ..artifact import urls
from ..cache import Cache
from .arguments import EXIT_CODES, OK, about_artifact, digest_of, parser

__all__ = ["add_to"]

DESCRIPTION = """\
Download URL unless it is here, verified, and print its path. Another process that wants the same at this moment
downloads nothing."""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser,
        "fetch",
        help="download it unless it is here, and print its path",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
    )
    about_artifact(command)
    command.add_argument("--mirror", metavar="URL", action="append", default=[], help="another URL of the same bytes")
    command.add_argument(
        "--header", metavar="'NAME: VALUE'", action="append", default=[], help="sent to URL's own host only"
    )
    command.add_argument("--max-age", metavar="SECONDS", type=float, help="ask the server again after so many seconds")
    command.add_argument(
        "--rehash", action="store_true", help="read the bytes even if nothing seems to have touched them"
    )
    command.add_argument("--offline", action="store_true", help="never use the network")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress, and no digest to pin")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    path = Cache(options.dir).fetch(
        options.url,
        sha256=options.sha256,
        filename=options.filename,
        mirrors=options.mirror,
        headers=[_header(text) for text in options.header] or None,
        postprocess=options.postprocess,
        rehash=options.rehash,
        max_age=options.max_age,
        offline=options.offline or None,
        progress=False if options.quiet else None,
    )
    print(path)
    if options.sha256 is None and not options.quiet:
        pinned = f"{shlex.quote(urls.redact(options.url))} --sha256 {digest_of(path)}"
        print(f"to pin it: nanocache fetch {pinned}", file=sys.stderr)
    return OK


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError("a header is 'Name: value', with a colon")  # the text may be a secret: it is not quoted
    return name.strip(), value.strip()
