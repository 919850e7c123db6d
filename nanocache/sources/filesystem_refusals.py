"""What a file system's error means: one line without a secret, and whether asking again can help.

The libraries behind fsspec raise classes of their own, and quote addresses and options in them. Invariant: no login of
the URL, value of its query or value of an option is in what is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ..artifact import schemes
from ..artifact.urls import redact
from ..http.failure import Failure

__all__ = ["failure_of", "missing_package"]

LONGEST_TEXT = 300  # characters
LASTING_ERRORS = (
    *(FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError),
    *(AttributeError, ImportError, LookupError, NotImplementedError, TypeError, ValueError),
)
# Of classes that only their libraries know: paramiko, asyncssh, azure.
LASTING_NAMES = frozenset(
    {"AuthenticationException", "BadHostKeyException", "PermissionDenied", "HostKeyNotVerifiable"}
    | {"ClientAuthenticationError", "ResourceNotFoundError"}
)
SHOWN_OPTIONS = frozenset(
    {"host", "hostname", "port", "org", "repo", "sha", "ref", "path", "protocol"}
)  # options to show
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+")


def missing_package(error: Exception) -> Failure:
    """That fsspec does not know a protocol, or cannot load what reads it."""
    return Failure(_one_line(str(error)), lasting=True, remedy="install the package that it needs")


def failure_of(error: Exception, url: str, options: Mapping[str, Any]) -> Failure:
    """What `error` means, which the file system of `url`, made with `options`, raised."""
    names = {kind.__name__ for kind in type(error).__mro__}
    lasting = isinstance(error, LASTING_ERRORS) or bool(names & LASTING_NAMES)
    said = _without_secrets(str(error), _secrets(url, options))
    return Failure(f"{type(error).__name__}: {said}".rstrip(": "), lasting=lasting)


def _one_line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= LONGEST_TEXT else f"{line[:LONGEST_TEXT]}..."


def _without_secrets(text: str, secrets: Iterable[str]) -> str:
    """`text` on one line. Addresses first, because a secret of one letter would leave none to be recognised."""
    text = _ADDRESS.sub(lambda match: redact(match[0]), text)
    for secret in sorted(set(secrets), key=len, reverse=True):
        text = text.replace(secret, "...")
    return _one_line(text)


def _secrets(url: str, options: Mapping[str, Any]) -> Iterator[str]:
    parts = urlsplit(url)
    written = [value for _, value in parse_qsl(parts.query, keep_blank_values=True)]
    if parts.scheme not in schemes.PLACE_IN_USERINFO:
        written += parts.netloc.rpartition("@")[0].partition(":")[::2]
    for text in written:
        yield from filter(None, (text, unquote(text)))
    yield from _values({name: value for name, value in options.items() if name not in SHOWN_OPTIONS})


def _values(option: Any) -> Iterator[str]:
    """The texts in an option, however deep."""
    if isinstance(option, str):
        yield from filter(None, [option])
    elif isinstance(option, bytes):
        yield from _values(option.decode(errors="replace"))
    elif isinstance(option, Mapping):
        yield from _values(list(option.values()))
    elif isinstance(option, list | tuple | set | frozenset):
        for one in option:
            yield from _values(one)
