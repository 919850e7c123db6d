"""What fsspec opens: memory://, sftp://, github://, and the protocols that other packages bring. Knows fsspec, alone.

One stream of bytes from one file: no listing and no random access. Invariants: each call makes a file system of its
own and ends it, so that no listing, connection or thread of one call is met by a later one, or by a fork; a call ends
when it is cancelled, though the library may look at nothing of the kind.

What goes wrong is told by `filesystem_refusals`. A URL is percent-encoded, and a file system takes names as they are.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterator
from traceback import clear_frames
from typing import Any
from urllib.parse import unquote

from ..artifact.schemes import scheme_of
from ..cancel import ambient
from ..config import Settings
from ..http.failure import Failure
from .aside import aside
from .filesystem_refusals import failure_of, missing_package
from .own_loop import OwnLoop
from .protocol import Described

__all__ = ["FileSystems", "source"]

READ_SIZE = 1 << 20  # bytes that are read at once from a file
REQUEST_SIZE = 4 << 20  # bytes that a file system is asked for at once, if each time is a request
# A file system reads ahead in blocks of megabytes, and lets none be seen before all of it came.
TIMEOUTS = 10  # of NANOCACHE_TIMEOUT, for a block and for what is known of a file

# What tells one version of a file from another, the surest first.
FACTS = (
    *("etag", "ETag", "checksum", "version_id", "VersionId", "generation", "sha", "hex", "md5", "content_md5"),
    *("mtime", "LastModified", "last_modified", "modified", "updated", "modificationTime", "date_time"),
)


def source() -> FileSystems:
    return FileSystems()


class FileSystems:
    """A Reader of all of them."""

    def describe(self, url: str) -> Described:
        """Size and version as they are now. Raises Failure, Cancelled, TimeoutError."""
        described: list[Described] = list(self._aside(_Describing(url)))  # to its end: it closes what it opened
        return described[0]

    def read(self, url: str, start: int, end: int | None) -> Iterator[bytes]:
        """The bytes from `start` to before `end`. Raises Failure, Cancelled, TimeoutError."""
        return self._aside(_Reading(url, start, end))

    def _aside(self, work: _Describing | _Reading) -> Iterator[Any]:
        return aside(work.run, work.stop, ambient(), TIMEOUTS * Settings.read().timeout)


class _OnFileSystem:
    """Work on the file system of one URL, made for it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._options: dict[str, Any] = {}
        self._loop: OwnLoop | None = None
        self._file_system: Any = None

    def run(self) -> Iterator[Any]:
        """What the work gives. Raises Failure."""
        failure = None
        try:
            self._open()
            yield from self._items()
        except Failure:
            raise
        except Exception as e:  # noqa: BLE001 - each library has classes of its own, and no common one
            failure = failure_of(e, self._url, self._options)
            clear_frames(e.__traceback__)  # fsspec's own keep the error that keeps them, and the file system
        finally:
            self._close()
        if failure is not None:  # not in `except`, where the error is kept
            raise failure

    def _open(self) -> None:
        kind = _kind_of(self._url)
        self._options = _options(kind, self._url)
        loop = {}
        if getattr(kind, "async_impl", False) and _takes(kind, "loop"):
            self._loop = OwnLoop()
            loop = {"loop": self._loop.loop}
        self._file_system = kind(**self._options, **loop, skip_instance_cache=True)

    def _items(self) -> Iterator[Any]:
        raise NotImplementedError

    @property
    def _path(self) -> str:
        """As the file system calls the file."""
        return unquote(self._file_system._strip_protocol(self._url))

    def _close(self) -> None:
        """Drop the file system, which closes its connections. Its loop has to run for that."""
        file_system = self._file_system
        self._file_system = None
        if self._loop is None:
            return
        for name in [name for name in getattr(file_system, "__dict__", ()) if hasattr(type(file_system), f"_{name}")]:
            delattr(file_system, name)  # made of the coroutine `_name`: a circle, which only the collector would find
        del file_system
        self._loop.close()

    def stop(self) -> None:
        """Break off a request that runs. Only an event loop can."""
        if self._loop is not None and self._file_system is not None:
            self._loop.cancel()


def _kind_of(url: str) -> Any:
    from fsspec import get_filesystem_class

    try:
        return get_filesystem_class(scheme_of(url))
    except (ImportError, ValueError) as e:
        raise missing_package(e) from None


