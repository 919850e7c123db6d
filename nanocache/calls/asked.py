"""What a call asks, as far as a hit needs to know: a key to remember it by, and its Artifact, made once.

Invariant: a hit costs no more than its stat, so that a usual call is told from an unusual one by types alone; whatever
is unusual, or wrong, is looked at each time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import lru_cache
from typing import Any

from .. import config
from ..artifact import hooks
from ..artifact.artifact import Artifact
from ..artifact.headers import Headers
from ..artifact.hooks import Postprocess

__all__ = ["artifact_of", "is_usual", "key_of"]


def is_usual(max_age: object, offline: object, progress: object) -> bool:
    """Whether these options need no look: a hit must cost no more than its stat.

    The caller tells those of most calls, three times None, by itself: this call is a hundredth of a hit.
    """
    return max_age is None and _is_option(offline) and _is_option(progress)


def _is_option(value: object) -> bool:
    return value is None or value is True or value is False


def key_of(
    url: object,
    sha256: str | None,
    filename: str | None,
    mirrors: Iterable[object],
    headers: Headers,
    postprocess: Postprocess | None,
) -> Hashable | None:
    """What a hit is remembered by; None for a call that is unusual, or wrong: its arguments are looked at each time.

    Of a hook its identity, not the object: an attribute that makes it another one can be set at any time. In a frozen
    process every call is unusual: what is locked is looked up, and no earlier answer stands in for that.
    """
    if config.frozen():
        return None
    if isinstance(url, Artifact):
        if (sha256, filename, mirrors, headers, postprocess) != (None, None, (), None, None):
            return None
        return url if url.postprocess is None else (url, hooks.identify(url.postprocess).id)
    if not (type(url) is str and type(sha256) in _TEXT and type(filename) in _TEXT):
        return None
    hook = None if postprocess is None else hooks.identify(postprocess).id
    if mirrors == () and headers is None:
        return url, sha256, filename, hook
    more = _strings(mirrors), _strings(headers or {})
    return None if None in more else (url, sha256, filename, hook, more)


def _strings(values: Any) -> tuple[str, ...] | None:
    """The strings in a list, tuple or dict; None for anything else, which may have no hash, or be gone once read."""
    pairs = type(values) is dict
    if not pairs and type(values) not in (list, tuple):
        return None
    strings = (*values, *values.values()) if pairs else tuple(values)
    return strings if all(type(value) is str for value in strings) else None


_TEXT = (str, type(None))


def artifact_of(
    url: object,
    sha256: str | None,
    filename: str | None,
    mirrors: Iterable[object],
    headers: Headers,
    postprocess: Postprocess | None,
) -> Artifact:
    options: dict[str, Any] = {"sha256": sha256, "filename": filename, "postprocess": postprocess}
    if headers is None and mirrors == () and all(isinstance(value, Hashable) for value in (url, *options.values())):
        return _plain_artifact(url, **options) if type(url) is str else Artifact.of(url, **options)
    return Artifact.of(url, mirrors=mirrors, headers=headers, **options)


@lru_cache(maxsize=1024)
def _plain_artifact(url: str, **options: Any) -> Artifact:
    # A thousand tasks that ask for one artifact in one turn of the loop would hold it for 10 ms with this alone.
    return Artifact(url, **options)
