"""Postprocess hooks: what makes two of them the same, and how one is run.

Not where products lie (`store`) nor who builds them (`engine`). Invariants: a hook whose identity can't be told apart
from another's is refused before any I/O, since the second caller would silently get the first one's product; a module's
name is no part of it, because every script is `__main__`, and `__mp_main__` in a spawned worker.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from ..cancel import Cancel, Cancelled, within
from ..errors import NanocacheError, PostprocessFailed
from . import arguments, filenames

__all__ = ["Hook", "Postprocess", "identify", "run"]

Postprocess = Callable[[Path, Path], Any]

_PLAIN = (bool, int, float, str, bytes)
_sources: WeakKeyDictionary[types.FunctionType, str] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook with its identity. `key`: 16 hex digits, the folder of its products; `label`: for people."""

    call: Postprocess
    key: str
    label: str
    name: str | None  # what the product is called; None: the artifact's name without its packing suffix

    @property
    def id(self) -> tuple[str, str | None]:
        """What decides where its products lie."""
        return self.key, self.name

    def product_name(self, artifact_name: str) -> str:
        return self.name or filenames.stem(artifact_name)


def identify(postprocess: Postprocess) -> Hook:
    """The hook's identity. Raises ValueError, with the line that cures it, for one that can't be told apart."""
    label = getattr(postprocess, "__qualname__", None) or type(postprocess).__qualname__
    arguments.hook(postprocess)
    key = getattr(postprocess, "key", None)
    if key is None:
        identity = _function(postprocess, label)
    elif isinstance(key, str) and key:
        identity = f"key\n{key}"
    else:
        raise ValueError(f"the key of postprocess {label} must be a non-empty str, got {key!r}")
    name = getattr(postprocess, "name", None)
    if name is not None:
        filenames.check(name)
    return Hook(postprocess, hashlib.sha256(identity.encode()).hexdigest()[:16], label, name)


def _function(postprocess: Postprocess, label: str) -> str:
    if isinstance(postprocess, functools.partial):
        raise _unknown("a partial", postprocess, label)
    if isinstance(postprocess, types.MethodType):
        raise _unknown("a bound method", postprocess, label)
    if not isinstance(postprocess, types.FunctionType):
        raise _unknown("an object without a key", postprocess, label)
    if postprocess.__name__ == "<lambda>":
        raise _unknown("a lambda", postprocess, label)
    if postprocess.__closure__:
        raise _unknown("a closure over variables", postprocess, label)
    version = getattr(postprocess, "version", "")
    given = "\n".join(_defaults(postprocess, label))
    return f"function\n{postprocess.__qualname__}\n{_source(postprocess, label)}\n{version}\n{given}"


def _defaults(postprocess: types.FunctionType, label: str) -> Iterator[str]:
    # `n=n` is how a loop gives a function its variable: the same source, and another function.
    for value in (*(postprocess.__defaults__ or ()), *(postprocess.__kwdefaults__ or {}).values()):
        if value is not None and type(value) not in _PLAIN:
            raise _unknown("a function with a default that is no plain value", postprocess, label)
        yield repr(value)


def _source(postprocess: types.FunctionType, label: str) -> str:
    # The source text and not the compiled code: set literals become frozensets whose order follows PYTHONHASHSEED.
    if (known := _sources.get(postprocess)) is None:
        try:
            text = inspect.getsource(postprocess)
        except (OSError, TypeError):
            raise _unknown("a function whose source can't be read", postprocess, label) from None
        known = _sources[postprocess] = hashlib.sha256(text.encode()).hexdigest()
    return known


def _unknown(what: str, postprocess: Postprocess, label: str) -> ValueError:
    keyed = isinstance(postprocess, types.FunctionType | functools.partial)  # others may take no attribute
    wrap = "" if keyed else "hook = functools.partial(hook); "
    return ValueError(
        f"postprocess {label} is {what}, so its products can't be told from another's; "
        f"give it an identity that changes when what it does changes: {wrap}hook.key = 'tokenize-v1'"
    )


def run(hook: Hook, src: Path, dst: Path, cancel: Cancel) -> None:
    """Have the hook build `dst` from `src`. Errors of ours pass; any other is PostprocessFailed, caused by it."""
    with failing_as(hook.label, src.name), within(cancel):
        hook.call(src, dst)
    if not dst.exists() or dst.is_symlink():
        raise PostprocessFailed(
            hook=hook.label,
            artifact=src.name,
            reason=f"it built no file or folder at the dst it was given ({dst.name})",
        )


@contextmanager
def failing_as(label: str, artifact: str) -> Iterator[None]:
    """Name the hook and the artifact in whatever the caller's code raises."""
    try:
        yield
    except (NanocacheError, Cancelled):
        raise
    except Exception as e:
        reason = f"{type(e).__name__}: {e}".split("\n", 1)[0]
        raise PostprocessFailed(hook=label, artifact=artifact, reason=reason) from e
