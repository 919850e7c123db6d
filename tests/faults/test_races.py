"""Sixteen processes on one URL, with a lock that works, lets all in, or fails; a fetch beside somebody who deletes."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.artifact import urls
from nanocache.store import partials, seal
from nanocache.store.blobs import Store
from nanocache.store.layout import FOLDERS
from tests.conftest import Processes
from tests.coordination.test_processes import LOCKS_THAT
from tests.faults.checks import SOAK, check_visible, orphans, rounds, sweep_all
from tests.servers.origin import Origin, content, digest

Spawn = Callable[..., Processes]
PROCESSES = 16
SIZE = 200_000  # bytes

LOCKS = {
    "works": "",
    "lets everybody in": LOCKS_THAT["let everybody in"],
    "always fails": LOCKS_THAT["fail with ENOLCK"],
}

# All processes are in the same round at the same time: each says that it is there, and waits for the others.
ROUNDS = """
for number, (url, sha256) in enumerate(artifacts):
    (meeting / f"{number}-{INDEX}").touch()
    while len(list(meeting.glob(f"{number}-*"))) < processes:
        time.sleep(0.003)
    path = nanocache.fetch(url, sha256=sha256)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == (sha256 or expected[number])
    print(path)
"""


def orphan(store: Store, url: str, sha256: str | None, seed: int) -> None:
    """Half of it, left by a process that is gone."""
    key = sha256 or f"u-{urls.url_key(url)}"
    with partials.create(store, key) as partial:
        partial.write(content(SIZE, seed)[: SIZE // 2], 0)
        tag = f'"{SIZE}-{seed}"'
        state = {"url": urls.url_key(url), "validator": tag, "etag": tag, "last-modified": None, "total": SIZE}
        partial.save(state | {"done": [[0, SIZE // 2]]})


@pytest.mark.timeout(1800 if SOAK else 300)
@pytest.mark.parametrize("lock", LOCKS)
def test_sixteen_processes_agree_round_after_round(
    lock: str, base: Path, origin: Origin, spawn: Spawn, tmp_path: Path
) -> None:
    """Every other round begins with an orphan that all of them may claim, every third goes without a digest."""
    store = Store(str(base))
    store.prepare()
    artifacts: list[tuple[str, str | None]] = []
    for seed in range(rounds(6, 200)):
        url, sha256 = origin.url(f"/bytes/{SIZE}/{seed}/w.bin?delay=0.02"), digest(SIZE, seed)
        artifacts.append((url, sha256 if seed % 3 else None))
        if seed % 2:
            orphan(store, *artifacts[-1], seed)
    (meeting := tmp_path / "meeting").mkdir()
    setup = (
        "import hashlib, os, pathlib, time, nanocache\n"
        "from nanocache.coordination import waiting, lock as locks\n"
        "from nanocache.download import download\nfrom nanocache.http import exchange\n"
        "from nanocache.store import orphans, partials\n"
        # Where it works, a starved holder may well write its record half a second after it got the lock.
        f"waiting.DEAD = {5.0 if lock == 'works' else 0.5}\n{LOCKS[lock]}\nmeeting = pathlib.Path({str(meeting)!r})"
    )
    expected = [digest(SIZE, seed) for seed in range(len(artifacts))]
    group = spawn(
        ROUNDS, PROCESSES, setup=setup, artifacts=artifacts, expected=expected, processes=PROCESSES, start=False
    )
    group.start(120)
    said = group.outputs(1500 if SOAK else 250)
    assert len(set(said)) == 1
    blobs = check_visible(base)
    assert len(blobs) == len(artifacts)
    assert all(seal.holds(path.stat(), path.parent.name) for path in blobs), "somebody wrote to a published blob"
    assert not orphans(base)
    for url, _ in artifacts:
        asked = origin.gets(url.split("?")[0].removeprefix(origin.url("")))
        assert 1 <= asked <= (1 if lock == "works" else PROCESSES)


# --- beside somebody who deletes --------------------------------------------------------------------------------------


def archive() -> bytes:
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in ("a/b.bin", "c.bin"):
            (info := tarfile.TarInfo(name)).size = 1000
            tar.addfile(info, BytesIO(content(1000, name)))
    return made.getvalue()


def everything(base: Path) -> list[Path]:
    return [base, *(base / name for name in FOLDERS), *base.glob("*/*"), *base.glob("*/*/*"), *base.glob("*/*/*/*")]


def vandal(base: Path, kind: str, over: threading.Event, chance: random.Random) -> None:
    """Deletes by hand, as fast as a person with a script."""
    targets: dict[str, Callable[[], list[Path]]] = {
        "blobs": lambda: list(base.glob("blobs-v1/sha256/*/*/*")),
        "partials": lambda: [
            *base.glob("partials-v1/new-*"),
            *base.glob("partials-v1/*/*"),
            *base.glob("partials-v1/*/*/data"),
        ],
        "folders": lambda: [path for path in everything(base)[1:] if path.is_dir()],
        "the base directory": lambda: [base],
        "anything": lambda: everything(base),
    }
    while not over.wait(chance.uniform(0.002, 0.03)):
        try:
            found = targets[kind]()
        except OSError:
            continue
        if found:
            path = chance.choice(found)
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True) if path.is_file() else None


@contextmanager
def deleting(base: Path, kind: str) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=vandal, args=(base, kind, over, random.Random(kind)))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# What was returned may be deleted before it is read, and a hook may lose what it works on: that is the vandal's doing.
# What is read must be right.
CUSTOMER = """
def unpacked():
    try:
        return nanocache.fetch(tar, postprocess=Unpack()) / "a/b.bin"
    except nanocache.PostprocessFailed as e:
        assert "FileNotFoundError" in e.reason or "it built no file" in e.reason, e
        return pathlib.Path("/nowhere")

