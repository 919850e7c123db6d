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
from pathlib import PurePath
from typing import Any
from urllib.parse import ParseResult, SplitResult, quote, unquote_to_bytes, urlsplit

from . import headers as request_headers
from .signing import without_signature

__all__ = ["check", "file_path", "is_file", "origin", "parse", "redact", "url_key"]

SCHEMES = ("http", "https", "file")
LONGEST_SHOWN = 500  # characters
_BLANK = re.compile(r"[\x00-\x20\x7f]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_DIGEST_MARK = "sha256="  # pip's form of a fragment

# What was passed instead of a URL -> what was meant. The first that fits.
_NO_URLS: tuple[tuple[Any, str], ...] = (
    (type(None), "give a str"),
    (bytes | bytearray, "decode() it"),
    (PurePath, "a file on this machine is path.absolute().as_uri(), and an address is no path: give a str"),
    (SplitResult | ParseResult, "give its geturl()"),
    (list | tuple | set | frozenset | dict, "one URL is a str, and fetch_many takes several"),
    (type, "give a str, or an instance of it"),
)
# A scheme that is not ours -> where the same bytes can be asked for.
_ELSEWHERE = {
    "s3": "an object of S3 is https://BUCKET.s3.amazonaws.com/KEY, presigned if it is private",
    "gs": "an object of Google Cloud Storage is https://storage.googleapis.com/BUCKET/KEY",
    "hf": "a file of the Hub is https://huggingface.co/OWNER/NAME/resolve/main/PATH",
    "az": "a blob of Azure is https://ACCOUNT.blob.core.windows.net/CONTAINER/KEY",
    "ftp": "ask its host for an https address",
    "": "write the whole address, with https:// before it",
}


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is no number
    except ValueError:  # whose text may quote a piece of a password
        raise ValueError(f"not a URL: {redact(url)!r}; its host or its port is malformed") from None
    return parts


def parse(url: object) -> tuple[str, str | None]:
    """The address without its fragment, and what a fragment `#sha256=` says. Raises ValueError as `check`."""
    address, _, fragment = check(url).partition("#")
    return address, fragment.removeprefix(_DIGEST_MARK) if fragment else None


def check(url: object) -> str:
    """`str(url)` if it is a URL that nanocache can fetch. Raises ValueError saying what it should have been."""
    text = _text(url)
    if _BLANK.search(text):
        raise ValueError(f"not a URL: {redact(text)!r} holds a space or a control character; percent-encode it")
    parts = _split(text)
    if parts.scheme not in SCHEMES:  # urlsplit lowers the scheme
        raise ValueError(f"cannot fetch {redact(text)!r}: the scheme must be http, https or file{_meant(parts)}")
    address, mark, fragment = text.partition("#")
    if mark and not fragment.startswith(_DIGEST_MARK):
        raise ValueError(_with_fragment(text, parts))
    if parts.scheme == "file":
        file_path(address)
    elif not (parts.hostname or "").rstrip("."):
        raise ValueError(f"cannot fetch {redact(text)!r}: it names no host")
    return text


def _text(url: object) -> str:
    for kind, meant in _NO_URLS:
        if isinstance(url, kind):
            raise ValueError(f"not a URL: got {type(url).__name__}; {meant}")
    return str(url)


def _meant(parts: SplitResult) -> str:
    if not parts.scheme and parts.path.startswith(("/", ".", "~")):
        return "; a file on this machine is file:///absolute/path, as pathlib.Path(path).absolute().as_uri() writes it"
    hint = _ELSEWHERE.get(parts.scheme)
    return f"; {hint}" if hint else ""


def _with_fragment(text: str, parts: SplitResult) -> str:
    # The fragment itself is not shown: `#access_token=` is one, too.
    if parts.scheme == "file":
        return f"cannot fetch {redact(text)!r}...: a # in a file's name is written %23, as pathlib's as_uri() does"
    return (
        f"cannot fetch {redact(text)!r} with a fragment (#...), which is never sent: leave it off, write "
        f"%23 for a # in a name, or give the digest as #sha256=<64 hex digits>"
    )


def is_file(url: str) -> bool:
    return url[:5].lower() == "file:"


def file_path(url: str) -> str:
    """The path of a `file:` URL on this machine. Raises ValueError for another host or a relative path."""
    parts = _split(url)
    if "?" in url or "#" in url:  # and not `parts.query`: a name may end in one
        raise ValueError(
            f"cannot fetch {redact(url)!r}...: in a file's name ? is written %3F and # %23, as pathlib's as_uri() does"
        )
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
    except ValueError:  # often a password with a / or a # in it, whose end cannot be known
        return _shown(url.split("//")[0] + "//..." if "@" in url else re.split("[?#]", url)[0])
    host = parts.netloc.rsplit("@", 1)[-1]
    path = parts.path if host or parts.scheme == "file" else parts.path.rsplit("@", 1)[-1]  # me:password@host/a
    query = "&".join(_without_value(item) for item in parts.query.split("&") if item)
    return _shown(parts._replace(netloc=host, path=path, query=query, fragment="").geturl())


def _without_value(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return f"{name}=..." if equals else "..."


def _shown(url: str) -> str:
    # A redirect's is what a server wrote: of any length, and with what a terminal obeys.
    text = url if url.isprintable() else "".join(map(_printable, url))
    if len(text) <= LONGEST_SHOWN:
        return text
    half = LONGEST_SHOWN // 2
    return f"{text[:half]}...{text[-half:]}"


def _printable(character: str) -> str:
    return character if character.isprintable() else quote(character, errors="replace")


def url_key(url: str, headers: Iterable[tuple[str, str]] = ()) -> str:
    """64 hex digits that are the same for URLs of one resource, whichever caller asks and however it is signed.

    Scheme and host in lower case; default port, fragment, userinfo and signatures dropped. Headers that are no
    credentials are part of it: the same address with another `Accept` is another file.
    """
    parts = _split(url)
    default = parts.port in (None, _DEFAULT_PORTS.get(parts.scheme))
    host = (parts.hostname or "").rstrip(".") + ("" if default else f":{parts.port}")
    canonical = f"{parts.scheme}://{host}{parts.path or '/'}?{without_signature(parts.query)}"
    text = "\n".join([canonical, *request_headers.choosing(headers)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
