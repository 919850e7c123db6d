"""The functions: each is the method of Cache of the same name, on the environment's base directory or `base_dir`.

Spelled out, so that `help`, editors and type checkers see them; the promises are in the methods' docstrings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .artifact.headers import Headers
from .artifact.hooks import Postprocess
from .cache import Cache, PathLike
from .progress import ProgressOption

__all__ = ["afetch", "build", "fetch", "fetch_many", "get_base_dir", "lookup", "snapshot"]

_default = Cache()


def _cache(base_dir: PathLike | None) -> Cache:
    return _default if base_dir is None else Cache(base_dir)


def fetch(
    url: object,
    *,
    sha256: str | None = None,
    filename: str | None = None,
    mirrors: Iterable[object] = (),
    headers: Headers = None,
    postprocess: Postprocess | None = None,
    rehash: bool = False,
    max_age: float | None = None,
    offline: bool | None = None,
    progress: ProgressOption = None,
    into: PathLike | None = None,
    base_dir: PathLike | None = None,
) -> Path:
    return _cache(base_dir).fetch(
        url,
        sha256=sha256,
        filename=filename,
        mirrors=mirrors,
        headers=headers,
        postprocess=postprocess,
        rehash=rehash,
        max_age=max_age,
        offline=offline,
        progress=progress,
        into=into,
    )


async def afetch(
    url: object,
    *,
    sha256: str | None = None,
    filename: str | None = None,
    mirrors: Iterable[object] = (),
    headers: Headers = None,
    postprocess: Postprocess | None = None,
    rehash: bool = False,
    max_age: float | None = None,
    offline: bool | None = None,
    progress: ProgressOption = None,
    into: PathLike | None = None,
    base_dir: PathLike | None = None,
) -> Path:
    return await _cache(base_dir).afetch(
        url,
        sha256=sha256,
        filename=filename,
        mirrors=mirrors,
        headers=headers,
        postprocess=postprocess,
        rehash=rehash,
        max_age=max_age,
        offline=offline,
        progress=progress,
        into=into,
    )


def fetch_many(
    artifacts: Iterable[object] | Mapping[Any, str],
    *,
    workers: int | None = None,
    return_exceptions: bool = False,
    progress: ProgressOption = None,
    offline: bool | None = None,
    into: PathLike | None = None,
    base_dir: PathLike | None = None,
) -> list[Path]:
    return _cache(base_dir).fetch_many(
        artifacts,
        workers=workers,
        return_exceptions=return_exceptions,
        progress=progress,
        offline=offline,
        into=into,
    )


def lookup(
    url: object,
    *,
    sha256: str | None = None,
    filename: str | None = None,
    headers: Headers = None,
    postprocess: Postprocess | None = None,
    base_dir: PathLike | None = None,
) -> Path | None:
    return _cache(base_dir).lookup(url, sha256=sha256, filename=filename, headers=headers, postprocess=postprocess)


def snapshot(
    url: str,
    *,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    max_age: float | None = None,
    offline: bool | None = None,
    progress: ProgressOption = None,
    into: PathLike | None = None,
    base_dir: PathLike | None = None,
) -> Path:
    return _cache(base_dir).snapshot(
        url, include=include, exclude=exclude, max_age=max_age, offline=offline, progress=progress, into=into
    )


def build(key: str, fn: Callable[[Path], object], *, name: str, base_dir: PathLike | None = None) -> Path:
    return _cache(base_dir).build(key, fn, name=name)


def get_base_dir() -> Path:
    """The base directory that the environment asks for, made if it can be."""
    base = _default.base_dir
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError:
        pass  # a read-only place serves hits all the same, and `fetch` says clearly why it can't fetch
    return base


# One text for both: a docstring kept twice comes apart.
for _function in (fetch, afetch, fetch_many, lookup, snapshot, build):
    _function.__doc__ = getattr(Cache, _function.__name__).__doc__
