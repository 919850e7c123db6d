"""`nanocache lock`: put what URLs give now into nanocache.lock."""

from __future__ import annotations

import argparse
from typing import Any

from ..artifact import urls
from ..cache import Cache
from ..calls.locking import Locking
from ..lockfile import signing
from ..lockfile.file import LOCK_FILE
from .arguments import OK, about_base, about_json, parser
from .output import data, note
from .tables import as_json

__all__ = ["add_to"]

_DESCRIPTION = """\
Fetch each URL, and add it with its digest to nanocache.lock in the current folder; of a repository (hf://OWNER/NAME)
all files, at the commit of now. Prints what was locked, as sha256sum does. What is locked already and gives something
else now is refused (exit code 4) until --update asks for it."""
_EXAMPLES = """\
exit codes:
  0    locked
  3    --update of a name that is not locked
  4    a URL gives other bytes than those that are locked

examples:
  nanocache lock https://host/weights.safetensors --name weights
  nanocache lock hf://openai-community/gpt2@main
  nanocache lock --update openai-community/gpt2
  nanocache lock --sign key.pem            into nanocache.lock.sig
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser,
        "lock",
        help="put URLs with their digests into nanocache.lock",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    command.add_argument("urls", metavar="URL", nargs="*", help="an artifact, or a repository of a Hub")
    command.add_argument("--update", metavar="NAME", action="append", default=[], help="lock what it gives now")
    command.add_argument("--name", metavar="NAME", help="what URL is called (default: from URL)")
    command.add_argument("--mirror", metavar="URL", action="append", default=[], help="another URL of the same bytes")
    command.add_argument("--sign", metavar="KEY", help="sign the lock file with this private key (PEM)")
    command.add_argument("--file", metavar="FILE", default=LOCK_FILE, help=f"the lock file (default: {LOCK_FILE})")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if not options.urls and not options.update and not options.sign:
        raise ValueError("give a URL to lock, --update NAME, or --sign KEY")
    if len(options.urls) != 1 and (options.name or options.mirror):
        raise ValueError(f"--name and --mirror are said of one URL, and there are {len(options.urls)}: run it for each")
    locking = Locking(Cache(options.dir), options.file, False if options.quiet else None)
    found = [entry for name in options.update for entry in locking.update(name)]
    if options.urls:
        found += locking.add(options.urls, name=options.name, mirrors=options.mirror)
    for entry in () if options.json else found:
        data(f"{entry.sha256}  {entry.name}")
    for url in filter(_has_more, options.urls):
        note(f"{urls.redact(url)} is locked as {_plain(url)}: without a login or a signature")
    if options.sign:
        note(f"signed: {signing.sign(options.file, options.sign)}")
    if options.json:
        as_json(locked={entry.name: entry.sha256 for entry in found})
    return OK


def _plain(url: str) -> str:
    return urls.without_credentials(url.partition("#")[0])


def _has_more(url: str) -> bool:
    """Whether a URL says more than what is locked of it."""
    return url.partition("#")[0].lower() != _plain(url).lower()
