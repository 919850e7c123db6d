"""Errors that are the caller's own: those of its progress callback, and of a signal handler that ran in our lines.

Both may be of any class, an OSError too: the usual time limit is SIGALRM with a handler that raises TimeoutError.
Invariants: such an error passes all that handles errors on its way, is adopted by no other caller, and comes out as it
was raised. What a thread is sent by `PyThreadState_SetAsyncExc` cannot be told from an error of the line it strikes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TypeVar

__all__ = ["CallersError", "call_back", "callers_errors", "from_handler", "let_pass", "suppress"]

T = TypeVar("T")

CO_VARARGS = 0x04  # `inspect` has it, and is slow to import


class CallersError(Exception):
    """The caller's code raised `error`, whatever that may mean to what runs around it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(repr(error))
        self.error = error


@contextmanager
def callers_errors() -> Iterator[None]:
    """What the caller's code raises in the block leaves it as it was raised."""
    error: Exception | None = None
    try:
        yield
    except CallersError as e:
        error = e.error
    if error is not None:  # here, so that its own cause and context stay
        raise error


def call_back(callback: Callable[[T], object], value: T) -> None:
    """Call a callback of the caller's. What it raises is CallersError, and comes out of the caller's call as it was."""
    try:
        callback(value)
    except CallersError:  # of a callback below this one
        raise
    except Exception as e:
        raise CallersError(e) from e


def let_pass(error: BaseException) -> None:
    """Raise CallersError if `error` is a signal handler's: for whatever handles errors of a class that it may have."""
    if isinstance(error, Exception) and from_handler(error):
        raise CallersError(error) from error


class suppress(contextlib.suppress):
    """contextlib.suppress, which lets pass what a signal handler raised."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        suppressed = super().__exit__(kind, error, trace)
        if suppressed and error is not None:
            let_pass(error)
        return suppressed


def from_handler(error: BaseException) -> bool:
    """Whether a signal handler raised it: it alone is given the very frame in which it is called."""
    trace = error.__traceback__
    while trace is not None and (inner := trace.tb_next) is not None:
        if _was_given(inner.tb_frame, trace.tb_frame):
            return True
        trace = inner
    return False


def _was_given(called: FrameType, caller: FrameType) -> bool:
    code = called.f_code
    varargs = bool(code.co_flags & CO_VARARGS)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + varargs]
    given = [called.f_locals.get(name) for name in names]
    if varargs and isinstance(given[-1], tuple):
        given += given[-1]
    return any(value is caller for value in given)
