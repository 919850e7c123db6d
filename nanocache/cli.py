"""The command line: data on stdout, everything else on stderr, and exit codes that scripts can use.

Thin: each command is one call of the public API. Reads well without colour, and shows no credential.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from .archives.unpack import Decompress, Unpack
from .artifact import urls
from .cache import Cache
from .errors import ChecksumMismatch, NanocacheError, NotCached

__all__ = ["main"]

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

ENVIRONMENT = """\
environment:
  NANOCACHE_DIR           base directory (default: NANOCHAT_BASE_DIR, else the user cache of the platform)
  NANOCACHE_OFFLINE       1: never use the network
  NANOCACHE_PROGRESS      0, 1 or auto
  NANOCACHE_CONNECTIONS   connections to one host (default 16; shared out under a launcher)
  NANOCACHE_TIMEOUT       seconds without a byte before an attempt ends (default 30)
  NANOCACHE_RETRIES       attempts without progress before a URL is given up (default 5)
  NANOCACHE_LOCK_TIMEOUT  seconds without progress of another process before giving up on it (default: none)
  NANOCACHE_MAX_ARTIFACT  bytes that one download may have (default: no limit)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="nanocache: %(message)s", stream=sys.stderr)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except NotCached as e:
        return _fail(e, NOT_CACHED)
    except ChecksumMismatch as e:
        return _fail(e, MISMATCH)
    except (NanocacheError, OSError) as e:
        return _fail(e, FAILED)
    except ValueError as e:
        return _fail(e, USAGE)
    except KeyboardInterrupt:
        return _fail("interrupted; what had come is kept, and the next call goes on from there", INTERRUPTED)


def _fail(error: object, code: int) -> int:
    print(f"nanocache: {error}", file=sys.stderr)
    return code


def _fetch(options: argparse.Namespace) -> int:
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
        pinned = f"--sha256 {_digest(path)}"
        print(f"to pin it: nanocache fetch {shlex.quote(urls.redact(options.url))} {pinned}", file=sys.stderr)
    return OK


def _lookup(options: argparse.Namespace) -> int:
    cache = Cache(options.dir)
    path = cache.lookup(options.url, sha256=options.sha256, filename=options.filename, postprocess=options.postprocess)
    if path is None:
        return _fail(f"{urls.redact(options.url)} is not cached in {cache.base_dir}", NOT_CACHED)
    print(path)
    size = path.stat().st_size if path.is_file() else None
    print(f"sha256 {_digest(path)}{f', {size:,} bytes' if size is not None else ''}", file=sys.stderr)
    return OK


def _dir(options: argparse.Namespace) -> int:
    print(Cache(options.dir).base_dir)
    return OK


def _digest(path: Path) -> str:
    """The artifact's digest, from where it or its product lies."""
    folder = path.parent
    return folder.name if len(folder.name) == 64 else folder.parent.name


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError("a header is 'Name: value', with a colon")  # what was given may be a secret
    return name.strip(), value.strip()


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="nanocache",
        description="Download an artifact once, verified, and find it again.",
        epilog=EXIT_CODES + "\n" + ENVIRONMENT,
        formatter_class=shape,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    fetch = commands.add_parser(
        "fetch",
        help="download it unless it is here, and print its path",
        description="Download URL unless it is here, verified, and print its path. Another process that wants the same "
        "at this moment downloads nothing.",
        epilog=EXIT_CODES,
        formatter_class=shape,
    )
    _about_artifact(fetch)
    fetch.add_argument("--mirror", metavar="URL", action="append", default=[], help="another URL of the same bytes")
    fetch.add_argument(
        "--header", metavar="'NAME: VALUE'", action="append", default=[], help="sent to URL's own host only"
    )
    fetch.add_argument("--max-age", metavar="SECONDS", type=float, help="ask the server again after so many seconds")
    fetch.add_argument(
        "--rehash", action="store_true", help="read the bytes even if nothing seems to have touched them"
    )
    fetch.add_argument("--offline", action="store_true", help="never use the network")
    fetch.add_argument("-q", "--quiet", action="store_true", help="no progress, and no digest to pin")
    fetch.set_defaults(run=_fetch)

    lookup = commands.add_parser(
        "lookup",
        help="print its path if it is here",
        description="Print the path of URL's artifact if it is here and right. Never uses the network.",
        epilog=EXIT_CODES,
        formatter_class=shape,
    )
    _about_artifact(lookup)
    lookup.set_defaults(run=_lookup)

    folder = commands.add_parser("dir", help="print the base directory", description="Print the base directory.")
    _about_dir(folder)
    folder.set_defaults(run=_dir)
    return parser


def _about_artifact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="http, https or file")
    parser.add_argument("--sha256", metavar="HEX", help="the SHA-256 that it must have")
    parser.add_argument("--filename", metavar="NAME", help="its name on disk (default: from URL)")
    hooks = parser.add_mutually_exclusive_group()
    hooks.add_argument(
        "--unpack", dest="postprocess", action="store_const", const=Unpack(), help="the folder in a tar or zip"
    )
    hooks.add_argument(
        "--decompress", dest="postprocess", action="store_const", const=Decompress(), help="the file in a gz, xz, ..."
    )
    _about_dir(parser)


def _about_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", metavar="DIR", type=os.path.expanduser, help="base directory (default: NANOCACHE_DIR)")


def _version() -> str:
    from . import __version__

    return f"nanocache {__version__}"
