"""What others plant where we write: links, fifos, sockets, devices and folders, in every place and inside of a partial.

`tests/store/test_shared.py` has links and fifos at each path, and the several users; here is whatever else can stand
there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import UnsafeCache
from nanocache.artifact import urls
from nanocache.store.blobs import Store
from nanocache.store.layout import FOLDERS
from tests.conftest import Processes
from tests.faults.checks import check_visible, sweep_all
from tests.servers.origin import MIB, Origin, content, digest

BODY = b"test" * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()
root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can do that")

# --- what can stand there ---------------------------------------------------------------------------------------------


def link(path: Path, treasure: Path) -> None:
    path.symlink_to(treasure)


def dangling(path: Path, treasure: Path) -> None:
    path.symlink_to(treasure.with_name("nowhere"))


def fifo(path: Path, treasure: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path, treasure: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:  # its own path may be too long for one
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"/proc/self/fd/{here}/{path.name}" if os.path.exists("/proc/self/fd") else str(path))
    finally:
        os.close(here)


def device(path: Path, treasure: Path) -> None:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero, which is read without end


def folder(path: Path, treasure: Path) -> None:
    path.mkdir()
    (path / "kept").write_bytes(b"kept")


Plant = Callable[[Path, Path], None]
PLANTS = [link, dangling, fifo, unix_socket, pytest.param(device, marks=root), folder]


@pytest.fixture
def treasure(tmp_path: Path) -> Path:
    path = tmp_path / "treasure"
    path.write_bytes(b"untouched")
    path.chmod(0o600)
    return path


@pytest.fixture
def url(origin: Origin) -> str:
    return origin.add("/weights.bin", BODY)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


# --- at the paths that anybody can foresee ----------------------------------------------------------------------------

FILES: dict[str, Callable[[Store, str], str]] = {
    "lock": lambda store, url: store.lock_place(DIGEST).path,
    "record": lambda store, url: store.lock_place(DIGEST).record,
    "blob": lambda store, url: store.blob(DIGEST, "weights.bin"),
    "ref": lambda store, url: store.ref(urls.url_key(url)),
}


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("where", FILES)
def test_whatever_stands_where_a_file_of_ours_should_be_is_refused_by_name_and_stays(
    where: str, plant: Plant, base: Path, treasure: Path, url: str
) -> None:
    planted = Path(FILES[where](Store(str(base)), url))
    planted.parent.mkdir(parents=True, exist_ok=True)
    plant(planted, treasure)
    before = planted.lstat()
    with pytest.raises(UnsafeCache, match="a regular file should be there, not ") as refused:
        nanocache.fetch(url, sha256=None if where == "ref" else DIGEST)
    assert refused.value.path == str(planted)
    after = planted.lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    assert treasure.read_bytes() == b"untouched"
    remove(planted)
    assert nanocache.fetch(url, sha256=DIGEST).read_bytes() == BODY


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("top", FOLDERS)
@pytest.mark.parametrize("name", ["CACHEDIR.TAG", ".gitignore", "swept"])
def test_what_stands_where_a_tag_should_be_is_left_alone(
    name: str, top: str, plant: Plant, base: Path, treasure: Path, url: str
) -> None:
    """Tags are for others: nothing of ours reads them, and a fetch does not fail for them."""
    (base / top).mkdir()
    plant(planted := base / top / name, treasure)
    assert nanocache.fetch(url, sha256=DIGEST).read_bytes() == BODY
    assert stat.S_IFMT(planted.lstat().st_mode) != stat.S_IFREG
    assert treasure.read_bytes() == b"untouched"
    assert not treasure.with_name("nowhere").exists()


# --- inside of what a dead process left -------------------------------------------------------------------------------

SIZE = 2 * MIB


@pytest.fixture
def orphan(base: Path, origin: Origin, spawn: Callable[..., Processes]) -> tuple[Path, str]:
    """A partial with half of it, whose owner is gone; and its URL, which gives the other half."""
    url = origin.url(f"/bytes/{SIZE}/1/w.bin")
    store = Store(str(base))
    store.prepare()
    code = f"""
