"""What a command writes: data on stdout, everything else on stderr, wherever these lead.

Invariants: a path is written as the bytes that it is, whatever stdout's encoding; a stream that is closed or missing is
no error of ours, but a reader of data that has gone, or a full disk behind stdout, is the command's failure.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

from ..errors import NanocacheError

__all__ = ["data", "fail", "finish", "note", "reserve"]


def reserve() -> None:
    """Put /dev/null where a standard stream is closed: else the next file opened, a blob say, would be the stream."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gives the lowest that is free


def data(text: object) -> None:
    """A line on stdout: bytes where it takes them, because a name need not fit its encoding (LC_ALL=C, a pipe)."""
    line = f"{text}\n"
    if (stream := sys.stdout) is None:  # closed before we began
        return
    if (binary := getattr(stream, "buffer", None)) is None:  # a stand-in for text, as tests and notebooks have
        stream.write(line)
        return
    stream.flush()
    binary.write(os.fsencode(line))


def note(text: object) -> None:
    """A line on stderr, for a person; none if there is no place for it."""
    stream = sys.stderr
    if stream is None:
        return
    try:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        line = f"{text}\n".encode(encoding, "backslashreplace").decode(encoding)
        stream.write(line)
        stream.flush()
    except (OSError, ValueError):
        _silence(stream)


def fail(error: object, code: int) -> int:
    note(f"nanocache: {_words(error)}")
    return code


def _words(error: object) -> str:
    """An error of the disk without its number: what, and where."""
    if isinstance(error, NanocacheError) or not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.strerror}: {os.fsdecode(error.filename)}"


def finish() -> None:
    """Bring out what was written. Raises OSError if the reader of data is gone, or there is no room for it."""
    with suppress(OSError):
        _flush(sys.stderr)  # logs and bars went there without us
    _flush(sys.stdout)


def _flush(stream: TextIO | None) -> None:
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        _silence(stream)
        raise


def _silence(stream: TextIO) -> None:
    """Have Python's own flush at its end write nowhere: else it prints a traceback, or the exit code is 120."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
