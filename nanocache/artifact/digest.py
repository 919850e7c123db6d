"""SHA-256 digests: how callers may write them.

Not their computation (`disk.hashing`), and no other hash. Invariant: inside the library a digest is 64 lower-case hex
digits, and a prefix of one is never enough (torch.hub's `-<8 hex>.` in a file name also matched the empty prefix).
"""

from __future__ import annotations

import base64
import binascii
import re

__all__ = ["parse"]

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_OTHER_HASH = re.compile(r"(md5|sha1|sha224|sha384|sha512|blake2b|blake3|crc32c?|xxh\w*)[:=-]", re.IGNORECASE)
_LENGTHS = {32: "md5", 40: "sha1", 56: "sha224", 96: "sha384", 128: "sha512"}  # hex digits -> the hash that has so many
_FORMS = "64 hex digits, 'sha256:<hex>' or 'sha256-<base64>'"


def parse(sha256: str) -> str:
    """64 lower-case hex digits from hex in any case, `"sha256:<hex>"` or SRI `"sha256-<base64>"`.

    Raises ValueError for anything else, another algorithm and a shortened digest included.
    """
    if not isinstance(sha256, str):
        raise ValueError(_no_str(sha256))
    if hexed := _from_hex(sha256.removeprefix("sha256:")) or _from_base64(sha256):
        return hexed
    if other := _other(sha256):
        raise ValueError(
            f"sha256 must be a SHA-256, got {other}: {sha256!r}; `nanocache fetch URL` prints the SHA-256 to use"
        )
    raise ValueError(f"sha256 must be {_FORMS}, got {sha256!r}")


def _no_str(sha256: object) -> str:
    said = f"sha256 must be a str, got {type(sha256).__name__}"
    if isinstance(sha256, bytes | bytearray):
        return f"{said}: give its {'hex' if len(sha256) == 32 else 'decode'}()"
    return f"{said}: give its hexdigest()" if hasattr(sha256, "hexdigest") else said


def _from_hex(text: str) -> str | None:
    return text.lower() if _HEX.fullmatch(text) else None


def _from_base64(text: str) -> str | None:
    if not text.startswith("sha256-"):
        return None
    try:
        raw = base64.b64decode(text[7:], validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == 32 else None


def _other(text: str) -> str | None:
    """The hash that it is instead, by its name or by its length."""
    if named := _OTHER_HASH.match(text):
        return named[1]
    return _LENGTHS.get(len(text)) if re.fullmatch("[0-9a-fA-F]+", text) else None
