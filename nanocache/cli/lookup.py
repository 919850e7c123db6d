"""`nanocache lookup`: the path of an artifact that is here, without the network."""

from __future__ import annotations

import argparse
from typing import Any

from ..artifact import urls
from ..cache import Cache
from . import tables
from .arguments import EXIT_CODES, NOT_CACHED, OK, about_artifact, about_json, digest_of, facts_of, header, parser
from .output import data, fail, note

__all__ = ["add_to"]

_EXAMPLES = """\
examples:
  nanocache lookup https://host/weights.safetensors
      its path; its digest and size on stderr
  nanocache lookup https://host/data.tar.gz --unpack || echo "not here yet"
      the folder that it was unpacked into
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser,
        "lookup",
        help="print its path if it is here",
        description="Print the path of URL's artifact if it is here and right. Never uses the network.",
        epilog=f"{EXIT_CODES}\n{_EXAMPLES}",
    )
    command.add_argument("url", metavar="URL", help="http, https or file")
    about_artifact(command)
    about_json(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    cache = Cache(options.dir)
    path = cache.lookup(
        options.url,
        sha256=options.sha256,
        filename=options.filename,
        headers=[header(text) for text in options.header] or None,
        postprocess=options.postprocess,
    )
    if path is None:
        return fail(f"{urls.redact(options.url)} is not cached in {cache.base_dir}", NOT_CACHED)
    if options.json:
        facts = facts_of(urls.redact(options.url), path, digest_of(path))
        tables.as_json(base_dir=str(cache.base_dir), **facts)
        return OK
    data(path)
    size = f", {path.stat().st_size:,} bytes" if path.is_file() else ""
    where = "" if cache.store.holds(path) else ", in a read-only cache"
    note(f"sha256 {digest_of(path)}{size}{where}")
    return OK
