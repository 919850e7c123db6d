"""URLs: what is accepted, what two of them have in common, and what of them may be seen.

Not a resolver and not a client. Invariants: `redact` is the only way a URL leaves the library (errors, logs, files on
disk); `url_key` never depends on a credential, so that the hash of a URL can't be used to guess a password offline.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import PurePath
from typing import Any
from urllib.parse import ParseResult, SplitResult, quote, unquote, unquote_to_bytes, urlsplit

from . import buckets, hub, schemes
from . import headers as request_headers
from .schemes import LISTING, is_address
from .signing import without_signature

__all__ = ["check", "file_path", "is_address", "is_file", "origin", "parse", "redact", "url_key", "without_credentials"]

LONGEST_SHOWN = 500  # characters
LONGEST_HOST = 253  # characters of a name in the DNS
LONGEST_LABEL = 63  # characters between two of its dots
_BLANK = re.compile(r"[\x00-\x20\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LINK = re.compile(r"::[A-Za-z][A-Za-z0-9+.-]*://")
# Names of a query's parameters whose values are secrets. `author`, `tokenizer` and `monkey` are no such names.
_CREDENTIAL = re.compile(
    r".*(?:token|secret|passw(?:or)?d|signature|credential|api[-_.]?key)|(?:.*[-_.])?(?:key|auth|sig|pwd)",
    re.IGNORECASE,
)
_DIGEST_MARK = "sha256="  # pip's form of a fragment
_ADDRESSES: dict[str, Callable[[str], object]] = {
    "hf": hub.parse,
    "listing+hf": partial(hub.parse, repository=True),
    **dict.fromkeys(buckets.VERSIONS, buckets.parse),
}

# What was passed instead of a URL -> what was meant. The first that fits.
_NO_URLS: tuple[tuple[Any, str], ...] = (
    (type(None), "give a str"),
    (bytes | bytearray, "decode() it"),
    (PurePath, "a file on this machine is path.absolute().as_uri(), and an address is no path: give a str"),
    (SplitResult | ParseResult, "give its geturl()"),
    (list | tuple | set | frozenset | dict, "one URL is a str, and fetch_many takes several"),
    (type, "give a str, or an instance of it"),
)


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
    if _SURROGATE.search(text):
        raise ValueError(f"not a URL: {redact(text)!r} holds bytes that are no UTF-8; percent-encode them")
    if _is_chain(text):
        raise ValueError(f"cannot fetch {redact(text)!r}: it chains URLs; fetch the archive, with postprocess=Unpack()")
    parts = _split(text)
    if (reason := schemes.refusal_of(parts.scheme)) is not None:  # urlsplit lowers the scheme
        raise ValueError(f"cannot fetch {redact(text)!r}: {reason}{_meant(parts)}")
    address, mark, fragment = text.partition("#")
    if mark and not fragment.startswith(_DIGEST_MARK):
        raise ValueError(_with_fragment(text, parts))
    _check_place(address, parts)
    return text


def _check_place(address: str, parts: SplitResult) -> None:
    """Raise ValueError unless `address` says where its artifact is, as far as its scheme is known here."""
    if parts.scheme == "file":
        file_path(address)
    elif parts.scheme in schemes.WEB:
        host = (parts.hostname or "").rstrip(".")
        if not host:
            raise ValueError(f"cannot fetch {redact(address)!r}: it names no host")
        if host.isascii() and (len(host) > LONGEST_HOST or not all(map(_is_label, host.split(".")))):
            raise ValueError(f"cannot fetch {redact(address)!r}: a part of its host's name is empty or too long")
    elif (parse_address := _ADDRESSES.get(parts.scheme)) is not None:
        try:
            parse_address(address)
        except ValueError as e:
            raise ValueError(f"cannot fetch {redact(address)!r}: {e}") from None


def _is_label(text: str) -> bool:
    return 0 < len(text) <= LONGEST_LABEL


def _text(url: object) -> str:
    for kind, meant in _NO_URLS:
        if isinstance(url, kind):
            raise ValueError(f"not a URL: got {type(url).__name__}; {meant}")
    return str(url)


def _meant(parts: SplitResult) -> str:
    if not parts.scheme and parts.path.startswith(("/", ".", "~")):
        return "; a file on this machine is file:///absolute/path, as pathlib.Path(path).absolute().as_uri() writes it"
    return "" if parts.scheme else "; write the whole address, with https:// before it"


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
    return parts.scheme, _host(parts), parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def _host(parts: SplitResult) -> str:
    """Without userinfo and port. A bucket, or an owner on a Hub, may be told from another by its capitals alone."""
    if parts.scheme in schemes.WEB:
        return (parts.hostname or "").rstrip(".")
    return _place(parts).rpartition("@")[2].partition(":")[0]


def _place(parts: SplitResult) -> str:
    """What of an address before its path may be seen: no login, but the place that some schemes write like one."""
    return parts.netloc if parts.scheme in schemes.PLACE_IN_USERINFO else parts.netloc.rpartition("@")[2]


def redact(url: str) -> str:
    """`url` without userinfo, query values and fragment: fit for errors, logs and files. Never raises."""
    if _is_chain(url):
        return "::".join(map(redact, url.split("::")))
    url = url.removeprefix(LISTING)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # often a password with a / or a # in it, whose end cannot be known
        return _shown(url.split("//")[0] + "//..." if "@" in url else re.split("[?#]", url)[0])
    host = _place(parts)
    path = parts.path if host or parts.scheme == "file" else parts.path.rsplit("@", 1)[-1]  # me:password@host/a
    query = "&".join(_without_value(item) for item in parts.query.split("&") if item)
    return _shown(parts._replace(netloc=host, path=path, query=query, fragment="").geturl())


def _is_chain(url: str) -> bool:
    """Whether it is fsspec's way to name a file in another one: zip://member::https://host/a.zip."""
    return "::" in url and not is_address(url) and _LINK.search(url) is not None


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
    canonical = f"{_address(parts)}{parts.path or '/'}?{without_signature(parts.query)}"
    text = "\n".join([canonical, *request_headers.choosing(headers)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def without_credentials(url: str) -> str:
    """`url` for a file that is shared: userinfo and signatures are left out. Each reader of the file brings their own.

    Raises ValueError for a parameter that is named like a credential, since the address may mean nothing without it.
    """
    parts = _split(url)
    query = without_signature(parts.query)
    for name in (item.partition("=")[0] for item in query.split("&")):
        if _CREDENTIAL.fullmatch(unquote(name)):
            raise ValueError(f"{redact(url)!r} seems to hold a credential in {name!r}: leave it out")
    return f"{_address(parts)}{parts.path}{'?' + query if query else ''}"


def _address(parts: SplitResult) -> str:
    return f"{parts.scheme}://{_authority(parts)}"


def _authority(parts: SplitResult) -> str:
    """Host and port as one artifact's addresses have them in common. Beyond the web a user's name chooses the file."""
    if parts.scheme in schemes.PLACE_IN_USERINFO:
        return parts.netloc
    default = parts.port in (None, _DEFAULT_PORTS.get(parts.scheme))
    user = "" if parts.scheme in schemes.WEB or not parts.username else f"{parts.username}@"
    return user + _host(parts) + ("" if default else f":{parts.port}")
