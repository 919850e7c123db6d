"""URLs: what is accepted, what two of them have in common, and what of them may be seen.

Not a resolver and not a client. Invariants: `redact` is the only way a URL leaves the library (errors, logs, files on
disk); `url_key` never depends on a credential, so that the hash of a URL can't be used to guess a password offline.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urlsplit

__all__ = ["check", "file_path", "is_file", "origin", "redact", "url_key"]

SCHEMES = ("http", "https", "file")
LONGEST_SHOWN = 500  # characters
_BLANK = re.compile(r"[\x00-\x20\x7f]")
_DEFAULT_PORTS = {"http": 80, "https": 443}

# Parameters of signing schemes (AWS, Google, CloudFront, Azure): they change with every signature, so a presigned URL
# would never be a hit, and they are credentials.
_SIGNING = frozenset({"Signature", "Expires", "Key-Pair-Id", "Policy", "se", "sp", "sv", "sig"})
_SIGNING_PREFIXES = ("x-amz-", "x-goog-")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is no number
    except ValueError:  # whose text may quote a piece of a password
        raise ValueError(f"not a URL: {redact(url)!r}; its host or its port is malformed") from None
    return parts


def check(url: object) -> str:
    """`str(url)` if it is a URL that nanocache can fetch. Raises ValueError saying what it should have been."""
    text = str(url)
    if _BLANK.search(text):
        raise ValueError(f"not a URL: {redact(text)!r} holds a space or a control character; percent-encode it")
    parts = _split(text)
    if parts.scheme not in SCHEMES:  # urlsplit lowers the scheme
        raise ValueError(f"cannot fetch {redact(text)!r}: the scheme must be http, https or file")
    if parts.scheme == "file":
        file_path(text)
    elif not (parts.hostname or "").rstrip("."):
        raise ValueError(f"cannot fetch {redact(text)!r}: it names no host")
    return text


def is_file(url: str) -> bool:
    return url[:5].lower() == "file:"


def file_path(url: str) -> str:
    """The path of a `file:` URL on this machine. Raises ValueError for another host or a relative path."""
    parts = _split(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ValueError(f"cannot fetch {redact(url)!r}: a file URL is file:///absolute/path on this machine")
    return os.fsdecode(unquote_to_bytes(parts.path))  # urllib.request has this, and loads ssl and http.client with it


@lru_cache(maxsize=1024)
def origin(url: str) -> tuple[str, str, int]:
    """(scheme, host, port): credentials never cross from one origin to another."""
    parts = _split(url)
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def redact(url: str) -> str:
    """`url` without userinfo, query values and fragment: fit for errors, logs and files. Never raises."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # often a password with a / or a # in it, and nobody knows where it ends
        return _shown(url.split("//")[0] + "//..." if "@" in url else re.split("[?#]", url)[0])
    host = parts.netloc.rsplit("@", 1)[-1]
    path = parts.path if host or parts.scheme == "file" else parts.path.rsplit("@", 1)[-1]  # me:password@host/a
    names = [item.split("=", 1)[0] + "=..." if "=" in item else "..." for item in parts.query.split("&") if item]
    return _shown(parts._replace(netloc=host, path=path, query="&".join(names), fragment="").geturl())


def _shown(url: str) -> str:
    # A redirect's is what a server wrote: of any length, and with what a terminal obeys.
    text = url if url.isprintable() else "".join(c if c.isprintable() else quote(c, errors="replace") for c in url)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN // 2] + "..." + text[-LONGEST_SHOWN // 2 :]


def _signing(parameter: str) -> bool:
    name = unquote(parameter.split("=", 1)[0])
    return name in _SIGNING or name.lower().startswith(_SIGNING_PREFIXES)


def url_key(url: str, headers: Iterable[tuple[str, str]] = ()) -> str:
    """64 hex digits that are the same for URLs of one resource, whoever asks and however it is signed.

    Scheme and host in lower case; default port, fragment, userinfo and signing parameters dropped. An `Accept` header
    is part of it: the same address with another `Accept` is another file (GitHub's asset API gives JSON without it).
    """
    parts = _split(url)
    host = (parts.hostname or "").rstrip(".")
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    query = "&".join(item for item in parts.query.split("&") if item and not _signing(item))
    accept = sorted(value for name, value in headers if name.lower() == "accept")
    canonical = f"{parts.scheme}://{host}{port}{parts.path or '/'}?{query}"
    return hashlib.sha256("\n".join([canonical, *accept]).encode("utf-8", "surrogateescape")).hexdigest()
