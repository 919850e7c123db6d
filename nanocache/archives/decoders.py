"""Bytes of an archive in order: out of the file, through a decoder, in exact pieces.

Not for random access and not for text. Invariants: at most a chunk and the decoder's window are in memory, whatever
the sizes; what a decoder gives is counted before it is passed on; a stream that ends early, or goes on after its end,
is refused.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from .refusal import Allowance, ArchiveRefused, refuse_if

__all__ = ["OUTPUT_CHUNK", "Stream", "chunks", "decoded"]

OUTPUT_CHUNK = 1 << 20  # bytes out of a file or a decoder at once
INPUT_CHUNK = 1 << 15  # bytes into a decoder: it copies what is left after each stream, and streams may be tiny
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

    def some(self, limit: int) -> memoryview:
        """At least one and at most `limit` bytes; none only at the end, or if none are asked for."""
        while not self._chunk:
            chunk = next(self._source, None)
            if chunk is None:
                return self._chunk
            self._chunk = memoryview(chunk)
        piece = self._chunk[:limit]
        self._chunk = self._chunk[limit:]
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
        if len(piece) == size:  # nearly always; the line below costs 1 us, twice per member
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
    """zlib as such a decoder."""

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


class _Codec(NamedTuple):
    new: Callable[[], _Decoder]
    error: type[Exception]  # what a decoder raises on bad data
    padding: bytes = b"\0"  # may stand between two streams and at the end, as on tapes
    first_bytes: bytes = b""  # of a stream that follows another one; none may where none are known


def _gz() -> _Codec:
    import zlib

    return _Codec(lambda: _Inflate(31), zlib.error, first_bytes=b"\x1f")


def _deflate() -> _Codec:
    import zlib

    # Bare deflate has no header by which to tell a second stream.
    return _Codec(lambda: _Inflate(-15), zlib.error, padding=b"")


def _bz2() -> _Codec:
    import bz2

    return _Codec(bz2.BZ2Decompressor, OSError, first_bytes=b"B")


def _xz() -> _Codec:
    import lzma

    limit = (1 << WINDOW_LOG) + (1 << 20)  # the dictionary, and a few tens of KiB that the decoder takes beside it
    return _Codec(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limit), lzma.LZMAError, first_bytes=b"\xfd")


def _zst() -> _Codec:
    zstd = _zstd()
    options = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
    first_bytes = b"\x28" + bytes(range(0x50, 0x60))  # of a frame, and of the skippable ones
    return _Codec(lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError, first_bytes=first_bytes)


def _zstd() -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ModuleNotFoundError("Zstandard needs a decoder: pip install 'nanocache[zstd]'", name=name) from e


_FOLLOWED = (
    "bytes that are no {0} data follow the end of its {0} data; "
    "if it is meant to be like that, cut them off in a hook of your own before it is decoded"
)

_CODECS: dict[str, Callable[[], _Codec]] = {"gz": _gz, "deflate": _deflate, "bz2": _bz2, "xz": _xz, "zst": _zst}


def decoded(name: str, source: Iterator[bytes | memoryview], allowance: Allowance) -> Iterator[bytes]:
    """What comes out of `source`, in chunks of at most 1 MiB, each paid for from `allowance`.

    Streams may follow one another (`cat a.gz b.gz`, bgzip, pbzip2, pzstd), and zero bytes may pad them. Raises
    ArchiveRefused for damage, truncation, anything else after the end, or a decoder window over 128 MiB.
    """
    codec = _CODECS[name]()
    data: bytes | memoryview = b""  # read already, of the next stream
    while True:
        decoder = codec.new()
        for chunk in _stream(name, decoder, codec.error, data, source):
            allowance.spend(len(chunk))
            yield chunk
        data = _after(decoder, source, codec.padding)
        if not data:
            return
        refuse_if(not codec.first_bytes, "bytes follow the end of its compressed data")
        refuse_if(data[0] not in codec.first_bytes, _FOLLOWED.format(name))


def _stream(
    name: str,
    decoder: _Decoder,
    error: type[Exception],
    data: bytes | memoryview,
    source: Iterator[bytes | memoryview],
) -> Iterator[bytes]:
    """What comes out of one stream that begins with `data`."""
    while not decoder.eof:
        if decoder.needs_input and not data:
            data = next(source, b"")
            refuse_if(not data, f"the {name} data is truncated")
        try:
            chunk = decoder.decompress(data, OUTPUT_CHUNK)
        except error as e:
            raise ArchiveRefused(f"the {name} data cannot be decoded: {e}") from e
        data = b""
        if chunk:
            yield chunk


def _after(decoder: _Decoder, source: Iterator[bytes | memoryview], padding: bytes) -> bytes:
    """What follows the stream that has ended, without padding; empty at the end of the source."""
    data = decoder.unused_data.lstrip(padding)
    while not data:
        chunk = next(source, b"")
        if not chunk:
            break
        data = bytes(chunk).lstrip(padding)
    return data
