"""What a bundle says of itself: the blobs in it and their names, and what URLs gave them.

    bundle.json                 this, the first member: {"version": 1, "blobs": [...], "refs": [...]}
    sha256/<digest>/<name>      the bytes of each blob, in the order of their digests

Pure. Invariants: the same blobs and refs give the same bytes, whatever order they came in, on every host and at any
time; what is read is checked before anything of it is used, because its names become paths on this disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..archives.names import segments
from ..archives.refusal import ArchiveRefused
from ..artifact import digest, filenames

__all__ = ["CONTENTS", "BundledBlob", "BundledRef", "BundleContents"]

CONTENTS = "bundle.json"
BUNDLE_VERSION = 1
LONGEST_URL = 1 << 16  # characters


@dataclass(frozen=True, slots=True, order=True)
class BundledBlob:
    """A blob, and the names that it has in the cache."""

    sha256: str
    size: int  # bytes
    names: tuple[str, ...]

    @property
    def member(self) -> str:
        return f"sha256/{self.sha256}/{self.names[0]}"


@dataclass(frozen=True, slots=True, order=True)
class BundledRef:
    """What a URL gave. `key`: what that is remembered under."""

    key: str
    url: str  # redacted: for people
    sha256: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class BundleContents:
    """Everything in a bundle."""

    blobs: tuple[BundledBlob, ...]  # sorted, each digest once
    refs: tuple[BundledRef, ...]  # sorted, each key once

    @classmethod
    def of(cls, blobs: Iterable[BundledBlob], refs: Iterable[BundledRef]) -> BundleContents:
        """Blobs that are given twice are one, with the names of both."""
        sizes: dict[str, int] = {}
        names: dict[str, set[str]] = {}
        for blob in blobs:
            sizes[blob.sha256] = blob.size
            names.setdefault(blob.sha256, set()).update(blob.names)
        together = (BundledBlob(one, sizes[one], tuple(sorted(names[one]))) for one in sizes)
        return cls(tuple(sorted(together)), tuple(sorted({ref.key: ref for ref in refs}.values())))

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.size for blob in self.blobs)

    @property
    def data(self) -> bytes:
        """What is stored."""
        blobs, refs = ([asdict(one) for one in several] for several in (self.blobs, self.refs))
        record = {"version": BUNDLE_VERSION, "blobs": blobs, "refs": refs}
        return json.dumps(record, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> BundleContents:
        """Raises ArchiveRefused for anything but what `data` gives."""
        try:
            record = json.loads(data)
            version = record["version"]
            contents = cls(tuple(_blob(**one) for one in record["blobs"]), tuple(_ref(**one) for one in record["refs"]))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, ArchiveRefused) as e:
            raise ArchiveRefused(f"it is no list of a bundle's contents: {_brief(e)}", CONTENTS) from None
        if version != BUNDLE_VERSION:
            raise ArchiveRefused(f"it has version {version!r}, and this nanocache reads {BUNDLE_VERSION}", CONTENTS)
        if contents.data != data or contents != cls.of(contents.blobs, contents.refs):
            raise ArchiveRefused("it says something twice, in another order, or in another form", CONTENTS)
        _check_refs(contents)
        return contents


def _brief(error: Exception) -> str:
    return str(error).replace("\n", " ")[:200]


def _blob(sha256: Any, size: Any, names: Any) -> BundledBlob:
    if not isinstance(names, list) or not names:
        raise ValueError(f"{names!r} are no names")
    return BundledBlob(_digest(sha256), _size(size), tuple(map(_name, names)))


def _ref(key: Any, url: Any, sha256: Any, size: Any) -> BundledRef:
    if not isinstance(url, str) or len(url) > LONGEST_URL or not url.isprintable():
        raise ValueError("a URL is no text, or too long")
    return BundledRef(_digest(key), url, _digest(sha256), _size(size))


def _digest(value: Any) -> str:
    if digest.parse(value) != value:
        raise ValueError(f"{value!r} is no SHA-256 of 64 lower-case hex digits")
    return str(value)


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is no size")
    return value


def _name(value: Any) -> str:
    if segments(filenames.check(value)) != (value,):
        raise ValueError(f"{value!r} is no name of a file")
    return str(value)


def _check_refs(contents: BundleContents) -> None:
    sizes = {blob.sha256: blob.size for blob in contents.blobs}
    for ref in contents.refs:
        if sizes.get(ref.sha256) != ref.size:
            raise ArchiveRefused(f"it says that {ref.url} gave what is not in the bundle", CONTENTS)