def _options(kind: Any, url: str) -> dict[str, Any]:
    """What the file system is made with: what the user's configuration of fsspec says, and the URL."""
    from fsspec.config import apply_config

    said = {name: unquote(value) if isinstance(value, str) else value for name, value in _from_url(kind, url).items()}
    options: dict[str, Any] = apply_config(kind, said)
    return options


def _from_url(kind: Any, url: str) -> dict[str, Any]:
    said: dict[str, Any] = kind._get_kwargs_from_urls(url)
    return {name: value for name, value in said.items() if not name.startswith("url_")}


def _takes(kind: Any, option: str) -> bool:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return any(one.name == option or one.kind is one.VAR_KEYWORD for one in parameters)


# --- what is known of a file ------------------------------------------------------------------------------------------


class _Describing(_OnFileSystem):
    def _items(self) -> Iterator[Described]:
        info = self._file_system.info(self._path)
        if info.get("type") == "directory":
            raise IsADirectoryError(f"{self._path} is a folder")
        size = info.get("size")
        yield Described(size if type(size) is int and size >= 0 else None, self._version(info))

    def _version(self, info: dict[str, Any]) -> str | None:
        for fact in FACTS:
            if (value := info.get(fact)) not in (None, ""):
                return f"{fact} {value}"
        return self._told("ukey") or self._told("modified")

    def _told(self, question: str) -> str | None:
        """What the file system answers, if it has an answer of its own: fsspec's is a hash of whatever is in `info`."""
        from fsspec import AbstractFileSystem

        if getattr(type(self._file_system), question) is getattr(AbstractFileSystem, question):
            return None
        try:
            return f"{question} {getattr(self._file_system, question)(self._path)}"
        except NotImplementedError:
            return None


# --- its bytes --------------------------------------------------------------------------------------------------------


class _Reading(_OnFileSystem):
    def __init__(self, url: str, start: int, end: int | None) -> None:
        super().__init__(url)
        self._start = start
        self._end = end

    def _items(self) -> Iterator[bytes]:
        return self._requests() if self._answers_ranges() else self._file()

    def _answers_ranges(self) -> bool:
        """Whether each range is a request of its own, which an event loop can break off."""
        if self._loop is None:
            return False
        from fsspec.asyn import AsyncFileSystem

        return type(self._file_system)._cat_file is not AsyncFileSystem._cat_file

    def _requests(self) -> Iterator[bytes]:
        def get(start: int, end: int) -> Any:
            return self._file_system.cat_file(self._path, start=start, end=end)

        return self._ranges(get)

    def _file(self) -> Iterator[bytes]:
        with self._file_system.open(self._path, "rb") as file:
            if (readv := getattr(file, "readv", None)) is not None:
                # paramiko's: its `read` asks for 32 KiB, and waits for each.
                yield from self._ranges(lambda start, end: next(readv([(start, end - start)])))
            else:
                yield from self._blocks(_reads(file, self._start))

    def _ranges(self, get: Callable[[int, int], bytes]) -> Iterator[bytes]:
        end = self._file_system.info(self._path)["size"] if self._end is None else self._end
        position = self._start
        while position < end:
            asked = min(REQUEST_SIZE, end - position)
            piece = get(position, position + asked)
            if len(piece) > asked:  # it has no ranges, and gives all of it each time
                yield piece[position:end]
                return
            if not piece:
                return
            yield piece
            position += len(piece)

    def _blocks(self, read: Callable[[int], bytes]) -> Iterator[bytes]:
        left = None if self._end is None else self._end - self._start
        while left != 0 and (piece := read(READ_SIZE if left is None else min(READ_SIZE, left))):
            left = None if left is None else left - len(piece)
            yield piece


def _reads(file: Any, start: int) -> Callable[[int], bytes]:
    """What gives the next bytes of a file that was just opened, from `start` on."""
    if isinstance(file, io.BytesIO):  # memory://'s: one object, with one position, for all that read it
        file = io.BytesIO(file.getvalue())  # which share their bytes until one of them is written to
    skipped = _seek(file, start)
    while skipped < start and (piece := file.read(min(READ_SIZE, start - skipped))):
        skipped += len(piece)
    read: Callable[[int], bytes] = file.read
    return read


def _seek(file: Any, start: int) -> int:
    """Go to `start`; where the file is then: at its beginning, if it is a stream."""
    if not start:
        return 0
    try:
        file.seek(start)
    except (OSError, ValueError, NotImplementedError):
        return 0
    return start
