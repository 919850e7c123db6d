"""Every error that nanocache raises on purpose, and how it crosses processes.

    NanocacheError
    ├── ChecksumMismatch   (ValueError)          the bytes are not the ones that were asked for
    │   └── UpstreamChanged                      nor the ones that a lock file names
    ├── DownloadFailed     (OSError)             no URL gave the artifact; one cause per URL
    ├── NotCached          (FileNotFoundError)   offline or read-only, and it is not here
    ├── NotLocked          (KeyError)            a lock file does not have it
    ├── NotSigned          (ValueError)          a lock file has no signature by the key that is required
    ├── LockTimeout        (TimeoutError)        another process holds the lock and makes no progress
    ├── NoSpace            (OSError, ENOSPC)     the disk, the quota or the size limit is full
    ├── UnsafeArchive      (ValueError)          an archive wants to write where, or as much as, it must not
    │   └── DamagedBundle      (ChecksumMismatch)    a file in a bundle has other bytes than the bundle says
    ├── UnsafeCache        (PermissionError)     something that is not ours stands at a path of ours
    └── PostprocessFailed  (RuntimeError)        the caller's hook raised, or built nothing

Invariants: an error is rebuilt from its facts alone, by pickle and by JSON, because errors cross processes and
ranks; its message is one line: what, where, expected and got, the remedy. This module imports nothing of ours.
"""

from __future__ import annotations

import errno
import re
from typing import Any, ClassVar

__all__ = [
    "NanocacheError",
    "ChecksumMismatch",
    "UpstreamChanged",
    "DownloadFailed",
    "NotCached",
    "NotLocked",
    "NotSigned",
    "LockTimeout",
    "NoSpace",
    "UnsafeArchive",
    "DamagedBundle",
    "UnsafeCache",
    "PostprocessFailed",
]


class NanocacheError(Exception):
    """The root. `facts()` are the keyword arguments that rebuild the error anywhere."""

    FACTS: ClassVar[tuple[str, ...]] = ()

    def facts(self) -> dict[str, Any]:
        """The error's facts, all of them values that JSON can carry."""
        return {name: getattr(self, name) for name in self.FACTS}

    def to_json(self) -> dict[str, Any]:
        """`{"error": class name, "facts": {...}}`; `from_json` is the way back."""
        return {"error": type(self).__name__, "facts": self.facts()}

    @staticmethod
    def from_json(record: dict[str, Any]) -> NanocacheError:
        """Rebuild what `to_json` gave. Raises ValueError if it is no such record."""
        try:
            error: NanocacheError = _LEAVES[record["error"]](**record["facts"])
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as e:
            raise ValueError(f"not the record of a nanocache error: {record!r}") from e
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError and friends pickle by positional args; our constructors take facts by name.
        return _rebuild, (type(self), self.facts())


def _rebuild(cls: type[NanocacheError], facts: dict[str, Any]) -> NanocacheError:
    return cls(**facts)


def _short(digest: str) -> str:
    return digest[:12] + "..."


_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def _quoted(text: str, *, always: bool = False) -> str:
    """`text` as a shell takes it for one word, so that the line can be pasted."""
    # As shlex.quote does: an error must not need a module that may be out of reach when it is raised.
    if not always and _PLAIN.fullmatch(text):
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"


class ChecksumMismatch(NanocacheError, ValueError):
    """The bytes that came have another SHA-256. Attributes: url, expected, got (64 hex digits), size (bytes), note."""

    FACTS: ClassVar[tuple[str, ...]] = ("url", "expected", "got", "size", "note")

    def __init__(self, *, url: str, expected: str, got: str, size: int, note: str = "") -> None:
        self.url, self.expected, self.got, self.size, self.note = url, expected, got, size, note
        super().__init__(
            f"sha256 mismatch for {url}: expected {_short(expected)}, got {_short(got)} ({size:,} bytes); "
            f"nothing was cached{'; ' + note if note else ''}"
        )


