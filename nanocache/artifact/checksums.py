"""Lists of files and their digests, in the forms in which people have them. No I/O.

    data/a.csv  sha256:9f86d0... [URL]              pooch's registry.txt, quoted as in a shell
    https://host/a.zip<TAB>1024<TAB>9f86d0... [<TAB>a.zip]      TFDS: its checksums.tsv; older ones have spaces
    9f86d0...  a.bin, 9f86d0... *a.bin, \\9f86d0...  a\\nb       sha256sum, with its escapes
    SHA256 (a.bin) = 9f86d0...                      sha256sum --tag, BSD, openssl

A file may mix them, since each line is judged alone. Invariant: every entry has a SHA-256; a line that is of another
hash, or of no form, is a ValueError that names it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from . import digest

__all__ = ["Checksum", "parse"]

_TAGGED = re.compile(r"(?P<escaped>\\?)(?P<hash>[A-Za-z0-9/-]+) ?\((?P<name>.*)\) ?= (?P<sum>[0-9A-Za-z+/=]+)")
_SUM_FIRST = re.compile(r"(?P<escaped>\\?)(?P<sum>[0-9a-fA-F]{32,128}) [ *]?(?P<name>.+)")
_SECOND_SUM = re.compile(r"\s*(sha256:)?[0-9a-fA-F]{64}(\s|$)")
_DIGITS = 64  # of a SHA-256
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"\\": "\\", "n": "\n", "r": "\r"}
_SHA256 = frozenset({"sha256", "sha2-256"})


@dataclass(frozen=True, slots=True)
class Checksum:
    """One entry. `name` as the list writes it; None where it gives a URL alone."""

    line: int
    sha256: str
    name: str | None = None
    url: str | None = None
    size: int | None = None  # bytes


def parse(text: str) -> Iterator[Checksum]:
    """The entries of a list. Raises ValueError that begins with the number of the line."""
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        stripped = line.rstrip("\r")
        if not stripped.strip() or stripped.lstrip().startswith("#"):
            continue
        try:
            yield _entry(number, stripped)
        except ValueError as e:
            raise ValueError(f"line {number}: {e}") from None


def _entry(number: int, line: str) -> Checksum:
    if match := _TAGGED.fullmatch(line):
        if match["hash"].lower() not in _SHA256:
            raise ValueError(f"its digest must be a SHA-256, got {match['hash']}")
        return Checksum(number, digest.parse(match["sum"]), _unescaped(match))
    if (match := _SUM_FIRST.fullmatch(line)) and not _is_name(match["sum"], match["name"]):
        return Checksum(number, digest.parse(match["sum"]), _unescaped(match))
    fields = line.strip().split("\t" if "\t" in line else None)
    if "://" in fields[0] and len(fields) in (3, 4):
        return _of_tfds(number, *fields)
    return _of_pooch(number, shlex.split(line))


def _is_name(first: str, rest: str) -> bool:
    """Whether the hex digits at the beginning are a file's name, since a SHA-256 follows and they are none."""
    return len(first) != _DIGITS and _SECOND_SUM.match(rest) is not None


def _unescaped(match: re.Match[str]) -> str:
    if not match["escaped"]:
        return match["name"]
    return _ESCAPED.sub(lambda one: _ESCAPES.get(one[1], one[0]), match["name"])


def _of_tfds(number: int, url: str, size: str, checksum: str, name: str | None = None) -> Checksum:
    if not (size.isascii() and size.isdigit()):
        raise ValueError(f"its size must be a number of bytes, got {size!r}")
    return Checksum(number, digest.parse(checksum), name or None, url, int(size))


def _of_pooch(number: int, fields: list[str]) -> Checksum:
    if len(fields) not in (2, 3):
        raise ValueError("it must be a name, a digest, and a URL if it has one; or a line of sha256sum or of TFDS")
    name, checksum, url = [*fields, None][:3]
    assert name is not None
    assert checksum is not None
    return Checksum(number, digest.parse(checksum.lower()), name, url)
