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


def parse(sha256: str) -> str:
    """64 lower-case hex digits from hex in any case, `"sha256:<hex>"` or SRI `"sha256-<base64>"`.

    Raises ValueError for anything else, another algorithm and a shortened digest included.
    """
    if not isinstance(sha256, str):
        raise ValueError(f"sha256 must be a str, got {type(sha256).__name__}")
    text = sha256[7:] if sha256.startswith("sha256:") else sha256
    if _HEX.fullmatch(text):
        return text.lower()
    if sha256.startswith("sha256-") and (hexed := _from_base64(sha256[7:])):
        return hexed
    if other := _OTHER_HASH.match(sha256):
        raise ValueError(
            f"sha256 must be a SHA-256, got {other[1]}: {sha256!r}; `nanocache fetch URL` prints the SHA-256 to use"
        )
    raise ValueError(f"sha256 must be 64 hex digits, 'sha256:<hex>' or 'sha256-<base64>', got {sha256!r}")


def _from_base64(text: str) -> str | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == 32 else None
