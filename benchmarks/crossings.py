"""How many modules does one miss cross, and how often does control pass from one of them to another?

    python benchmarks/crossings.py [--verbose]

A pinned artifact of 200 kB from a loopback origin, fetched once. The calls of nanocache's functions are listed in their
order; two in a row that stand in different modules are a change. `--returns` counts the way back, too. Fewer is easier
to follow: it measures the code, not its speed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script, it finds its own folder only

import nanocache
from tests.servers.origin import Origin, digest

PACKAGE = str(Path(nanocache.__file__).parent)
SIZE = 200_000  # bytes


def crossings(url: str, sha256: str, base_dir: str, *, returns: bool) -> list[str]:
    """The modules of one fetch, one entry for each change."""
    visited: list[str] = []

    def look(frame: FrameType, event: str, _: Any) -> None:
        shown = frame if event == "call" else frame.f_back if returns and event == "return" else None
        if shown is None or not shown.f_code.co_filename.startswith(PACKAGE):
            return
        module = shown.f_code.co_filename.removeprefix(PACKAGE + "/").removesuffix(".py")
        if not visited or visited[-1] != module:
            visited.append(module)

    sys.setprofile(look)
    try:
        nanocache.fetch(url, sha256=sha256, base_dir=base_dir, progress=False)
    finally:
        sys.setprofile(None)
    return visited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbose", action="store_true", help="how often each module is entered, and from where")
    parser.add_argument("--returns", action="store_true", help="count returns as well as calls")
    options = parser.parse_args()
    with Origin() as origin, tempfile.TemporaryDirectory() as folder:
        for n in range(2):  # the first one also imports
            url, cache = origin.url(f"/bytes/{SIZE}/{n}/a.bin"), f"{folder}/cache"
            visited = crossings(url, digest(SIZE, n), cache, returns=options.returns)
    print(f"{len(set(visited))} modules, {len(visited) - 1} changes of module")
    if options.verbose:
        for (a, b), times in Counter(pairwise(visited)).most_common():
            print(f"{times:5}  {a} -> {b}")


if __name__ == "__main__":
    main()
