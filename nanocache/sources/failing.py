"""What an error of a source's own code means for the transfer: asked again, or the end of this URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..callers import let_pass
from ..errors import NanocacheError
from ..http.failure import Failure

__all__ = ["as_failures"]

LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)


@contextmanager
def as_failures() -> Iterator[None]:
    """Raise Failure for an OSError of the block, lasting if asking again cannot help. Errors of ours stay."""
    try:
        yield
    except NanocacheError:
        raise
    except OSError as e:
        let_pass(e)
        raise Failure(str(e) or type(e).__name__, lasting=isinstance(e, LASTING)) from e
