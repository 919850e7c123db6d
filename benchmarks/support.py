"""The support matrix: what `nanocache doctor` says on a mount of each kind that this machine can make.

    python benchmarks/support.py [--write SUPPORT.md]      as root, with the tools that .ci/run installs

Nothing in the table is typed by hand but the kinds that were not mounted: of these the doctor goes by the name alone.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started as a script, this file finds its own folder only

import nanocache  # noqa: E402
from nanocache.diagnosis import known  # noqa: E402
from nanocache.diagnosis.findings import FINE, Finding, worst  # noqa: E402
from nanocache.diagnosis.mounts import Mount  # noqa: E402
from nanocache.diagnosis.site import Site  # noqa: E402
from nanocache.store.layout import BaseDirectory  # noqa: E402
from tests.servers.mounts import KINDS, Unavailable, mounted  # noqa: E402

HEAD = """\
# What works on which disk

What `nanocache doctor` says on each kind of mount; run it on yours. Complete files are promised on all of them: what is
lost is bandwidth, room or a convenience. Made by `benchmarks/support.py` on {date}, Linux {kernel}, Python {python}.

| mount | verdict | what is not fine |
|---|---|---|
"""
BY_NAME = """
No probe on one host tells how far a lock reaches, so of these the doctor goes by the mount's name and options:

| mount | verdict | what is lost |
|---|---|---|
"""
# file system, options that make the difference
NAMED = (
    *(("nfs4", "hard"), ("nfs4", "soft"), ("nfs4", "local_lock=all"), ("nfs", "nolock"), ("lustre", "flock")),
    *(("lustre", "localflock"), ("cifs", ""), ("cifs", "nobrl"), ("gpfs", ""), ("ceph", ""), ("virtiofs", "")),
    *(("fuse.sshfs", ""), ("fuse.gcsfuse", "")),
)


def row(name: str, found: list[Finding]) -> str:
    trouble = "<br>".join(map(words, filter(lambda one: one.level != FINE, found)))
    return f"| {name} | {worst(found)} | {trouble or '-'} |"


def words(finding: Finding) -> str:
    if finding.probe == known.PROBE:  # what was seen is where it is mounted
        return finding.degrades
    return f"{finding.probe}: {finding.seen}: {finding.degrades}"


def mounts(folder: Path) -> Iterator[str]:
    for kind in KINDS:
        try:
            with mounted(kind, folder) as place:
                yield row(kind, nanocache.doctor(place))
        except Unavailable as e:
            print(f"{kind}: not mounted ({e})", file=sys.stderr)


def named(folder: Path) -> Iterator[str]:
    for kind, options in NAMED:
        mount = Mount("/data", kind, "", tuple(options.split(",")))
        yield row(f"{kind} {options}".strip(), list(known.probe(Site(BaseDirectory(str(folder)), mount))))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="write it there, and not on stdout")
    arguments = parser.parse_args()
    date = time.strftime("%d %B %Y").lstrip("0")
    head = HEAD.format(date=date, kernel=platform.release().split("-")[0], python=platform.python_version())
    with tempfile.TemporaryDirectory() as folder:
        lines = [*mounts(Path(folder)), BY_NAME.rstrip(), *named(Path(folder))]
    text = head + "\n".join(lines) + "\n"
    if arguments.write:
        arguments.write.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
