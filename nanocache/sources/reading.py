"""What a Reader gives, answered as a server would: so that it has resume, digest and progress like everything else.

One stream at a time: a Reader's client may not bear several, so no ranges are announced. Invariant: bytes of two
versions never end up in one file, because the version is asked for again after they came.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial

from ..cancel import Cancel, within
from ..http.exchange import Response
from ..http.failure import StartOver
from .failing import as_failures
from .protocol import Reader, Resolved

__all__ = ["read"]


@contextmanager
def read(reader: Reader, resolved: Resolved, asked: Sequence[tuple[str, str]], cancel: Cancel) -> Iterator[Response]:
    """The bytes that the headers `asked` want as a Response, open while the block runs.

    Raises Failure, StartOver, Cancelled.
    """
    start, end = _range(asked) if resolved.size is not None else (0, None)  # a part is always a part of so much
    stop = resolved.size if end is None else end
    with as_failures():
        chunks = within(cancel, partial(reader.read, resolved.pinned or resolved.url, start, end))
    left = None if stop is None else stop - start
    # Closed here: what a reader has open would else wait for the end of the exception that it failed with.
    with _closing(chunks), closing(_checked(reader, resolved, chunks, left, cancel)) as body:
        if stop is None:
            yield Response(200, resolved.url, {"transfer-encoding": "chunked"}, body)
        elif start == 0 and end is None:
            yield Response(200, resolved.url, {"content-length": str(stop)}, body)
        else:
            yield Response(206, resolved.url, {"content-range": f"bytes {start}-{stop - 1}/{resolved.size}"}, body)


def _closing(chunks: Iterable[bytes]) -> AbstractContextManager[object]:
    return closing(chunks) if isinstance(chunks, Generator) else nullcontext()


def _range(asked: Sequence[tuple[str, str]]) -> tuple[int, int | None]:
    text = next((value for name, value in asked if name == "Range"), "bytes=0-")
    start, _, last = text.removeprefix("bytes=").partition("-")
    return int(start), int(last) + 1 if last else None


def _checked(
    reader: Reader, resolved: Resolved, chunks: Iterable[bytes], left: int | None, cancel: Cancel
) -> Generator[bytes, None, None]:
    """The chunks. The last one comes after the look: once it is there, the transfer asks for nothing any more."""
    with as_failures():
        for chunk in chunks:
            left = None if left is None else left - len(chunk)
            if left is not None and left <= 0:
                _check_version(reader, resolved, cancel)
            yield chunk
        if left is None:
            _check_version(reader, resolved, cancel)


def _check_version(reader: Reader, resolved: Resolved, cancel: Cancel) -> None:
    if resolved.pinned is not None:  # what was read is that version for ever
        return
    now = within(cancel, partial(reader.describe, resolved.url))
    if now.version != resolved.validator or (resolved.size is not None and now.size not in (None, resolved.size)):
        raise StartOver("it changed while it was read")
