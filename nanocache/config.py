"""The environment, read when called and never at import.

`VARIABLES` is the one table of what may be set; `nanocache --help` prints it, and a test holds the README to it. A
value that cannot be read is a ValueError that names the variable. LOCAL_RANK and LOCAL_WORLD_SIZE are names that every
launcher shares; nothing of nanodist is imported for them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from .sizes import Size

__all__ = [
    "READONLY_DIRS",
    "REMOTE",
    "VARIABLES",
    "Settings",
    "base_dir",
    "frozen",
    "local_rank",
    "offline",
    "progress",
    "version",
    "writable_name",
]

READONLY_DIRS = "NANOCACHE_READONLY_DIRS"
REMOTE = "NANOCACHE_REMOTE"

# name, default, meaning
VARIABLES = (
    ("NANOCACHE_DIR", "`NANOCHAT_BASE_DIR`, else the user cache", "base directory"),
    ("NANOCACHE_OFFLINE", "off", "hits only; a miss is `NotCached`, which names the command to run elsewhere"),
    ("NANOCACHE_PROGRESS", "auto", "`0`, `1`; auto: a bar on a terminal or in a notebook"),
    (
        "NANOCACHE_CONNECTIONS",
        "16",
        "per host, for all processes of yours on this machine",
    ),
    ("NANOCACHE_TIMEOUT", "30", "seconds without a byte; connecting gets at most 10 of them"),
    ("NANOCACHE_RETRIES", "5", "attempts without progress, per URL"),
    ("NANOCACHE_LOCK_TIMEOUT", "none", "seconds without progress of the process that downloads before `LockTimeout`"),
    ("NANOCACHE_MAX_ARTIFACT", "none", "bytes of one download"),
    (
        READONLY_DIRS,
        "none",
        "caches to look into before the network, separated by colons; an `HF_HOME` is one, too",
    ),
    ("NANOCACHE_FROZEN", "off", "only what `nanocache.lock` in the current folder has; all else is `NotLocked`"),
    ("NANOCACHE_MAX_SIZE", "none", "what the cache may take: bytes, `50GB`, `50GiB`, or `80%` of the disk"),
    (REMOTE, "none", "a store to ask for a digest before the network, and to fill: `<it>/cas/<sha256>`"),
)

T = TypeVar("T", int, float)

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})
CONNECTIONS_PER_HOST = 16
_COLON = re.compile(r"(?<!\\):")  # one that no backslash makes part of a name
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)  # as os.path.expandvars finds them
LONGEST_PATH = 3500  # characters; Linux takes 4,096 bytes, and what lies in the cache needs a few hundred of them
LONGEST_TIMEOUT = 1e6  # seconds, 11 days; poll(2) counts milliseconds in an int, and "inf" fits into none


def expand(path: object, name: str) -> str:
    """`path` with `~` and `$VAR` expanded, absolute; symlinks stay, so that messages show what the user typed.

    `name` says where it comes from. Raises ValueError for what would make a folder of an odd name wherever the process
    happens to stand: quotes that were kept, a variable that is not set, a user that is not known.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"{name} must be a str or a Path, got {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a str or a Path of str, got bytes: give os.fsdecode(path)")
    if not text.strip():
        raise ValueError(f"{name} is empty: give a folder, or leave it unset for the user's cache")
    if "\0" in text or text[0] in "'\"" or text != text.strip():
        raise ValueError(f"{name} has quotes or spaces around it, or holds a null character: {text!r}; take them away")
    expanded = os.path.abspath(_with_variables(_with_home(text, name), name))
    if len(expanded) > LONGEST_PATH:
        raise ValueError(f"{name} is a path of more than {LONGEST_PATH:,} characters: give a shorter one")
    return writable_name(expanded, name)


