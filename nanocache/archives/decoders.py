"""Bytes of an archive in order: out of the file, through a decoder, in exact pieces.

Not for random access and not for text. Invariants: at most a chunk and the decoder's window are in memory, whatever
the sizes; whatever a decoder gives is counted before anyone sees it; a stream that ends early, or goes on after its
end, is refused.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from .tree import Allowance, ArchiveRefused

__all__ = ["OUTPUT_CHUNK", "Stream", "chunks", "decoded"]

OUTPUT_CHUNK = 1 << 20  # bytes
INPUT_CHUNK = 1 << 15  # bytes into a decoder: it copies what is left behind each stream, and streams may be tiny
WINDOW_LOG = 27  # 128 MiB, as `zstd` itself; `xz -9` takes 64 MiB. A header may ask for 4 GiB before the first byte


def chunks(fd: int, start: int, end: int, size: int = OUTPUT_CHUNK) -> Iterator[bytes]:
    """The file's bytes from `start` to `end`; fewer if it is shorter."""
    while start < end and (chunk := os.pread(fd, min(size, end - start), start)):
        yield chunk
        start += len(chunk)


class Stream:
    """Exact reads from an iterator of chunks. `position` is the offset of the next byte."""

    def __init__(self, source: Iterator[bytes], position: int = 0) -> None:
        self._source = source
        self._chunk = memoryview(b"")
        self.position = position

    def some(self, most: int) -> memoryview:
        """At least one and at most `most` bytes; none only at the end, or if none are asked for."""
        while not self._chunk:
            chunk = next(self._source, None)
            if chunk is None:
                return self._chunk
            self._chunk = memoryview(chunk)
        piece, self._chunk = self._chunk[:most], self._chunk[most:]
        self.position += len(piece)
        return piece

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Exactly `size` bytes, in pieces. Raises ArchiveRefused if the stream ends before."""
        while size:
            piece = self.some(size)
            if not piece:
                raise ArchiveRefused(f"the archive is truncated: it ends at byte {self.position:,}")
            yield piece
            size -= len(piece)

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes, for small sizes. Raises ArchiveRefused if the stream ends before."""
        piece = self.some(size)
        if len(piece) == size:  # nearly always: the rest costs 1 us, twice per member
            return bytes(piece)
        return bytes(piece) + b"".join(self.pieces(size - len(piece)))

    def skip(self, size: int) -> None:
        """Read past exactly `size` bytes. Raises ArchiveRefused if the stream ends before."""
        for _ in self.pieces(size):
            pass


class _Decoder(Protocol):
    """What bz2, lzma and zstd have in common. It decodes one stream; `unused_data` is what came after it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes | memoryview, /, max_length: int = -1) -> bytes: ...


class _Inflate:
    """zlib behind the same face."""

    def __init__(self, wbits: int) -> None:
        import zlib

        self._zlib = zlib.decompressobj(wbits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes | memoryview, /, max_length: int = -1) -> bytes:
        tail = self._zlib.unconsumed_tail
        out = self._zlib.decompress(tail + data if tail else data, max_length)
        # A full buffer may hide a match that is half copied, even with all input consumed.
        self.needs_input = not self._zlib.unconsumed_tail and len(out) < max_length
        return out


def _zstd() -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ModuleNotFoundError("Zstandard needs a decoder: pip install 'nanocache[zstd]'", name=name) from e


def _codec(name: str) -> tuple[Callable[[], _Decoder], type[Exception]]:
    """How to make a decoder for gz, deflate, bz2, xz or zst, and what it raises on bad data."""
    if name in ("gz", "deflate"):
        import zlib

        return lambda: _Inflate(31 if name == "gz" else -15), zlib.error
    if name == "bz2":
        import bz2

        return bz2.BZ2Decompressor, OSError
    if name == "xz":
        import lzma

        # The dictionary is all but a few tens of KiB of what a decoder takes.
        limit = (1 << WINDOW_LOG) + (1 << 20)
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limit), lzma.LZMAError
    zstd = _zstd()
    options = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
    return lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError


def decoded(codec: str, source: Iterator[bytes | memoryview], allowance: Allowance) -> Iterator[bytes]:
    """What comes out of `source`, in chunks of at most 1 MiB, each paid for from `allowance`.

    Streams may follow one another (`cat a.gz b.gz`, bgzip, pbzip2, pzstd), and zero bytes may pad them as tapes do;
    not for bare deflate, which has no header to know a second one by. Raises ArchiveRefused for damage, truncation,
    anything else after the end, or a decoder window over 128 MiB.
    """
    new, error = _codec(codec)
    decoder = new()
    while True:
        data: bytes | memoryview = b""
        if decoder.eof:
            data = _after(decoder, source, padding=b"" if codec == "deflate" else b"\0")
            if not data:
                return
            if codec == "deflate":
                raise ArchiveRefused("bytes follow the end of its compressed data")
            decoder = new()
        elif decoder.needs_input:
            data = next(source, b"")
            if not data:
                raise ArchiveRefused(f"the {codec} data is truncated")
        try:
            out = decoder.decompress(data, OUTPUT_CHUNK)
        except error as e:
            raise ArchiveRefused(f"the {codec} data cannot be decoded: {e}") from e
        if out:
            allowance.spend(len(out))
            yield out


def _after(decoder: _Decoder, source: Iterator[bytes | memoryview], *, padding: bytes) -> bytes:
    """What follows the stream that has ended, without padding; empty at the end of the source."""
    data = decoder.unused_data.lstrip(padding)
    while not data and (chunk := next(source, b"")):
        data = bytes(chunk).lstrip(padding)
    return data
