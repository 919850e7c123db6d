"""What must hold after any fault, and how often a test tries: few times in CI, many with `NANOCACHE_SOAK=1`."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from nanocache.http import exchange
from nanocache.store import sweep
from nanocache.store.layout import FOLDERS

__all__ = ["SOAK", "check_visible", "nothing_leaks", "orphans", "rounds", "sweep_all"]

SOAK = bool(os.environ.get("NANOCACHE_SOAK"))  # read at import: the tests run without our variables
TAGS = {"CACHEDIR.TAG", ".gitignore", "swept"}


def rounds(short: int, soak: int) -> int:
    return soak if SOAK else short


def check_visible(base: Path, *, foreign: str | None = None) -> list[Path]:
    """The blobs under `base`, all of which are what their names say. `foreign`: how names beside our folders begin."""
    if not base.exists():
        return []
    others = set(os.listdir(base)) - set(FOLDERS)
    assert all(foreign and name.startswith(foreign) for name in others), others
    found = []
    for path in (base / "blobs-v1").glob("sha256/*/*/*"):
        digest = path.parent.name
        assert path.parent.parent.name == digest[:2]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, f"wrong bytes are visible at {path}"
        found.append(path)
    for path in (base / "refs-v1").glob("*/*.json"):
        with suppress(ValueError):  # a torn one, which counts as none
            assert len(json.loads(path.read_bytes())["digest"]) == 64
    return found


def orphans(base: Path) -> list[Path]:
    """What lies in partials and trash, tags apart."""
    return [*(base / "partials-v1").glob("*/*"), *(base / "partials-v1").glob("new-*")] + [
        path for path in (base / "trash-v1").glob("*") if path.name not in TAGS
    ]


def sweep_all(base: Path) -> None:
    """A sweep, eight days from now, when none of today's processes runs any more."""
    for path in (base / "partials-v1").glob("*/*/state.json"):
        path.write_text(path.read_text().replace(f'"pid":{os.getpid()},', '"pid":999999999,'))
    past = time.time() - 8 * sweep.DAY
    for path in [*(base / "partials-v1").rglob("*"), *(base / "trash-v1").rglob("*")]:
        os.utime(path, (past, past), follow_symlinks=False)
    from nanocache.store.blobs import Store

    sweep.daily(Store(str(base)))


def descriptors() -> set[str]:
    """The open descriptors, by what they are open on."""
    found = set()
    for name in os.listdir("/dev/fd"):
        try:
            found.add(f"{name} -> {os.readlink(f'/dev/fd/{name}')}")
        except OSError:
            pass  # the one that listed, or another platform
    return {one for one in found if "/dev/fd" not in one and "/proc/" not in one}


@lru_cache(maxsize=1)
def _freeze(test: str) -> None:
    """Look no more at what was there before `test`: a collection takes a tenth of the time, and there are many.

    Once for each test, because a session grows: late in it each collection took ten times as long as at its beginning.
    What was set aside before stays so, or each test would look at all of it again.
    """
    gc.collect()
    gc.freeze()


@contextmanager
def nothing_leaks(*, on: str = "", patience: float = 2.0) -> Iterator[None]:
    """No thread of ours is left by the block, and no descriptor on a file whose name holds `on`."""
    exchange._close_idle()
    _freeze(os.environ.get("PYTEST_CURRENT_TEST", ""))
    gc.collect()
    before, threads = descriptors(), set(threading.enumerate())
    yield
    exchange._close_idle()
    deadline = time.monotonic() + patience
    while True:
        left = {one for one in descriptors() - before if on in one}
        running = {t for t in set(threading.enumerate()) - threads if t.name.startswith("nanocache")}
        if not left and not running:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"left open: {sorted(left)}; left running: {running}")
        time.sleep(0.005)
