"""`nanocache env`: what a bug report needs."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from typing import Any

from .. import config
from ..artifact import urls
from ..config import VARIABLES, Settings
from . import tables
from .arguments import OK, about_json, parser
from .output import data

__all__ = ["add_to"]

LIBRARIES = ("filelock", "httpcore", "httpx", "platformdirs", "tqdm")
# Read by us or by httpx. What is in them may be a secret, so that only their being there is told.
_OTHERS = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HF_ENDPOINT",
    "HF_TOKEN",
)
_DESCRIPTION = "Print the settings, where each comes from, and the versions of all that takes part."
_EXAMPLES = """\
examples:
  nanocache env > report.txt
"""


def add_to(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    command = parser(
        commands.add_parser, "env", help="print settings and versions", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    about_json(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    facts = {"versions": dict(_versions()), "base": dict(_base()), "settings": dict(_settings())}
    facts |= {"read-only": tiers} if (tiers := dict(_tiers())) else {}
    if options.json:
        tables.as_json(**facts)
        return OK
    for name, values in facts.items():
        data(name)
        for key, value in values.items():
            data(f"  {key:<24}{tables.shown(str(value))}")
    return OK


def _versions() -> Iterator[tuple[str, str]]:
    yield "nanocache", config.version()
    yield "python", f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    yield "system", platform.platform()
    for name in LIBRARIES:
        yield name, metadata.version(name)


def _base() -> Iterator[tuple[str, str]]:
    """Where everything is, and what this user may do there."""
    try:
        base = config.base_dir()
    except ValueError as e:
        yield "path", f"wrong: {e}"
        return
    yield "path", base
    try:
        st = os.stat(base)
        disk = os.statvfs(base)
    except OSError as e:
        yield "state", f"not there: {e.strerror}"
        return
    yield "mode", f"{st.st_mode & 0o7777:04o}, of user {st.st_uid} and group {st.st_gid}; this is {os.geteuid()}"
    yield "writable", "yes" if os.access(base, os.W_OK | os.X_OK) else "no"
    yield "free", f"{tables.size(disk.f_bavail * disk.f_frsize)} and {disk.f_favail:,} files"


def _tiers() -> Iterator[tuple[str, str]]:
    """What stands where the read-only caches should be."""
    with suppress(ValueError):  # said among the settings
        for n, folder in enumerate(Settings.read().readonly_dirs, 1):
            yield str(n), f"{folder}, {'there' if os.path.isdir(folder) else 'not there: ignored'}"


def _settings() -> Iterator[tuple[str, str]]:
    for name, default, _ in VARIABLES:
        value = os.environ.get(name)
        if value is None:
            yield name, f"{default.replace('`', '')} (default)"
        else:
            yield name, f"{urls.redact(value) if '://' in value else value} (environment)"
    for name in _OTHERS:
        if os.environ.get(name) or os.environ.get(name.lower()):
            yield name, "set (environment)"
    try:
        Settings.read()
    except ValueError as e:
        yield "wrong", str(e)
