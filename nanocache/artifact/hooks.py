"""Postprocess hooks: what makes two of them the same, and how one is run.

Not where products lie (`store`) nor who builds them (`engine`). Invariants: a hook whose identity can't be told apart
from another's is refused before any I/O, since the second caller would silently get the first one's product; a module's
name is no part of it, because every script is `__main__`, and `__mp_main__` in a spawned worker.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import tokenize
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from ..callers import CallersError, let_pass
from ..cancel import Cancel, Cancelled, within
from ..errors import NanocacheError, PostprocessFailed
from . import arguments, filenames

__all__ = ["Hook", "Postprocess", "check_built", "failing_as", "identify", "run"]

Postprocess = Callable[[Path, Path], Any]

_PLAIN = (bool, int, float, str, bytes)


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
    identity = _identity(postprocess, label)
    name = getattr(postprocess, "name", None)
    if name is not None:
        filenames.check(name)
    return Hook(postprocess, hashlib.sha256(identity.encode()).hexdigest()[:16], label, name)


def _identity(postprocess: Postprocess, label: str) -> str:
    key = getattr(postprocess, "key", None)
    if key is None:
        return _function(postprocess, label)
    if not isinstance(key, str) or not key:
        raise ValueError(f"the key of postprocess {label} must be a non-empty str, got {key!r}")
    return f"key\n{key}"


# What has no identity of its own: the first row that is true of a hook.
_NAMELESS: dict[str, Callable[[Any], bool]] = {
    "a partial": lambda hook: isinstance(hook, functools.partial),
    "a bound method": lambda hook: isinstance(hook, types.MethodType),
    "an object without a key": lambda hook: not isinstance(hook, types.FunctionType),
    "a lambda": lambda hook: hook.__name__ == "<lambda>",
    "a closure over variables": lambda hook: bool(hook.__closure__),
}


def _function(postprocess: Any, label: str) -> str:
    source = _known(postprocess) or _read(postprocess, label)
    given = _defaults(postprocess)
    if not all(value is None or type(value) in _PLAIN for value in given):
        raise _unknown("a function with a default that is no plain value", postprocess, label)
    version = getattr(postprocess, "version", "")
    defaults = "\n".join(map(repr, given))
    return f"function\n{postprocess.__qualname__}\n{source}\n{version}\n{defaults}"


def _defaults(function: types.FunctionType) -> list[Any]:
    # `n=n` is how a loop gives a function its variable: the same source, and another function.
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


# --- a function's source ----------------------------------------------------------------------------------------------

_sources: WeakKeyDictionary[types.FunctionType, tuple[types.CodeType, str]] = WeakKeyDictionary()


def _known(function: Any) -> str | None:
    """The SHA-256 of the source of a function that was looked at before, unless a reload gave it new code."""
    if type(function) is not types.FunctionType:
        return None
    code, digest = _sources.get(function, (None, None))
    return digest if code is function.__code__ else None


def _read(postprocess: Any, label: str) -> str:
    """The SHA-256 of a function's source.

    Of the text and not of the compiled code: set literals become frozensets whose order follows PYTHONHASHSEED.
    """
    for what, holds in _NAMELESS.items():
        if holds(postprocess):
            raise _unknown(what, postprocess, label)
    try:
        text = _text(postprocess)
    except (OSError, TypeError, SyntaxError, ValueError, tokenize.TokenError):
        raise _unknown("a function whose source can't be read", postprocess, label) from None
    if text is None:
        raise _unknown("a function whose file was edited after it was loaded", postprocess, label)
    digest = hashlib.sha256(text.encode()).hexdigest()
    _sources[postprocess] = postprocess.__code__, digest
    return digest


def _text(function: types.FunctionType) -> str | None:
    """What `function` was made of; None if its file says something else by now."""
    if not _compiled_as_it_stands(function):
        return inspect.getsource(function)
    lines, _ = inspect.findsource(function)  # looks again whether the file changed
    running = _placeless(function.__code__)
    for code in _codes(compile("".join(lines), "", "exec", dont_inherit=True)):
        if _placeless(code) == running:
            return "".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))
    return None


def _compiled_as_it_stands(function: types.FunctionType) -> bool:
    """Whether compiling its file gives its code: not if a loader rewrote it (pytest), or it came from a notebook."""
    spec = function.__globals__.get("__spec__")
    plain = spec is None or type(spec.loader) is SourceFileLoader
    return plain and os.path.isfile(inspect.getsourcefile(function) or "")


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code in `code`, at any depth."""
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield inner
            yield from _codes(inner)


def _placeless(code: types.CodeType) -> types.CodeType:
    """`code` without where it stands: an edit elsewhere in the file moves its lines, and changes nothing in it."""
    constants = tuple(_placeless(value) if isinstance(value, types.CodeType) else value for value in code.co_consts)
    return code.replace(co_filename="", co_firstlineno=1, co_linetable=b"", co_consts=constants)


def _unknown(what: str, postprocess: Postprocess, label: str) -> ValueError:
    keyed = isinstance(postprocess, types.FunctionType | functools.partial)  # others may take no attribute
    wrap = "" if keyed else "hook = functools.partial(hook); "
    return ValueError(
        f"postprocess {label} is {what}, so its products can't be told from another's; "
        f"give it an identity that changes when what it does changes: {wrap}hook.key = 'tokenize-v1'"
    )


def run(hook: Hook, src: Path, dst: Path, cancel: Cancel) -> None:
    """Have the hook build `dst` from `src`. Errors of ours pass; any other is PostprocessFailed, caused by it."""
    with failing_as(hook.label, src.name):
        within(cancel, functools.partial(hook.call, src, dst))
    check_built(dst, hook.label, src.name)


def check_built(dst: Path, label: str, artifact: str) -> None:
    """Raise PostprocessFailed unless something was built at `dst`."""
    if not dst.exists() or dst.is_symlink():
        reason = f"it built no file or folder at the dst it was given ({dst.name})"
        raise PostprocessFailed(hook=label, artifact=artifact, reason=reason)


@contextmanager
def failing_as(label: str, artifact: str) -> Iterator[None]:
    """Name the hook and the artifact in whatever the caller's code raises."""
    try:
        yield
    except (NanocacheError, Cancelled, CallersError):
        raise
    except Exception as e:
        let_pass(e)
        reason = f"{type(e).__name__}: {e}".split("\n", 1)[0]
        raise PostprocessFailed(hook=label, artifact=artifact, reason=reason) from e
