"""What a person means by a path, a URL or a digest: the digest of something that is cached.

Changes nothing and asks no server. Invariant: a prefix that fits two digests is refused, never guessed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..artifact import hub, urls
from ..artifact.artifact import Artifact
from ..disk import files
from ..errors import NotCached
from ..retention import walk
from ..store import refs
from ..store.layout import BLOBS, PRODUCTS, TREES, BaseDirectory
from .entries import all_refs

__all__ = ["digest_of", "digests_of", "folders_of", "several", "unknown"]

SHORTEST = 8  # digits of a digest that is cut short


def several(targets: object) -> list[object]:
    """One target, or each of several."""
    if isinstance(targets, str | os.PathLike | Artifact) or not isinstance(targets, Iterable):
        return [targets]
    return list(targets)


def digests_of(directory: BaseDirectory, targets: object) -> list[str]:
    """The digests that `targets` mean, each once, in their order. Raises ValueError, NotCached."""
    found = [digest for target in several(targets) for digest in _found(directory, target)]
    return list(dict.fromkeys(found))


def digest_of(directory: BaseDirectory, target: object) -> str:
    """The digest that `target` means: of a repository, that of its newest folder. Raises as `digests_of`."""
    return _found(directory, target)[0]


def unknown(directory: BaseDirectory, target: object) -> NotCached:
    """The error for a target of which nothing is cached."""
    shown = target.url if isinstance(target, Artifact) else str(target)
    return NotCached(url=urls.redact(shown), base_dir=directory.base, reason="unknown", command="")


def _found(directory: BaseDirectory, target: object) -> list[str]:
    if not (found := _find(directory, target)):
        raise unknown(directory, target)
    return found


def _find(directory: BaseDirectory, target: object) -> list[str]:
    if isinstance(target, Artifact):
        return _of_artifact(directory, target)
    if not isinstance(target, str | os.PathLike):
        raise ValueError(f"a target is a path, a URL or a digest, got {type(target).__name__}")
    text = os.fspath(target)
    if not isinstance(text, str) or not text:
        raise ValueError(f"a target is a path, a URL or a digest, got {text!r}")
    if isinstance(target, str) and _is_digits(text.removeprefix("sha256:").lower()):
        return _of_digits(directory, text.removeprefix("sha256:").lower())
    if isinstance(target, str) and "://" in text:
        return _of_repository(directory, text) if hub.is_repository(text) else _of_artifact(directory, Artifact(text))
    return _of_path(directory, os.path.abspath(os.path.expanduser(text)))


def _is_digits(text: str) -> bool:
    return SHORTEST <= len(text) <= 64 and walk.HEXADECIMAL.issuperset(text)


def _of_digits(directory: BaseDirectory, digits: str) -> list[str]:
    if len(digits) == 64:
        return [digits] if _is_cached(directory, digits) else []
    found = sorted(digest for digest in _cached(directory, digits[:2]) if digest.startswith(digits))
    if len(found) > 1:
        raise ValueError(f"{digits} is the beginning of {len(found)} digests: {', '.join(d[:16] for d in found[:4])}")
    return found


def _is_cached(directory: BaseDirectory, digest: str) -> bool:
    return any(map(walk.is_folder, folders_of(directory, digest)))


def folders_of(directory: BaseDirectory, digest: str) -> tuple[str, ...]:
    """Where something of a digest may be."""
    return directory.tree_folder(digest), directory.product_folder(digest), directory.blob_folder(digest)


def _cached(directory: BaseDirectory, shard: str) -> set[str]:
    """The digests of which something is here, and of `blobs-v1` those that begin with two digits."""
    shard = f"{walk.top(directory, BLOBS)}/sha256/{shard}"
    places = (shard, walk.top(directory, PRODUCTS), walk.top(directory, TREES))
    return set().union(*map(walk.digests_in, places))


def _of_artifact(directory: BaseDirectory, artifact: Artifact) -> list[str]:
    if artifact.sha256 is not None:
        return _of_digits(directory, artifact.sha256)
    ref = refs.read(directory, urls.url_key(artifact.url, artifact.headers))
    return [] if ref is None else _of_digits(directory, ref.digest)


def _of_repository(directory: BaseDirectory, url: str) -> list[str]:
    """What a snapshot of the repository at `url` left: its folders' manifests, the newest first, and its listings."""
    shown = urls.redact(url)
    trees = walk.digests_in(walk.top(directory, TREES))
    left = [ref for ref in all_refs(directory) if ref.url == shown and _of_digits(directory, ref.digest)]
    return [ref.digest for ref in sorted(left, key=lambda ref: (ref.digest not in trees, -ref.fetched_at))]


def _of_path(directory: BaseDirectory, path: str) -> list[str]:
    for spelled in (path, os.path.realpath(path)):
        for base in (directory.base, os.path.realpath(directory.base)):
            if spelled.startswith(f"{base}/"):
                return _inside(directory, spelled[len(base) + 1 :])
    return _linked(directory, path)


def _inside(directory: BaseDirectory, path: str) -> list[str]:
    """blobs-v1/sha256/9f/<digest>/..., products-v1/<digest>/..., trees-v1/<digest>/..."""
    top, *rest = path.split("/")
    digests = [part for part in rest if walk.is_digest(part)]
    return _of_digits(directory, digests[0]) if digests and top in (BLOBS, PRODUCTS, TREES) else []


def _linked(directory: BaseDirectory, path: str) -> list[str]:
    """The blob of which a file elsewhere is a further name."""
    try:
        st = os.stat(path)
    except OSError:
        return []
    if st.st_nlink < 2:
        return []
    names = ((digest, entry) for digest, folder in walk.blob_folders(directory) for entry in walk.scan(folder))
    return [digest for digest, entry in names if entry.inode() == st.st_ino and files.same_file(st, entry.path)][:1]
