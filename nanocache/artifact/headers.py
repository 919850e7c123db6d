"""The caller's request headers: which are accepted, and which say that another file is meant.

Not their sending (`http.redirects`). Invariants: a header that would be dropped or changed is refused by name; no text
holds a header's value, which may be a credential.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Headers", "Pairs", "check", "choosing", "refusal"]

Headers = Mapping[str, str] | Iterable[tuple[str, str]] | None
Pairs = tuple[tuple[str, str], ...]

_FRAMING = "the connection decides it"
_CONDITION = "nanocache asks such questions itself: give max_age= to have it ask"
# Lower-case name -> why no caller may set it. `if-` and `proxy-connection` have further names of their kind.
_OURS = {
    "accept-encoding": "the bytes are fetched as they are; Decompress() unpacks them",
    "host": "it comes from the URL",
    "range": "an artifact is a whole file, and nanocache asks for its parts itself",
    "connection": _FRAMING,
    "content-length": _FRAMING,
    "expect": _FRAMING,
    "http2-settings": _FRAMING,
    "keep-alive": _FRAMING,
    "proxy-connection": _FRAMING,
    "te": _FRAMING,
    "trailer": _FRAMING,
    "transfer-encoding": _FRAMING,
    "upgrade": _FRAMING,
}
_BREAKS = "\r\n"
_NAMES = {"\0": "a null character", "\t": "a tab"}
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")  # RFC 9110, 5.6.2
_CREDENTIALS = ("auth", "cookie", "key", "secret", "token")  # and with them Authorization, Proxy-Authorization


def check(headers: Headers) -> Pairs:
    """`headers` as pairs. Raises ValueError that names the header that is wrong."""
    return tuple(_check(name, value) for name, value in _split(headers))


def _split(headers: object) -> Iterator[tuple[object, object]]:
    if headers is None:
        return
    if isinstance(headers, str | bytes) or not isinstance(headers, Iterable):
        raise ValueError(f"headers must map header names to values, {{'Name': 'value'}}, got {type(headers).__name__}")
    pairs: Iterable[object] = headers.items() if isinstance(headers, Mapping) else headers
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError("headers must map header names to values, both str: {'Name': 'value'}")
        yield pair[0], pair[1]


def _check(name: object, value: object) -> tuple[str, str]:
    if not isinstance(name, str) or not isinstance(value, str):
        kinds = f"{type(name).__name__} to {type(value).__name__}"
        raise ValueError(f"headers must map header names to values, both str, got {kinds}")
    if not name or not set(name.lower()) <= _TOKEN:
        raise ValueError(f"the header name {name!r} is empty, or holds a character that no name may hold")
    if (fault := _fault(value)) is not None:
        raise ValueError(f"the value of the header {name!r} {fault}")
    if (why := refusal(name.lower())) is not None:
        raise ValueError(f"the header {name!r} can't be set: {why}; leave it off")
    return name, value


def _fault(value: str) -> str | None:
    if set(value) & set(_BREAKS):
        return f"holds a line break; {'take it out' if set(value.strip()) & set(_BREAKS) else 'strip() it'}"
    if value != value.strip(" \t"):
        return "begins or ends with a space; strip() it"
    odd = next((c for c in value if not c.isprintable()), None)
    if odd is None:
        return None
    return f"holds {_NAMES.get(odd, 'a character that no header may hold')} (U+{ord(odd):04X}); take it out"


def refusal(name: str) -> str | None:
    """Why no caller may set the header `name`, in lower case; None if one may."""
    return _CONDITION if name.startswith("if-") else _OURS.get(name)


def choosing(headers: Iterable[tuple[str, str]]) -> list[str]:
    """What of `headers` may choose another content: all but credentials. Sorted, names in lower case.

    GitHub's asset API gives JSON or the file itself, by Accept; others choose by language or version.
    """
    named = [(name.lower(), value.strip()) for name, value in headers]
    return sorted(f"{name}: {value}" for name, value in named if not any(word in name for word in _CREDENTIALS))
