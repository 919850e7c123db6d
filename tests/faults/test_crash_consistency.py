"""Power cuts: whatever of the unsynced is lost, what is visible is complete, and the next fetch is right.

Runs are recorded and replayed in the model of `crashes`; each disk that may be left is judged in memory, and many are
made real and fetched from. The last tests break the protocol on purpose: this must be noticed, or nothing was proved.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import compat
from nanocache.archives.unpack import Unpack
from nanocache.disk import durable
from nanocache.store.blobs import Store
from nanocache.store.layout import FOLDERS
from tests.faults.checks import SOAK, check_visible, orphans, rounds, sweep_all
from tests.faults.crashes import Disk, Recording, states
from tests.servers.origin import Origin, content

SMALL = content(3000, "small")
LARGE = content(1_300_000, "large")  # over the size from which on a state is kept
SMALL_SHA256, LARGE_SHA256 = (hashlib.sha256(body).hexdigest() for body in (SMALL, LARGE))
TREE = {"a/b.txt": b"one", "a/c.txt": b"two", "d.txt": b"three"}

Do = Callable[[Path], Any]


def archive() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in TREE.items():
            (info := tarfile.TarInfo(name)).size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


# --- runs -------------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """`call(base)` after `prepare(base)`; `right` says whether its result is, `expected` what may be visible."""

    call: Do
    right: Callable[[Any], bool]
    prepare: Do
    expected: dict[str, bytes]  # the last part of a path -> its content, for products and files beside our folders


def reversed_copy(src: Path, dst: Path) -> None:
    dst.write_bytes(src.read_bytes()[::-1])


def placed(path: str) -> None:
    Path(path).read_bytes()


def prepared(base: Path) -> None:
    Store(str(base)).prepare()


@contextmanager
def without_links() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", refuse)
        yield


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.fixture
def runs(origin: Origin) -> dict[str, Run]:
    small, large, tar = origin.add("/x.bin", SMALL), origin.add("/l.bin", LARGE), origin.add("/d.tar", archive())
    changing = origin.add("/changing.bin", b"old", etag='"1"')

    def fetch(url: str, **options: Any) -> Do:
        return lambda base: nanocache.fetch(url, base_dir=base, **options)

    def same(body: bytes) -> Callable[[Any], bool]:
        return lambda path: Path(path).read_bytes() == body

    def copied(base: Path) -> Path:
        with without_links():
            return pinned(base, filename="second.bin")

    def pinned(base: Path, **options: Any) -> Path:
        return nanocache.fetch(small, sha256=SMALL_SHA256, base_dir=base, **options)

    def after(*steps: Do) -> Do:
        return lambda base: [step(base) for step in steps]

    def place(base: Path) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NANOCACHE_DIR", str(base))
            return compat.download_file_with_lock(small, "data/words.txt", placed)

    def place_copy(base: Path) -> str:
        with without_links():
            return place(base)

    def changed(base: Path) -> Path:
        origin.add("/changing.bin", b"new!", etag='"2"')
        return nanocache.fetch(changing, max_age=0, base_dir=base)

    def unchanged(base: Path) -> Path:
        origin.add("/changing.bin", b"old", etag='"1"')
        return nanocache.fetch(changing, base_dir=base)

    def is_tree(folder: Path) -> bool:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == TREE

    return {
        "the very first fetch": Run(pinned, same(SMALL), lambda _: None, {}),
        "fetch": Run(pinned, same(SMALL), prepared, {}),
        "fetch without a digest": Run(fetch(small), same(SMALL), prepared, {}),
        "fetch with a state": Run(fetch(large, sha256=LARGE_SHA256), same(LARGE), prepared, {}),
        "changed upstream": Run(changed, same(b"new!"), after(prepared, unchanged), {}),
        "second name by copy": Run(copied, same(SMALL), after(prepared, pinned), {}),
        "product, a file": Run(
            fetch(small, postprocess=reversed_copy),
            same(SMALL[::-1]),
            after(prepared, fetch(small)),
            {"x.bin": SMALL[::-1]},
        ),
        "product, a folder": Run(fetch(tar, postprocess=Unpack()), is_tree, after(prepared, fetch(tar)), TREE),
        "the seed's call": Run(place, same(SMALL), after(prepared, fetch(small)), {"words.txt": SMALL}),
        "the seed's call by copy": Run(place_copy, same(SMALL), after(prepared, fetch(small)), {"words.txt": SMALL}),
    }


NAMES = (
    *("the very first fetch", "fetch", "fetch without a digest", "fetch with a state", "changed upstream"),
    *("second name by copy", "product, a file", "product, a folder", "the seed's call", "the seed's call by copy"),
)


def record(run: Run, base: Path) -> tuple[Recording, Any]:
    base.mkdir()
    run.prepare(base)
    with Recording(base) as recording:
        result = run.call(base)
    assert run.right(result)
    assert Disk(recording._now).files() == {
        str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()
    }, "the model and the disk agree"
    return recording, result


# --- what is judged ---------------------------------------------------------------------------------------------------


def wrong(run: Run, disk: Disk) -> str | None:
    """What is visible on a disk and must not be."""
    products: dict[str, dict[str, bytes]] = {}
    for path, data in disk.files().items():
        parts = path.split("/")
        if parts[0] == "blobs-v1" and len(parts) == 5 and hashlib.sha256(data).hexdigest() != parts[3]:
            return f"{path} has {len(data)} bytes that are not its own"
        if parts[0] == "products-v1" and len(parts) > 3:
            products.setdefault("/".join(parts[:4]), {})["/".join(parts[4:])] = data
        if parts[0] not in FOLDERS and data != run.expected[parts[-1]]:
            return f"{path} is wrong"
        if parts[0] == "refs-v1" and len(parts) == 3 and not well_formed(data):
            return f"{path} says {data!r}"
    for path, made in products.items():
        name = path.rsplit("/", 1)[1]
        if made != (run.expected if "" not in made else {"": run.expected[name]}):
            return f"the product {path} is not complete: {sorted(made)}"
    return None


def well_formed(data: bytes) -> bool:
    """Whether a ref is whole, or visibly none."""
    try:
        return len(json.loads(data)["digest"]) == 64
    except ValueError:
        return True


def check_recovery(run: Run, disk: Disk, base: Path) -> None:
    disk.write_to(base)
    assert run.right(run.call(base))
    assert run.right(run.call(base))
    check_visible(base, foreign="data")
    sweep_all(base)
    assert not orphans(base)
    shutil.rmtree(base)


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("name", NAMES)
def test_a_power_cut_leaves_nothing_wrong_and_the_next_fetch_is_right(
    name: str, runs: dict[str, Run], memory: Path
) -> None:
    run = runs[name]
    recording, _ = record(run, memory / "recorded")
    recovered = 0
    for number, disk in enumerate(states(recording, most=rounds(32, 256))):  # one at a time: together they take GiBs
        assert (found := wrong(run, disk)) is None, found
        if SOAK or number < 6 or number % 8 == 0:  # a short protocol has few states
            check_recovery(run, disk, memory / f"disk{number}")
            recovered += 1
    assert recovered >= rounds(6, 50)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_returned_survives_a_power_cut(name: str, runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs[name]
    recording, result = record(run, tmp_path / "recorded")
    returned = str(Path(result).relative_to(tmp_path / "recorded"))
    for disk in states(recording, at=[len(recording.ops)], most=rounds(256, 4096)):
        kept = {path: data for path, data in disk.files().items() if f"{path}/".startswith(f"{returned}/")}
        assert sorted(kept.values()) == sorted(run.expected.values() or [Path(result).read_bytes()])


# --- whether it would be noticed --------------------------------------------------------------------------------------


def noticed(run: Run, base: Path) -> bool:
    recording, _ = record(run, base)
    return any(wrong(run, disk) for disk in states(recording))


def test_a_publication_without_fsync_is_noticed(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "_sync", lambda *_: None)
    for name in ("fetch", "second name by copy"):
        assert noticed(runs[name], tmp_path / name)


def test_a_product_that_is_not_synced_is_noticed(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "sync_tree", lambda *_: None)
    for name in ("product, a file", "product, a folder", "the seed's call by copy"):
        assert noticed(runs[name], tmp_path / name)


def test_a_name_that_is_not_synced_is_noticed(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "sync_folder", lambda *_: None)
    recording, _ = record(runs["fetch"], tmp_path / "recorded")
    last = states(recording, at=[len(recording.ops)])
    assert any(not any(path.startswith("blobs-v1/sha256") for path in disk.files()) for disk in last)


def test_a_seal_that_survives_its_bytes_is_believed_which_is_why_they_are_synced_first(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recovery, too, notices: a wrong file with an intact seal is what no later call would look at."""
    monkeypatch.setattr(durable, "sync_tree", lambda *_: None)
    run = runs["the seed's call by copy"]
    recording, _ = record(run, tmp_path / "recorded")
    believed = 0
    for number, disk in enumerate(states(recording)):
        if wrong(run, disk):
            disk.write_to(base := tmp_path / f"disk{number}")
            believed += not run.right(run.call(base))
    assert believed
