"""What the tests of the cap share: how much is on the disk, as the cap counts it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["noted", "on_disk", "sampled"]


def files_in(base: Path) -> dict[int, int]:
    """inode -> bytes of what counts for the cap."""
    found: dict[int, int] = {}
    for top in ("blobs-v1", "products-v1", "trees-v1", "partials-v1"):
        for folder, _, names in os.walk(base / top):
            for name in set(names) - {"CACHEDIR.TAG", ".gitignore"}:
                try:
                    st = os.lstat(os.path.join(folder, name))
                except FileNotFoundError:
                    continue
                found[st.st_ino] = min(st.st_size, st.st_blocks * 512)
    return found


def on_disk(base: Path) -> int:
    """Bytes as the cap counts them. A walk takes a while: only what two of them see was there in between."""
    first, second = files_in(base), files_in(base)
    return sum(min(first[inode], second[inode]) for inode in first.keys() & second.keys())


@contextmanager
def sampled(base: Path) -> Iterator[list[int]]:
    """The most that was on the disk at once while the block ran, and how often that was looked at."""
    most, end = [0, 0], threading.Event()

    def look() -> None:
        while not end.wait(0.001):
            most[:] = max(most[0], on_disk(base)), most[1] + 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        end.set()
        thread.join()
        most[0] = max(most[0], on_disk(base))


def noted(base: Path) -> int:
    """Bytes that the books have, while no work is under way."""
    page = json.loads((base / "usage-v1.json").read_bytes())
    assert page["promises"] == {}
    return int(page["bytes"])