def writable_name(text: str, name: str) -> str:
    """`text` if a file can be called so. Raises ValueError: after a download it would be too late."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        cure = "" if encoding == "utf-8" else "; set PYTHONUTF8=1 or LC_ALL=C.UTF-8 before Python starts"
        raise ValueError(f"{name} {text!a} cannot be the name of a file in this process's {encoding}{cure}") from None
    return text


def _with_home(path: str, name: str) -> str:
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path:
        user = path.split("/")[0]
        raise ValueError(f"{name} is {path!r}, and no home folder is known for {user}: give an absolute path")
    return expanded


def _with_variables(path: str, name: str) -> str:
    for match in _VARIABLE.finditer(path):
        variable = match[1] or match[2]
        if not os.environ.get(variable):  # one that is empty would make /cache of $SCRATCH/cache
            raise ValueError(f"{name} is {path!r}, and the variable {variable} is not set: set it, or give the path")
    return os.path.expandvars(path)


def base_dir() -> str:
    """The base directory that the environment asks for; nothing is created."""
    for name in ("NANOCACHE_DIR", "NANOCHAT_BASE_DIR"):
        if chosen := os.environ.get(name):
            return expand(chosen, name)
    return _users_cache()


def _users_cache() -> str:
    from platformdirs import user_cache_dir

    try:
        folder = user_cache_dir("nanocache", appauthor=False)
    except RuntimeError:  # of newer ones; older ones give a path that begins with ~
        folder = ""
    if not os.path.isabs(folder):
        raise ValueError(
            "the user's cache folder is not known (no home folder, or XDG_CACHE_HOME is relative): "
            "set NANOCACHE_DIR to a folder that this user can write"
        )
    return os.path.abspath(folder)


def _readonly_dirs() -> tuple[str, ...]:
    given = os.environ.get(READONLY_DIRS)
    if not given:
        return ()
    parts = (part.replace("\\:", ":") for part in _COLON.split(given))
    return tuple(expand(part, READONLY_DIRS) for part in parts if part)


def _boolean(name: str) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ValueError(f"{name} must be one of 1, true, yes, on, 0, false, no, off; got {os.environ[name]!r}")


def _number(name: str, read: Callable[[str], T], default: T | None, least: T) -> T | None:
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    try:
        number = read(value)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {value!r}") from None
    if not number >= least:  # also turns nan away
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return number


def offline() -> bool:
    return _boolean("NANOCACHE_OFFLINE")


def raw(name: bytes) -> bytes | None:
    """A variable, undecoded, for what is asked at each hit: by os.environ's own way each costs half a stat."""
    try:
        value: bytes | None = os.environ._data.get(name)  # type: ignore[attr-defined]
    except AttributeError:  # a plain dict stands in its place, in a test
        text = os.environ.get(os.fsdecode(name))
        return None if text is None else os.fsencode(text)
    return value


def frozen() -> bool:
    """Whether nothing may be fetched but what the lock file in the current folder has."""
    return raw(b"NANOCACHE_FROZEN") is not None and _boolean("NANOCACHE_FROZEN")


def progress() -> bool | None:
    """True, False, or None for "auto": a terminal or a notebook decides."""
    if os.environ.get("NANOCACHE_PROGRESS", "").strip().lower() in ("", "auto"):
        return None
    return _boolean("NANOCACHE_PROGRESS")


def local_rank() -> int:
    """This process's rank on its machine as the launcher set it; 0 without a launcher."""
    return _number("LOCAL_RANK", int, 0, 0) or 0


def _connections() -> int:
    asked = _asked_connections()
    if asked is not None:
        return asked
    # 16 a process times 8 ranks that walk different shards is 128 to one host: 429s, and bans.
    ranks = _number("LOCAL_WORLD_SIZE", int, 1, 1) or 1
    return max(2, CONNECTIONS_PER_HOST // ranks)


def _asked_connections() -> int | None:
    return _number("NANOCACHE_CONNECTIONS", int, None, 1)


def _size(name: str) -> Size | None:
    value = os.environ.get(name, "").strip()
    if not value:
        return None
    from .sizes import parse_size  # here: most calls have no cap

    return parse_size(name, value)


class Settings(NamedTuple):
    """What one call works with. Times in seconds, sizes in bytes; None means no limit."""

    timeout: float
    retries: int
    connections: int  # per host, for all transfers of this process, where the machine's processes cannot share
    lock_timeout: float | None
    max_artifact: int | None
    offline: bool
    readonly_dirs: tuple[str, ...] = ()
    max_size: Size | None = None
    remote: str | None = None  # as it was given: it may hold a login
    budget: int | None = None  # connections per host, for all processes of this machine

    @classmethod
    def read(cls, *, offline: bool | None = None) -> Settings:
        """The environment's settings; `offline` overrides NANOCACHE_OFFLINE. Raises ValueError naming the variable."""
        return cls(
            timeout=min(_number("NANOCACHE_TIMEOUT", float, 30.0, 0.001) or 30.0, LONGEST_TIMEOUT),
            retries=_number("NANOCACHE_RETRIES", int, 5, 0) or 0,
            connections=_connections(),
            lock_timeout=_number("NANOCACHE_LOCK_TIMEOUT", float, None, 0.0),
            max_artifact=_number("NANOCACHE_MAX_ARTIFACT", int, None, 0),
            offline=_boolean("NANOCACHE_OFFLINE") if offline is None else offline,
            readonly_dirs=_readonly_dirs(),
            max_size=_size("NANOCACHE_MAX_SIZE"),
            remote=os.environ.get(REMOTE) or None,
            budget=_asked_connections() or CONNECTIONS_PER_HOST,
        )


@cache
def version() -> str:
    """The version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nanocache")
    except PackageNotFoundError:  # a checkout that was not installed
        return "0+unknown"
