"""The command line: data on stdout, everything else on stderr, and exit codes that scripts can use.

Thin: each command is a file beside this one and one call of the public API. Reads well without colour, and shows no
credential.
"""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
from collections.abc import Sequence

from ..config import VARIABLES
from ..errors import ChecksumMismatch, NanocacheError, NotCached, NotLocked
from . import (
    directory,
    doctor,
    du,
    env,
    export,
    fetch,
    import_,
    info,
    lock,
    lookup,
    ls,
    output,
    pin,
    prune,
    rm,
    snapshot,
    sync,
    verify,
)
from .arguments import EXIT_CODES, FAILED, INTERRUPTED, MISMATCH, NOT_CACHED, USAGE, parser
from .completion import SHELLS, PrintCompletion

__all__ = ["main"]

COMMANDS = (
    fetch,
    snapshot,
    lookup,
    lock,
    sync,
    export,
    import_,
    ls,
    du,
    info,
    verify,
    pin,
    prune,
    rm,
    doctor,
    env,
    directory,
)
WIDTH = 80  # characters of a line of help
COLUMN = 26  # characters before the meaning of a variable
EXAMPLES = """\
examples:
  nanocache fetch https://host/weights.safetensors
      its path, once it is here and verified
  nanocache fetch -h                       what it takes, and more examples
  eval "$(nanocache --print-completion bash)"
      completion, in this shell
"""


# Error -> exit code: the first that fits.
CODES: tuple[tuple[type[BaseException], int], ...] = (
    (NotCached, NOT_CACHED),
    (NotLocked, NOT_CACHED),
    (ChecksumMismatch, MISMATCH),
    (NanocacheError, FAILED),
    (OSError, FAILED),
    (ValueError, USAGE),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    output.reserve()
    try:
        return _run(arguments)
    except (NanocacheError, OSError, ValueError) as e:
        return output.fail(e, next(code for error, code in CODES if isinstance(e, error)))
    except KeyboardInterrupt:
        return output.fail("interrupted; what had come is kept, and the next call goes on from there", INTERRUPTED)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
    except SystemExit:  # help was printed, or what is wrong with the arguments
        output.finish()
        raise
    logging.basicConfig(format="nanocache: %(message)s", stream=sys.stderr)
    code: int = options.run(options)
    output.finish()
    return code


def _parser() -> argparse.ArgumentParser:
    top = parser(
        argparse.ArgumentParser,
        prog="nanocache",
        description="Download an artifact once, verified, and find it again.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}\n{_environment()}",
    )
    top.add_argument("--version", action="version", version=_version())
    top.add_argument("--print-completion", choices=SHELLS, action=PrintCompletion, help="print a script for your shell")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return top


def _environment() -> str:
    """The variables of `config`, as a table for a terminal."""
    rows = ["environment:"]
    for name, default, meaning in VARIABLES:
        first, *others = textwrap.wrap(f"{meaning} (default: {default})".replace("`", ""), WIDTH - COLUMN)
        rows += [f"  {name:<{COLUMN - 2}}{first}", *(" " * COLUMN + text for text in others)]
    return "\n".join([*rows, ""])


def _version() -> str:
    from .. import __version__

    return f"nanocache {__version__}"