deadline, done, right = time.monotonic() + seconds, 0, 0
while time.monotonic() < deadline:
    url, sha256 = artifacts[(done + INDEX) % len(artifacts)]
    got = [(nanocache.fetch(url, sha256=sha256), expected[(done + INDEX) % len(artifacts)])]
    if done % 5 == 0:
        got.append((unpacked(), member))
    if done % 5 == 1:
        got.append((nanocache.download_file_with_lock(tar, f"data/{INDEX}.tar"), whole))
    for path, digest in got:
        try:
            data = pathlib.Path(path).read_bytes()
        except FileNotFoundError:
            continue
        assert hashlib.sha256(data).hexdigest() == digest, path
        right += 1
    done += 1
print(done, right)
"""


@pytest.mark.timeout(1800 if SOAK else 300)
@pytest.mark.parametrize("kind", ["blobs", "partials", "folders", "the base directory", "anything"])
def test_a_fetch_beside_somebody_who_deletes_succeeds(kind: str, base: Path, origin: Origin, spawn: Spawn) -> None:
    artifacts = [
        (origin.url(f"/bytes/{SIZE}/{seed}/w.bin"), digest(SIZE, seed) if seed % 2 else None) for seed in range(4)
    ]
    setup = """
import hashlib, pathlib, time, nanocache
from nanocache.http import exchange as http
import nanocache.download.download
from nanocache.archives.unpack import Unpack
import httpx, httpcore
"""
    group = spawn(
        CUSTOMER,
        3,
        setup=setup,
        start=False,
        seconds=rounds(2, 60),
        artifacts=artifacts,
        expected=[digest(SIZE, seed) for seed in range(4)],
        tar=origin.add("/d.tar", archive()),
        whole=hashlib.sha256(archive()).hexdigest(),
        member=hashlib.sha256(content(1000, "a/b.bin")).hexdigest(),
    )
    group.start()
    with deleting(base, kind):
        said = group.outputs(1500 if SOAK else 200)
    assert sum(int(one.split()[1]) for one in said), said
    check_visible(base, foreign="data")


def test_a_directory_of_another_layout_is_left_alone(
    base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions of the library may share a base directory, and people keep their own things there."""
    for name in ("blobs-v2", "refs-v2", "partials-v2", "locks-v2", "trash-v2", "blobs", "checkpoints"):
        for inner in ("sha256/9f/x.bin", "9f/x.json", "key/random/data"):
            path = base / name / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            os.utime(path, (1_600_000_000, 1_600_000_000))
    (base / "checkpoint.pt").write_text("mine")

    def others() -> dict[str, Any]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.is_file() and path.read_bytes())
            for path in base.rglob("*")
            if path.relative_to(base).parts[0] not in FOLDERS
        }

    before = others()
    url, sha256 = origin.url(f"/bytes/{SIZE}/1/w.bin"), digest(SIZE, 1)
    for turn in range(3):
        path = nanocache.fetch(url, sha256=sha256, filename=f"{turn}.bin")
        path.chmod(0o644)
        path.write_bytes(b"damaged")
        assert nanocache.fetch(url, sha256=sha256, filename=f"{turn}.bin").stat().st_size == SIZE
        nanocache.fetch(url, max_age=0)
        sweep_all(base)
    assert others() == before
    assert sorted(set(os.listdir(base)) - set(FOLDERS)) == sorted({Path(p).relative_to(base).parts[0] for p in before})
