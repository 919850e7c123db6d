"""`nanocache fetch`: the paths of artifacts, downloaded if they are not here."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..artifact import urls
from ..artifact.artifact import Artifact
from ..cache import Cache
from ..calls.locks import open_lock
from ..lockfile.file import LOCK_FILE
from . import tables
from .arguments import EXIT_CODES, OK, about_artifact, about_folder, about_json, digest_of, facts_of, header, parser
from .output import data, note

__all__ = ["add_to"]

DESCRIPTION = """\
Download each URL unless it is here, verified, and print its path, one a line. Another process that wants the same at
this moment downloads nothing. With --sha256, or #sha256=HEX at the end of a URL, it must have that digest. A NAME is
one in nanocache.lock of the current folder."""
_EXAMPLES = """\
examples:
  nanocache fetch https://host/weights.safetensors
      the path; and, on stderr, the digest to pin it by
  nanocache fetch hf://openai-community/gpt2/model.safetensors --into models
      verified by what the Hub says of it, and in ./models as well
  ls "$(nanocache fetch --quiet --unpack https://host/data.tar.gz)"
      what is in an archive
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser,
        "fetch",
        help="download URLs unless they are here, and print their paths",
        description=DESCRIPTION,
        epilog=f"{EXIT_CODES}\n{_EXAMPLES}",
    )
    command.add_argument("urls", metavar="URL|NAME", nargs="+", help="http, https, file, ..., or locked")
    about_artifact(command)
    command.add_argument("--mirror", metavar="URL", action="append", default=[], help="another URL of the same bytes")
    command.add_argument("--max-age", metavar="SECONDS", type=float, help="ask the server again after so many seconds")
    command.add_argument(
        "--rehash", action="store_true", help="read the bytes even if nothing seems to have touched them"
    )
    command.add_argument("--offline", action="store_true", help="never use the network")
    about_folder(command)
    about_json(command)
    command.add_argument("-q", "--quiet", action="store_true", help="no progress, and no digest to pin")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    artifacts = _artifacts(options)  # all are looked at before the first is fetched
    cache = Cache(options.dir)
    if options.json:
        told = [_facts(cache, artifact, _fetch(cache, artifact, options), options) for artifact in artifacts]
        tables.as_json(base_dir=str(cache.base_dir), artifacts=told)
        return OK
    for artifact in artifacts:
        path = _fetch(cache, artifact, options)
        data(path)
        cached = path if options.into is None else cache.lookup(artifact)
        if artifact.sha256 is None and not options.quiet and cached is not None:
            note(f"to pin it: nanocache fetch {shlex.quote(urls.redact(artifact.url))} --sha256 {digest_of(cached)}")
    return OK


def _fetch(cache: Cache, artifact: Artifact, options: argparse.Namespace) -> Path:
    return cache.fetch(
        artifact,
        rehash=options.rehash,
        max_age=options.max_age,
        offline=options.offline or None,
        progress=False if options.quiet else None,
        into=options.into,
    )


def _facts(cache: Cache, artifact: Artifact, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    cached = path if options.into is None else cache.lookup(artifact)
    digest = artifact.sha256 or (None if cached is None else digest_of(cached))
    return facts_of(urls.redact(artifact.url), path, digest)


def _artifacts(options: argparse.Namespace) -> list[Artifact]:
    if len(options.urls) > 1:
        for name in ("sha256", "filename", "mirror"):
            if getattr(options, name):
                raise ValueError(f"--{name} is said of one URL, and there are {len(options.urls)}: run it for each")
    artifacts = [_artifact(text, options) for text in options.urls]
    if options.into is not None and len({artifact.name for artifact in artifacts}) < len(set(artifacts)):
        raise ValueError("two of the URLs would have one name in --into: run it for each, with --filename")
    return artifacts


def _artifact(text: str, options: argparse.Namespace) -> Artifact:
    said: dict[str, Any] = {
        "sha256": options.sha256,
        "filename": options.filename,
        "mirrors": options.mirror,
        "headers": [header(text) for text in options.header] or None,
    }
    if "://" in text or text.startswith("file:") or not os.path.lexists(LOCK_FILE):
        return Artifact(text, postprocess=options.postprocess, **said)
    return replace(Artifact.of(open_lock()[text], **said), postprocess=options.postprocess)
