"""What names do here: one takes another's place in a step, one file has two, which ones there may be.

Everything is tried, in the private folder of the probes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..callers import let_pass
from ..disk.copying import share_blocks
from .findings import FINE, LOCAL_DISK, LOSSES, UNUSABLE, Finding
from .site import SOME_BYTES, Site

__all__ = ["probe_kinds", "probe_links", "probe_reflinks", "probe_renames"]

RENAMES = "renames"
LINKS = "hard links"
REFLINKS = "shared blocks"
NAMES = "names"
USUAL = 200  # bytes of a name that a caller may choose
ODD = 'a:b*c?"d'  # what FAT and SMB refuse; a file in a repository may be called so


def probe_renames(site: Site) -> Iterator[Finding]:
    """A file over another one that is open, and a folder."""
    old, new = site.new_file("old", b"old"), site.new_file("new", b"new")
    os.mkdir(folder := site.path("folder"))
    with open(old, "rb") as reader:
        os.rename(new, old)
        os.rename(folder, site.path("moved"))
        with open(old, "rb") as standing:
            right = standing.read() == b"new" and not os.path.lexists(new)
        seen_by_reader = reader.read()
    if not right:
        trouble = "records and healed files do not take their place"
        yield Finding(RENAMES, UNUSABLE, "a rename over a file leaves the old one", trouble, LOCAL_DISK)
    elif seen_by_reader != b"old":
        trouble = "a process that reads a file while it is healed may meet both contents"
        yield Finding(RENAMES, LOSSES, "an open file changes when another takes its name", trouble, LOCAL_DISK)
    else:
        yield Finding(RENAMES, FINE, "a file takes another's place in one step; who has it open keeps it")


def probe_links(site: Site) -> Iterator[Finding]:
    file = site.new_file("file", b"x")
    try:
        os.link(file, name := site.path("second"), follow_symlinks=False)
    except OSError as e:
        let_pass(e)
        lost = "the files of a snapshot, `into` and a second name of an artifact are copies, and take room again"
        yield Finding(LINKS, LOSSES, f"they cannot be made ({e.strerror})", lost, LOCAL_DISK)
        return
    same = os.path.samestat(os.lstat(file), os.lstat(name))
    yield Finding(LINKS, FINE, "a file may have several names" if same else "the names of one file look like two files")


def probe_reflinks(site: Site) -> Iterator[Finding]:
    with open(site.new_file("whole", SOME_BYTES), "rb") as source, open(site.new_file("clone"), "r+b") as target:
        shared = share_blocks(source.fileno(), target.fileno())
    seen = "`into` gives a file of your own that takes no room" if shared else "none; `into` gives read-only hard links"
    yield Finding(REFLINKS, FINE, seen)


def probe_kinds(site: Site) -> Iterator[Finding]:
    """How long a name may be, whether case tells two apart, and which characters are refused."""
    faults = [fault for fault in (_too_short(site), _one_case(site), _refused(site)) if fault]
    if not faults:
        yield Finding(NAMES, FINE, f"any, of {USUAL} bytes and more; upper and lower case are told apart")
        return
    lost = "a snapshot or an archive that needs other names is an error"
    yield Finding(NAMES, LOSSES, "; ".join(faults), lost, f"{LOCAL_DISK}, or choose names by filename=")


def _too_short(site: Site) -> str:
    return "" if _can_be_made(site, "n" * USUAL) else f"of fewer than {USUAL} bytes"


def _one_case(site: Site) -> str:
    site.new_file("case")
    return "upper and lower case are one" if os.path.lexists(site.path("CASE")) else ""


def _refused(site: Site) -> str:
    return "" if _can_be_made(site, ODD) else 'none with : * ? or "'


def _can_be_made(site: Site, name: str) -> bool:
    try:
        path = site.new_file(name)
    except OSError as e:
        let_pass(e)
        return False
    return name in os.listdir(os.path.dirname(path))