class UpstreamChanged(ChecksumMismatch):
    """A URL no longer gives what a lock file has. Attributes: name, lock (a path), url, expected, got, size (bytes)."""

    FACTS = ("name", "lock", "url", "expected", "got", "size")

    def __init__(self, *, name: str, lock: str, url: str, expected: str, got: str, size: int) -> None:
        super().__init__(url=url, expected=expected, got=got, size=size)
        self.name, self.lock = name, lock
        self.args = (
            f"{name} changed: {url} now gives sha256 {got} ({size:,} bytes), and {lock} has {expected}; "
            f"if the change is right: nanocache lock --update {_quoted(name)}",
        )


class DownloadFailed(NanocacheError, OSError):
    """No URL gave the artifact.

    Attributes: url (the artifact's), causes (a tuple of (url, reason), one per URL tried), status (the last HTTP
    status, or None), remedy.
    """

    FACTS = ("url", "causes", "status", "remedy")

    def __init__(
        self, *, url: str, causes: tuple[tuple[str, str], ...], status: int | None = None, remedy: str = ""
    ) -> None:
        self.url, self.status, self.remedy = url, status, remedy
        self.causes = tuple((cause[0], cause[1]) for cause in causes)  # JSON makes lists of them
        reasons = "; ".join(reason if where == url else f"{where}: {reason}" for where, reason in self.causes)
        super().__init__(f"download of {url} failed: {reasons or 'no URL to try'}{'; ' + remedy if remedy else ''}")


class NotCached(NanocacheError, FileNotFoundError):
    """The artifact is not here and may not be fetched.

    Attributes: url, sha256, base_dir, reason, command (of nanocache, which fetches it; "": it is only looked for).
    """

    FACTS = ("url", "base_dir", "sha256", "reason", "command")

    def __init__(
        self, *, url: str, base_dir: str, sha256: str | None = None, reason: str = "offline", command: str = "fetch"
    ) -> None:
        self.command = command
        self.url, self.base_dir, self.sha256, self.reason = url, base_dir, sha256, reason
        super().__init__(self._fetch_it() if command else f"{url} is not cached in {base_dir}; see `nanocache ls`")

    def _fetch_it(self) -> str:
        elsewhere = "" if self.reason == "offline" else "set NANOCACHE_DIR to a folder that this user can write; or "
        pin = f" --sha256 {self.sha256}" if self.sha256 else ""
        return (
            f"{self.url} is not cached in {self.base_dir} and cannot be fetched ({self.reason}); {elsewhere}"
            f"to fill the cache, run this on a machine that can: "
            f"NANOCACHE_DIR={_quoted(self.base_dir)} nanocache {self.command} {_quoted(self.url, always=True)}{pin}"
        )


class NotLocked(NanocacheError, KeyError):
    """A lock file does not have what was asked for. Attributes: target (a name or a URL), lock (its path), reason."""

    FACTS = ("target", "lock", "reason")
    __str__ = Exception.__str__  # KeyError's shows a repr

    def __init__(self, *, target: str, lock: str, reason: str = "") -> None:
        self.target, self.lock, self.reason = target, lock, reason
        super().__init__(f"{target} is not in {lock}{'; ' + reason if reason else ''}")


class NotSigned(NanocacheError, ValueError):
    """A lock file has no signature by the key that is required. Attributes: lock and key (paths), reason."""

    FACTS = ("lock", "key", "reason")

    def __init__(self, *, lock: str, key: str, reason: str) -> None:
        self.lock, self.key, self.reason = lock, key, reason
        super().__init__(f"{lock} is not signed by {key}: {reason}; nothing of it was fetched")


class LockTimeout(NanocacheError, TimeoutError):
    """The holder of a lock made no progress for the time that NANOCACHE_LOCK_TIMEOUT allows.

    Attributes: path (the lock), waited (seconds without progress), pid, host, done and total (bytes; None = unknown).
    """

    FACTS = ("path", "waited", "pid", "host", "done", "total")

    def __init__(
        self,
        *,
        path: str,
        waited: float,
        pid: int | None = None,
        host: str | None = None,
        done: int | None = None,
        total: int | None = None,
    ) -> None:
        self.path, self.waited, self.pid, self.host, self.done, self.total = path, waited, pid, host, done, total
        holder = f"pid {pid} on {host}" if pid is not None else "an unknown process"
        size = "?" if total is None else f"{total:,}"
        at = f", at {done:,} of {size} bytes" if done is not None else ""
        super().__init__(
            f"waited {waited:.1f} s for the lock {path} without progress; {holder} holds it{at}; "
            f"end that process, or raise NANOCACHE_LOCK_TIMEOUT"
        )


