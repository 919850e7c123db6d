"""What the name of a file system and its mount options tell, and no probe on one host can find out.

How far a lock reaches, what a host keeps in its memory, how long the files last. Not what can be tried: that is.
Sources: nfs(5), mount.lustre(8), mount.cifs(8), the kernel's Documentation/filesystems, and each project's own pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from .findings import FINE, LOSSES, Finding, Level
from .mounts import Mount
from .site import Site

__all__ = ["PROBE", "lock_remedy", "probe"]

PROBE = "file system"


class _Known(NamedTuple):
    """What holds for some mounts, and is said of the first that fits."""

    kinds: tuple[str, ...]  # file systems, with what may stand behind a `*`
    if_set: Callable[[Mount], bool]
    level: Level
    degrades: str = ""
    remedy: str = ""

    def fits(self, mount: Mount) -> bool:
        return any(_is_kind(mount.kind, kind) for kind in self.kinds) and self.if_set(mount)


def _is_kind(kind: str, pattern: str) -> bool:
    return kind.startswith(pattern[:-1]) if pattern.endswith("*") else kind == pattern


def _always(_: Mount) -> bool:
    return True


def _locks_of_nfs_are_local(mount: Mount) -> bool:
    return mount.has("nolock") or mount.value("local_lock") in ("all", "flock")


LOCAL_LOCKS = "locks hold on one host only: each host that wants the same at one moment downloads it once"
NO_LOCKS_KNOWN = f"where another host uses it too, {LOCAL_LOCKS}"

_TABLE = (
    _Known(
        ("lustre",),
        lambda mount: mount.has("localflock"),
        LOSSES,
        LOCAL_LOCKS,
        "mount it with -o flock, or let one rank download: nanodist.fetch(scope='job')",
    ),
    _Known(
        ("nfs", "nfs4"),
        _locks_of_nfs_are_local,
        LOSSES,
        LOCAL_LOCKS,
        "mount it without nolock and with local_lock=none, or let one rank download: nanodist.fetch(scope='job')",
    ),
    _Known(
        ("nfs", "nfs4"),
        lambda mount: mount.has("soft"),
        LOSSES,
        "a server that is slow for long is an error of the disk in the middle of a fetch",
        "mount it with -o hard",
    ),
    _Known(
        ("cifs", "smb3"),
        lambda mount: mount.has("nobrl"),
        LOSSES,
        LOCAL_LOCKS,
        "mount it without nobrl",
    ),
    _Known(
        ("overlay",),
        _always,
        LOSSES,
        "what is fetched goes with the container; what lies in the image below is served, and cannot be evicted",
        "set NANOCACHE_DIR to a volume that outlives the container",
    ),
    _Known(
        ("fuse.gcsfuse", "fuse.s3fs", "fuse.goofys", "fuse.rclone", "fuse.mount-s3", "fuse.blobfuse2", "fuse.geesefs"),
        _always,
        LOSSES,
        f"a remote store behind FUSE: a rename may be a copy of all the bytes, and {LOCAL_LOCKS}",
        "set NANOCACHE_DIR to a local disk, and fetch s3://, gs:// or az:// URLs of the bucket",
    ),
    _Known(
        ("fuse.sshfs",),
        _always,
        LOSSES,
        LOCAL_LOCKS,
        "set NANOCACHE_DIR to a local disk, or to NFS where several hosts are to share it",
    ),
    _Known(
        ("9p", "virtiofs"),
        _always,
        LOSSES,
        f"a folder of the host of this virtual machine: {NO_LOCKS_KNOWN}",
        "give each machine a base directory of its own, or a network disk",
    ),
)

# What is worth knowing and costs nothing that was promised.
_NOTES = (
    (("tmpfs", "ramfs"), "it is memory: what is cached is gone after a reboot, and counts as used memory"),
    (("nfs", "nfs4"), "what another host writes is seen here up to a minute later; before a download we ask again"),
    (("lustre", "gpfs", "ceph", "beegfs", "wekafs", "fuse.glusterfs", "gfs2", "ocfs2"), "a disk of many hosts"),
    (("cifs", "smb3"), "what another host writes is seen here a second later"),
    (("fuse*",), "what it does depends on the program behind it"),
)


def probe(site: Site) -> Iterator[Finding]:
    """What the name and the options of the mount tell."""
    mount = site.mount
    if mount is None:
        yield Finding(PROBE, FINE, "not known on this system")
        return
    known = next((known for known in _TABLE if known.fits(mount)), None)
    if known is not None:
        yield Finding(PROBE, known.level, str(mount), known.degrades, known.remedy)
        return
    notes = [note for kinds, note in _NOTES if any(_is_kind(mount.kind, kind) for kind in kinds)]
    yield Finding(PROBE, FINE, "; ".join([str(mount), *notes[:1]]))


_LOCK_REMEDIES = {
    "lustre": "mount it with -o flock, ",
    "nfs": "mount it without nolock, with a lock service on the server, ",
    "nfs4": "let the server serve locks, ",
    "cifs": "mount it without nobrl, ",
}


def lock_remedy(mount: Mount | None) -> str:
    """What to do where locks do nothing."""
    first = _LOCK_REMEDIES.get(mount.kind, "") if mount is not None else ""
    return f"{first}set NANOCACHE_DIR to a disk with locks, or let one rank download: nanodist.fetch"