with partials.create(BaseDirectory(base), where) as partial:
    partial.write(content({SIZE}, 1)[:{SIZE // 2}], 0)
    tag = '"{SIZE}-1"'
    state = {{"url": urls.url_key(url), "validator": tag, "etag": tag, "last-modified": None, "total": {SIZE}}}
    partial.save(state | {{"done": [[0, {SIZE // 2}]]}})
    os._exit(9)
"""
    setup = (
        "import os; from nanocache.artifact import urls; from nanocache.store import partials; "
        "from nanocache.store.layout import BaseDirectory; from tests.servers.origin import content"
    )
    spawn(code, setup=setup, where=digest(SIZE, 1), base=str(base), url=url).finish()
    (path,) = base.glob("partials-v1/*/*/data")
    return path.parent, url


def test_an_orphan_that_nobody_touched_is_resumed(orphan: tuple[Path, str], origin: Origin) -> None:
    _, url = orphan
    assert nanocache.fetch(url, sha256=digest(SIZE, 1)).read_bytes() == content(SIZE, 1)
    assert origin.requests()[0].range == f"bytes={SIZE // 2}-{SIZE - 1}"


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("name", ["data", "state.json", "lock", "the partial", "all partials of the key"])
def test_what_is_planted_in_an_orphan_is_never_written_to_nor_waited_for(
    name: str, plant: Plant, orphan: tuple[Path, str], base: Path, treasure: Path
) -> None:
    path, url = orphan
    planted = {"the partial": path, "all partials of the key": path.parent}.get(name, path / name)
    remove(planted)
    plant(planted, treasure)
    try:
        got = nanocache.fetch(url, sha256=digest(SIZE, 1))
    except UnsafeCache as e:
        assert Path(e.path) == planted  # noqa: PT017  # or it was left alone, which is as good
    else:
        assert got.read_bytes() == content(SIZE, 1)
    assert treasure.read_bytes() == b"untouched"
    assert stat.S_IMODE(treasure.stat().st_mode) == 0o600
    assert not treasure.with_name("nowhere").exists()
    remove(planted)
    assert nanocache.fetch(url, sha256=digest(SIZE, 1)).read_bytes() == content(SIZE, 1)
    check_visible(base)


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_in_the_trash_is_swept_and_not_followed(
    plant: Plant, base: Path, treasure: Path, url: str
) -> None:
    (base / "trash-v1").mkdir()
    (outside := base.parent / "outside").mkdir()
    (outside / "kept").write_bytes(b"kept")
    plant(base / "trash-v1" / "planted", treasure)
    (base / "trash-v1" / "elsewhere").symlink_to(outside)
    nanocache.fetch(url)
    sweep_all(base)
    assert not os.path.lexists(base / "trash-v1" / "planted")
    assert not os.path.lexists(base / "trash-v1" / "elsewhere")
    assert treasure.read_bytes() == b"untouched"
    assert (outside / "kept").read_bytes() == b"kept"


# --- files of strangers -----------------------------------------------------------------------------------------------

STRANGER = 60_003


def forged(base: Path, url: str, **fields: Any) -> Path:
    """The ref of `url`, as a stranger would have it."""
    import json

    path = Path(Store(str(base)).ref(urls.url_key(url)))
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    os.chown(path, STRANGER, STRANGER)
    return path


@root
def test_a_strangers_ref_is_not_believed(base: Path, origin: Origin, url: str) -> None:
    base.chmod(0o755)
    evil = nanocache.fetch(origin.add("/evil.bin", b"evil"))
    nanocache.fetch(url)
    forged(base, url, digest=evil.parent.name, size=4)
    assert nanocache.fetch(url).read_bytes() == BODY
    assert nanocache.fetch(url).read_bytes() == BODY


@root
def test_a_strangers_partial_is_not_built_on(orphan: tuple[Path, str], base: Path, origin: Origin) -> None:
    path, url = orphan
    path.parent.rename(path.parent.with_name(f"u-{urls.url_key(url)}"))
    path = path.parent.with_name(f"u-{urls.url_key(url)}") / path.name
    with (path / "data").open("r+b") as file:
        file.write(b"evil")
    for one in (path, *path.iterdir()):
        os.chown(one, STRANGER, STRANGER)
    assert nanocache.fetch(url).read_bytes() == content(SIZE, 1)