class NoSpace(NanocacheError, OSError):
    """There is no room. Attributes: path, needed and available (bytes; None = unknown), errno (ENOSPC), kept.

    `kept`: under NANOCACHE_MAX_SIZE the bytes that could not go, by why: pinned, held, recent (used within 2 hours).
    """

    FACTS = ("path", "needed", "available", "reason", "remedy", "kept")

    def __init__(
        self,
        *,
        path: str,
        needed: int | None = None,
        available: int | None = None,
        reason: str = "no space left",
        remedy: str = "free some or set NANOCACHE_DIR elsewhere",
        kept: dict[str, int] | None = None,
    ) -> None:
        self.path, self.needed, self.available = path, needed, available
        self.reason, self.remedy, self.kept = reason, remedy, kept
        want = f", needed {needed:,} bytes" if needed is not None else ""
        have = f", {available:,} available" if available is not None else ""
        super().__init__(f"{reason} in {path}{want}{have}{self._stays()}; nothing was kept; {remedy}")
        self.errno = errno.ENOSPC

    def _stays(self) -> str:
        if self.kept is None:
            return ""
        return "; what stays: " + ", ".join(f"{size:,} bytes {why}" for why, size in self.kept.items())


class UnsafeArchive(NanocacheError, ValueError):
    """An archive was refused, and nothing of it published. Attributes: archive, reason, member."""

    FACTS: ClassVar[tuple[str, ...]] = ("archive", "reason", "member")

    def __init__(self, *, archive: str, reason: str, member: str | None = None) -> None:
        self.archive, self.reason, self.member = archive, reason, member
        where = f", member {member!r}" if member is not None else ""
        super().__init__(f"refused to unpack {archive}{where}: {reason}; nothing was published")


class DamagedBundle(UnsafeArchive, ChecksumMismatch):
    """A file in a bundle has other bytes than the bundle says. Attributes: archive, member, expected, got, size."""

    FACTS = ("archive", "member", "expected", "got", "size")

    def __init__(self, *, archive: str, member: str, expected: str, got: str, size: int) -> None:
        Exception.__init__(
            self,
            f"{member} in {archive} has sha256 {_short(got)} ({size:,} bytes): the bundle was damaged on its way; "
            f"what came before it is kept, and importing an intact copy goes on from there",
        )
        self.archive, self.member, self.reason = archive, member, "other bytes than it says"
        self.url, self.expected, self.got, self.size, self.note = archive, expected, got, size, ""


class UnsafeCache(NanocacheError, PermissionError):
    """A path of the cache is not what it must be. Attributes: path, reason."""

    FACTS = ("path", "reason")

    def __init__(self, *, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"refused to use {path}: {reason}; remove it, or set NANOCACHE_DIR elsewhere")
        self.errno = errno.EPERM


class PostprocessFailed(NanocacheError, RuntimeError):
    """The hook raised, or built nothing; it runs again next time. Attributes: hook, artifact, reason."""

    FACTS = ("hook", "artifact", "reason")

    def __init__(self, *, hook: str, artifact: str, reason: str) -> None:
        self.hook, self.artifact, self.reason = hook, artifact, reason
        super().__init__(f"postprocess {hook} failed on {artifact}: {reason}; nothing was published, it runs again")


_LEAVES: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        ChecksumMismatch,
        UpstreamChanged,
        DownloadFailed,
        NotCached,
        NotLocked,
        NotSigned,
        LockTimeout,
        NoSpace,
        UnsafeArchive,
        DamagedBundle,
        UnsafeCache,
        PostprocessFailed,
    )
}
