"""`nanocache snapshot`: the files of a repository, as one folder."""

from __future__ import annotations

import argparse
from typing import Any

from ..artifact import urls
from ..cache import Cache
from . import tables
from .arguments import EXIT_CODES, OK, about_base, about_folder, about_json, parser
from .output import data

__all__ = ["add_to"]

_EXAMPLES = """\
examples:
  nanocache snapshot hf://openai-community/gpt2@main --exclude '*.h5'
      a model's folder, for transformers to load
  nanocache snapshot hf://datasets/owner/name --into data
      a dataset's files, in ./data as well
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser,
        "snapshot",
        help="download a repository, and print its folder",
        description="Download all files of a repository at one version, each verified, and print their folder.",
        epilog=f"{EXIT_CODES}\n{_EXAMPLES}",
    )
    command.add_argument("url", metavar="URL", help="hf://[datasets/|spaces/]OWNER/NAME[@REVISION]")
    command.add_argument("--include", metavar="GLOB", action="append", default=[], help="only these (may be repeated)")
    command.add_argument("--exclude", metavar="GLOB", action="append", default=[], help="not these (may be repeated)")
    command.add_argument("--max-age", metavar="SECONDS", type=float, help="ask the branch again after so long")
    command.add_argument("--offline", action="store_true", help="only what is here already")
    about_folder(command)
    about_json(command)
    about_base(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    cache = Cache(options.dir)
    folder = cache.snapshot(
        options.url,
        include=options.include,
        exclude=options.exclude,
        max_age=options.max_age,
        offline=options.offline or None,
        into=options.into,
    )
    if options.json:
        tables.as_json(base_dir=str(cache.base_dir), url=urls.redact(options.url), path=str(folder))
        return OK
    data(folder)
    return OK
