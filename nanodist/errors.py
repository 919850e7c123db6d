"""Every error that nanodist raises on purpose, and how any error crosses ranks.

    NanocacheError
    └── NanodistError
        ├── LeaderError      (RuntimeError)       the leader's function raised; its type, text and traceback are here
        ├── LeaderLost       (RuntimeError)       the leader died, and what it did may not be done twice
        ├── CoordinatorLost  (ConnectionError)    the store that the ranks agree through is out of reach
        └── NotVisible       (FileNotFoundError)  the leader has the file, and this rank's disk does not show it

Invariants: an error of ours is rebuilt from its facts, by pickle and by JSON, so that one `except` catches the same
class on every rank; an error of any length fits into what travels, because its texts are cut here, and nowhere else;
nothing is unpickled that came from another rank.
"""

from __future__ import annotations

import errno
import json
import traceback as tracebacks
from typing import Any

from nanocache.errors import ChecksumMismatch, DownloadFailed, NanocacheError

__all__ = ["ORIGIN_ERRORS", "NanodistError", "LeaderError", "LeaderLost", "CoordinatorLost", "NotVisible"]

ORIGIN_ERRORS = (DownloadFailed, ChecksumMismatch)  # which every process that asks the same origin would get
SHORTEST_TEXT = 64  # characters that a cut text keeps at least
LARGEST_ERROR = 15 * 1024  # bytes of JSON: 128 of them fit into one outcome


class NanodistError(NanocacheError):
    """The root of what only nanodist raises."""


class LeaderError(NanodistError, RuntimeError):
    """The leader's function raised something that is not an error of ours.

    Attributes: rank and host (the leader's), type (qualified name of what it raised), text, traceback (text). On the
    leader the original is chained to it.
    """

    FACTS = ("rank", "host", "type", "text", "traceback")

    def __init__(self, *, rank: int, host: str, type: str, text: str, traceback: str = "") -> None:  # noqa: A002
        self.rank, self.host, self.type, self.text, self.traceback = rank, host, type, text, traceback
        super().__init__(f"rank {rank} on {host}, which acted for all, raised {type}: {text.split(chr(10), 1)[0]}")


class LeaderLost(NanodistError, RuntimeError):
    """The leader died before it was done. Attributes: key, rank, host, pid, reason."""

    FACTS = ("key", "rank", "host", "pid", "reason")

    def __init__(self, *, key: str, rank: int, host: str, pid: int, reason: str) -> None:
        self.key, self.rank, self.host, self.pid, self.reason = key, rank, host, pid, reason
        super().__init__(
            f"rank {rank} (pid {pid} on {host}) was lost while it acted for all on {key!r}: {reason}; "
            f"look into its own output, and call again when it is safe to repeat"
        )


class CoordinatorLost(NanodistError, ConnectionError):
    """The ranks cannot agree, because their store is out of reach. Attributes: address, reason."""

    FACTS = ("address", "reason")

    def __init__(self, *, address: str, reason: str) -> None:
        self.address, self.reason = address, reason
        super().__init__(f"the store of this job at {address} is out of reach: {reason}")


class NotVisible(NanodistError, FileNotFoundError):
    """The leader published a file that this rank's disk does not show. Attributes: path, host, leader_host, reason."""

    FACTS = ("path", "host", "leader_host", "reason")

    def __init__(self, *, path: str, host: str, leader_host: str, reason: str) -> None:
        self.path, self.host, self.leader_host, self.reason = path, host, leader_host, reason
        super().__init__(
            f"{path} is on the disk of {leader_host} and is not visible on {host}: {reason}; "
            f"use scope='auto' or scope='disk' (NANODIST_SCOPE), or give all ranks one shared base directory"
        )
        self.errno = errno.ENOENT


_CLASSES: dict[str, Any] = {cls.__name__: cls for cls in (LeaderError, LeaderLost, CoordinatorLost, NotVisible)}


def to_record(error: BaseException, *, rank: int, host: str) -> dict[str, Any]:
    """What travels to the other ranks: the facts of an error of ours, a LeaderError's for any other."""
    if isinstance(error, NanocacheError):
        record = error.to_json()
        if _rebuilds(record):
            return _shortened(record)
    return leader_error(error, rank=rank, host=host).to_json()


def as_it_travels(error: BaseException, *, rank: int, host: str) -> BaseException:
    """What the leader raises: `error`, or for one that is no error of ours, or too long, what the other ranks get."""
    if not isinstance(error, Exception):
        return error
    if not isinstance(error, NanocacheError):
        return leader_error(error, rank=rank, host=host)
    record = error.to_json()
    if not _rebuilds(record):
        return error
    short = _shortened(record)
    return error if short is record else from_record(short)


def leader_error(error: BaseException, *, rank: int, host: str) -> LeaderError:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    traceback = "".join(tracebacks.format_exception(error))
    text = _text(error)
    record = LeaderError(rank=rank, host=host, type=name, text=text, traceback=traceback).to_json()
    return LeaderError(**_shortened(record)["facts"])


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  a __str__ of the user's may raise anything, and the other ranks wait
        return "<exception str() failed>"


def _shortened(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its long texts cut, as far as it needs to fit into `LARGEST_ERROR`."""
    short, room = record, LARGEST_ERROR
    while len(json.dumps(short)) > LARGEST_ERROR and room > SHORTEST_TEXT:
        room //= 2
        short = record | {"facts": {name: _cut(value, room) for name, value in record["facts"].items()}}
    return short


def _cut(value: Any, room: int) -> Any:
    """`value` with `room` characters of each text in it: its beginning and its end, where the cause is."""
    if isinstance(value, list | tuple):
        return type(value)(_cut(item, room) for item in value[: room // SHORTEST_TEXT + 2])
    if not isinstance(value, str) or len(value) <= room:
        return value
    half = room // 2
    return f"{value[:half]} [{len(value) - 2 * half:,} characters left out] {value[-half:]}"


def from_record(record: dict[str, Any]) -> Exception:
    """The error that `to_record` described. Raises ValueError if it is no such record."""
    try:
        if record["error"] == TypeError.__name__:
            return TypeError(record["facts"]["text"])
        if cls := _CLASSES.get(record["error"]):
            error: Exception = cls(**record["facts"])
            return error
    except (KeyError, TypeError) as e:
        raise ValueError(f"not the record of an error: {record!r}") from e
    return NanocacheError.from_json(record)


def _rebuilds(record: dict[str, Any]) -> bool:
    # A user's subclass of the root has a name that no other rank knows, and a user's facts may be no JSON.
    try:
        from_record(json.loads(json.dumps(record)))
    except (TypeError, ValueError):
        return False
    return True
