"""One cache for several users: what `chmod 2775` promises, what a read-only one gives, and what is never trusted.

The users are real to the kernel and have no account: a process that root started imports what it needs and then
becomes one of them. So these tests need root, and leave nothing to clean up.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import UnsafeCache
from nanocache.artifact import filenames, urls
from nanocache.store.blobs import Store
from nanocache.store.layout import FOLDERS
from tests.servers.origin import MIB, Origin, digest

BODY = b"test" * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()
ANN, BOB, GROUP = 60_001, 60_002, 60_100  # user ids, and a group that both are in

several_users = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become several users"
)

# Everything is imported while the process is still root: the interpreter may lie where other users cannot read.
BECOMING = """
import importlib, logging, os, pkgutil, sys, tempfile, traceback
import nanocache
import shlex
for module in pkgutil.walk_packages(nanocache.__path__, "nanocache."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

def become(user, group, warm):
    with tempfile.TemporaryDirectory() as folder:
        nanocache.fetch(warm, base_dir=folder)
        nanocache.fetch(warm, base_dir=folder, progress=lambda progress: None, postprocess=nanocache.Decompress())
    os.setgroups([group])
    os.setgid(user)
    os.setuid(user)
    os.umask(0o022)

def upper(src, dst):
    dst.write_bytes(src.read_bytes().upper())
upper.key = "upper-v1"
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user can reach (pytest's own are private)."""
    folder = Path(tempfile.mkdtemp(prefix="nanocache-shared-"))
    try:
        folder.chmod(0o755)
        if any(not parent.stat().st_mode & stat.S_IXOTH for parent in folder.parents):
            pytest.skip(f"{folder.parent} is not for every user")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shared(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an administrator makes: `mkdir base; chgrp group base; chmod 2775 base`. NANOCACHE_DIR names it."""
    return _base(place / "base", monkeypatch, owner=0, mode=0o2775)


def _base(path: Path, monkeypatch: pytest.MonkeyPatch, *, owner: int, mode: int) -> Path:
    path.mkdir()
    os.chown(path, owner, GROUP)
    path.chmod(mode)
    monkeypatch.setenv("NANOCACHE_DIR", str(path))
    return path


@pytest.fixture
def user(spawn: Callable[..., Any], origin: Origin, tmp_path: Path) -> Callable[..., Any]:
    """`user(ANN, code, **variables)` starts a snippet as that user; the rest is `spawn`'s."""
    import gzip

    warm = origin.add("/warm.gz", gzip.compress(b"warm"))

    def start(who: int, code: str, **options: Any) -> Any:
        return spawn(f"become({who}, {GROUP}, {warm!r})\n{code}", setup=BECOMING, **options)

    return start


def said(group: Any) -> str:
    """What a snippet printed, on stderr too."""
    (ended,) = group.finish()
    assert ended.code == 0, ended.err
    return "\n".join(filter(None, [ended.out, ended.err]))


def ours(base: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, _, files in os.walk(base):
        yield from ((path, path.lstat()) for path in (Path(folder), *(Path(folder) / name for name in files)))


# --- a group's cache --------------------------------------------------------------------------------------------------

FETCH = "print(nanocache.fetch(url))"


@pytest.fixture
def url(origin: Origin) -> str:
    return origin.add("/weights.bin", BODY)


@several_users
def test_the_second_user_hits_and_publishes_beside_the_first(
    shared: Path, user: Callable[..., Any], origin: Origin, url: str
) -> None:
    other = origin.add("/other.bin", b"other")
    path = said(user(ANN, FETCH, url=url))
    hit = "print(nanocache.fetch(url), nanocache.fetch(url, sha256=digest), nanocache.lookup(url))"
    assert said(user(BOB, f"{hit}\nnanocache.fetch(other)", url=url, digest=DIGEST, other=other)) == " ".join(
        [path] * 3
    )
    assert said(user(ANN, "print(nanocache.fetch(other).stat().st_uid)", other=other)) == str(BOB)
    assert origin.gets("/weights.bin") == origin.gets("/other.bin") == 1


@several_users
def test_modes_and_group_come_from_the_base_directory(shared: Path, user: Callable[..., Any], url: str) -> None:
    code = "nanocache.fetch(url); nanocache.fetch(url, postprocess=upper)"
    said(user(ANN, code, url=url))
    for path, st in ours(shared):
        assert st.st_gid == GROUP, path
        mode = stat.S_IMODE(st.st_mode)
        if stat.S_ISDIR(st.st_mode):
            assert mode == 0o2775, path
        elif "blobs-v1" in path.parts and path.name == "weights.bin":
            assert mode == 0o444, path
        elif "products-v1" in path.parts and path.name == "weights.bin":
            assert mode == 0o644, path
        else:
            assert mode == 0o664, path


@several_users
def test_users_wait_for_each_others_locks(shared: Path, user: Callable[..., Any], origin: Origin) -> None:
    url = origin.url(f"/bytes/{2 * MIB}/1/weights.bin?rate={MIB}")  # two seconds, until the second process waits
    first = user(ANN, FETCH, url=url, start=False)
    told = "print(nanocache.fetch(url, progress=lambda progress: holders.add(progress.holder)), *filter(None, holders))"
    second = user(BOB, f"holders = set()\n{told}", url=url, start=False)
    first.start()
    while not origin.gets("/bytes/2097152/1/weights.bin"):
        time.sleep(0.01)
    second.start()
    path = said(first)
    assert said(second).startswith(f"{path} pid {first.processes[0].pid} on ")
    assert origin.gets("/bytes/2097152/1/weights.bin") == 1


@several_users
def test_a_user_takes_over_when_another_ones_download_dies(
    shared: Path, user: Callable[..., Any], origin: Origin
) -> None:
    url = origin.url(f"/bytes/{8 * MIB}/1/weights.bin?rate={8 * MIB}")
    first = user(ANN, FETCH, url=url)
    while sum(request.sent for request in origin.requests("/bytes/8388608/1/weights.bin")) < 3 * MIB:
        time.sleep(0.01)
    first.processes[0].kill()
    assert said(user(BOB, "print(nanocache.fetch(url).stat().st_size)", url=url)) == str(8 * MIB)


@several_users
@pytest.mark.parametrize("mode", [0o3775, 0o1777])
def test_users_share_locks_in_a_base_with_the_sticky_bit(
    place: Path, monkeypatch: pytest.MonkeyPatch, user: Callable[..., Any], origin: Origin, mode: int
) -> None:
    """The lock file is another user's, whose process was killed; so is the folder that it lies in."""
    base = _base(place / "base", monkeypatch, owner=0, mode=mode)
    url = origin.url(f"/bytes/{2 * MIB}/1/weights.bin?rate={MIB}")
    sha256 = digest(2 * MIB, 1)
    for folder in (base / "locks-v1", base / "locks-v1" / sha256[:2]):
        folder.mkdir()
        os.chown(folder, BOB + 1, GROUP)
        folder.chmod(mode)
    first = user(ANN, "nanocache.fetch(url, sha256=sha256)", url=url, sha256=sha256)
    path = f"/bytes/{2 * MIB}/1/weights.bin"
    while not origin.downloads(path):
        time.sleep(0.01)
    first.processes[0].kill()
    first.finish()
    told = user(BOB, "print(nanocache.fetch(url, sha256=sha256).stat().st_size)", n=3, url=url, sha256=sha256)
    assert [text.splitlines()[0] for text in told.outputs()] == [str(2 * MIB)] * 3
    assert not [ended.err for ended in told.finish() if "cannot lock" in ended.err or "going on without" in ended.err]
    assert origin.downloads(path) == 2


@several_users
def test_the_second_user_heals_what_the_first_published(
    shared: Path, user: Callable[..., Any], origin: Origin, url: str
) -> None:
    path = Path(said(user(ANN, FETCH, url=url)))
    path.write_bytes(b"tampered")
    told = said(user(BOB, FETCH, url=url))
    assert told.startswith(f"{path}\n{path} was changed after it was published")
    assert path.read_bytes() == BODY
    assert path.stat().st_uid == BOB
    assert origin.gets("/weights.bin") == 2


@several_users
def test_a_blob_that_another_user_cannot_seal_again_is_still_a_hit(
    shared: Path, user: Callable[..., Any], origin: Origin, url: str
) -> None:
    path = Path(said(user(ANN, FETCH, url=url)))
    os.utime(path)
    told = said(user(BOB, f"{FETCH}\n{FETCH}", url=url))
    assert told.splitlines()[:2] == [str(path)] * 2
    assert told.count("cannot keep the seal") == 1
    assert said(user(ANN, FETCH, url=url)) == str(path)  # its owner can
    assert said(user(BOB, FETCH, url=url)) == str(path)
    assert origin.gets("/weights.bin") == 1


@several_users
def test_a_second_name_of_another_users_blob(shared: Path, user: Callable[..., Any], url: str) -> None:
    """Where the kernel forbids hard links to other users' files (fs.protected_hardlinks), it is a verified copy."""
    said(user(ANN, FETCH, url=url))
    path = Path(said(user(BOB, "print(nanocache.fetch(url, filename='other.bin'))", url=url)))
    assert path.name == "other.bin"
    assert path.read_bytes() == BODY
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert said(user(ANN, "print(nanocache.fetch(url, filename='other.bin'))", url=url)) == str(path)


@several_users
def test_products_and_the_seeds_files_are_shared_too(shared: Path, user: Callable[..., Any], url: str) -> None:
    build = "print(nanocache.fetch(url, postprocess=upper))"
    place = "print(nanocache.download_file_with_lock(url, 'data/w.bin', print))"
    product = Path(said(user(ANN, build, url=url)))
    assert said(user(BOB, build, url=url)) == str(product)
    assert product.stat().st_uid == ANN
    *hook, placed = said(user(ANN, place, url=url)).splitlines()
    assert len(hook) == 1
    assert said(user(BOB, place, url=url)) == placed == f"{shared}/data/w.bin"


@several_users
def test_root_shares_too(shared: Path, user: Callable[..., Any], origin: Origin, url: str) -> None:
    path = nanocache.fetch(url)
    assert said(user(ANN, FETCH, url=url)) == str(path)
    other = origin.add("/other.bin", b"other")
    assert said(user(ANN, FETCH, url=other)) == str(nanocache.fetch(other))
    assert origin.gets("/weights.bin") == origin.gets("/other.bin") == 1


# --- a cache that cannot be written -----------------------------------------------------------------------------------

READ_ONLY = """
print(nanocache.fetch(url))
print(nanocache.fetch(url, sha256=digest))
print(nanocache.fetch(url, filename="other.bin"))
print(nanocache.lookup(url))
print(nanocache.fetch(url, postprocess=upper).read_bytes() == nanocache.fetch(url).read_bytes().upper())
never = lambda src, dst: None
never.key = "never"
for options in ({"url": missing}, {"url": url, "sha256": "0" * 64}, {"url": url, "postprocess": never}):
    try:
        print(nanocache.fetch(**options))
    except nanocache.NotCached as e:
        print(e.reason)
"""


def _fill(url: str) -> Path:
    space: dict[str, Any] = {}
    exec(BECOMING.split("\n\n")[-1], space)
    nanocache.fetch(url, postprocess=space["upper"])
    return nanocache.fetch(url)


def _expected(path: Path) -> list[str]:
    reason = f"{path.parents[4]} is not writable for this user"
    return [*[str(path)] * 4, "True", reason, reason, "<lambda> can build nothing in a base it may not write"]


@several_users
def test_a_cache_of_root_serves_hits_and_says_why_it_cannot_fetch(
    place: Path, monkeypatch: pytest.MonkeyPatch, user: Callable[..., Any], origin: Origin, url: str
) -> None:
    _base(place / "base", monkeypatch, owner=0, mode=0o755)
    path = _fill(url)
    before = [(path, st.st_ino, st.st_ctime_ns) for path, st in ours(place)]
    options = {"url": url, "digest": DIGEST, "missing": origin.url("/bytes/9/1/missing.bin")}
    assert said(user(ANN, READ_ONLY, **options)).splitlines() == _expected(path)
    assert [(path, st.st_ino, st.st_ctime_ns) for path, st in ours(place)] == before
    assert origin.gets("/weights.bin") == 1
    assert origin.gets("/bytes/9/1/missing.bin") == 0


@several_users
def test_a_blob_that_lost_its_seal_is_read_before_a_read_only_cache_gives_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, user: Callable[..., Any], url: str
) -> None:
    _base(place / "base", monkeypatch, owner=0, mode=0o755)
    path = nanocache.fetch(url)
    os.utime(path)
    assert said(user(ANN, FETCH, url=url)) == str(path)
    path.write_bytes(b"tampered")
    code = "try: nanocache.fetch(url)\nexcept nanocache.NotCached as e: print(e.reason)"
    assert said(user(ANN, code, url=url)) == f"{place}/base is not writable for this user"


@several_users
def test_a_base_directory_that_cannot_be_made_is_not_cached(
    place: Path, monkeypatch: pytest.MonkeyPatch, user: Callable[..., Any], url: str
) -> None:
    monkeypatch.setenv("NANOCACHE_DIR", str(place / "no" / "base"))
    code = "try: nanocache.fetch(url)\nexcept nanocache.NotCached as e: print(e)\nprint(nanocache.lookup(url))"
    told = said(user(ANN, code, url=url)).splitlines()
    assert told[0].startswith(f"{url} is not cached in {place}/no/base and cannot be fetched ({place}/no/base is ")
    assert told[1] == "None"


@contextlib.contextmanager
def read_only_mount(path: Path) -> Iterator[None]:
    mounts = [["mount", "--bind", path, path], ["mount", "-o", "remount,ro,bind", path]]
    try:
        for command in mounts:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"root cannot mount here: {done.stderr.strip()}")
        yield
    finally:
        while subprocess.run(["umount", "-l", path], capture_output=True, check=False).returncode == 0:
            pass


@several_users
@pytest.mark.skipif(sys.platform != "linux", reason="bind mounts are Linux's")
def test_a_read_only_mount_serves_hits_and_says_why_it_cannot_fetch(
    place: Path, monkeypatch: pytest.MonkeyPatch, spawn: Callable[..., Any], origin: Origin, url: str
) -> None:
    _base(place / "base", monkeypatch, owner=0, mode=0o755)
    path = _fill(url)
    options = {"url": url, "digest": DIGEST, "missing": origin.url("/bytes/9/1/missing.bin")}
    with read_only_mount(place / "base"):
        assert spawn(READ_ONLY, setup=BECOMING, **options).outputs()[0].splitlines() == _expected(path)
    assert origin.gets("/bytes/9/1/missing.bin") == 0


@several_users
@pytest.mark.skipif(sys.platform != "linux", reason="bind mounts are Linux's")
def test_a_read_only_mount_gives_what_may_have_changed_with_one_warning(
    place: Path, monkeypatch: pytest.MonkeyPatch, spawn: Callable[..., Any], origin: Origin, url: str
) -> None:
    _base(place / "base", monkeypatch, owner=0, mode=0o755)
    path = _fill(url)
    asked = origin.gets()
    code = """
print(nanocache.fetch(url, max_age=0))
print(nanocache.fetch(url, max_age=1e9))
try: nanocache.fetch(missing, max_age=0)
except nanocache.NotCached: print("not cached")
"""
    with read_only_mount(place / "base"):
        ended = spawn(code, url=url, missing=origin.url("/bytes/9/1/missing.bin")).finish()[0]
    assert ended.out.splitlines() == [str(path), str(path), "not cached"]
    assert ended.err.count("cannot ask whether") == 1
    assert "is not writable for this user" in ended.err
    assert origin.gets() == asked


# --- whom a cache of one's own trusts ---------------------------------------------------------------------------------


@several_users
@pytest.mark.parametrize("product", [False, True], ids=["blob", "product"])
def test_a_strangers_file_is_refused_and_those_of_root_and_the_owner_are_not(
    place: Path, monkeypatch: pytest.MonkeyPatch, user: Callable[..., Any], url: str, product: bool
) -> None:
    _base(place / "base", monkeypatch, owner=ANN, mode=0o755)
    code = "print(nanocache.fetch(url, postprocess=upper))" if product else FETCH
    path = said(user(ANN, code, url=url))
    os.chown(path, 0, 0)
    assert said(user(ANN, code, url=url)) == path
    os.chown(path, ANN, ANN)
    assert said(user(BOB, code, url=url)) == path
    os.chown(path, BOB, BOB)
    told = said(user(ANN, f"try: {code}\nexcept nanocache.UnsafeCache as e: print(e)", url=url))
    assert told.startswith(f"refused to use {path}: it belongs to user {BOB}, a stranger to this cache; remove it")


@several_users
def test_a_file_of_a_user_without_an_account_is_named_by_its_number(
    place: Path, monkeypatch: pytest.MonkeyPatch, user: Callable[..., Any], url: str
) -> None:
    """Containers run under numbers that no passwd file knows; nothing here may ask for a name."""
    _base(place / "base", monkeypatch, owner=ANN, mode=0o700)
    assert said(user(ANN, f"os.environ.pop('HOME')\n{FETCH}", url=url)).startswith(str(place))


@pytest.mark.parametrize(("mode", "warnings"), [(0o777, 1), (0o1777, 0), (0o775, 0), (0o755, 0)])
def test_a_base_that_anybody_can_write_to_is_one_warning(
    base: Path, origin: Origin, caplog: pytest.LogCaptureFixture, mode: int, warnings: int
) -> None:
    base.chmod(mode)
    with caplog.at_level(logging.WARNING, "nanocache"):
        for n in range(3):
            assert nanocache.fetch(origin.url(f"/bytes/9/{n}/{n}.bin")).exists()
    assert caplog.text.count("every user can replace files") == warnings
    assert len(caplog.records) == warnings


# --- what is planted at a path of ours --------------------------------------------------------------------------------


def _lock(store: Store, url: str) -> str:
    return store.lock_place(DIGEST).path


def _record(store: Store, url: str) -> str:
    return store.lock_place(DIGEST).record


def _partials(store: Store, url: str) -> str:
    return store.partials(DIGEST)


def _blob(store: Store, url: str) -> str:
    return store.blob(DIGEST, filenames.from_url(url))


def _blobs_folder(store: Store, url: str) -> str:
    return os.path.dirname(_blob(store, url))


def _ref(store: Store, url: str) -> str:
    return store.ref(urls.url_key(url))


def _refs_folder(store: Store, url: str) -> str:
    return os.path.dirname(_ref(store, url))


PLACES = [_lock, _record, _partials, _blob, _blobs_folder, _ref, _refs_folder]
PLACES += [lambda store, url, folder=folder: f"{store.base}/{folder}" for folder in FOLDERS]  # type: ignore[misc]
NAMES = [place.__name__.strip("_") for place in PLACES[:7]] + list(FOLDERS)


@pytest.mark.parametrize("kind", ["symlink", "dangling", "fifo"])
@pytest.mark.parametrize("where", PLACES, ids=NAMES)
def test_what_is_planted_at_a_path_of_ours_is_refused_with_the_reason(
    base: Path, tmp_path: Path, url: str, where: Callable[[Store, str], str], kind: str
) -> None:
    planted = Path(where(Store(str(base)), url))
    planted.parent.mkdir(parents=True, exist_ok=True)
    treasure = tmp_path / "treasure"
    folder = "v1" in planted.name or where in (_partials, _blobs_folder, _refs_folder)
    if kind == "fifo":
        os.mkfifo(planted)
    else:
        planted.symlink_to(treasure)
    if kind == "symlink":
        treasure.mkdir() if folder else treasure.write_bytes(b"untouched")

    with pytest.raises(UnsafeCache, match=r"should be there, not a (symlink|fifo)") as refused:
        nanocache.fetch(url, sha256=None if where in (_ref, _refs_folder) else DIGEST)
    assert refused.value.path == str(planted)
    assert isinstance(refused.value, PermissionError)
    assert planted.is_symlink() == (kind != "fifo")
    if kind == "symlink":
        assert list(treasure.iterdir()) == [] if folder else treasure.read_bytes() == b"untouched"
    else:
        assert not treasure.exists()
    planted.unlink()
    assert nanocache.fetch(url, sha256=DIGEST).read_bytes() == BODY


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_a_planted_product_is_refused(base: Path, tmp_path: Path, url: str, kind: str) -> None:
    def build(src: Path, dst: Path) -> None:
        dst.write_bytes(src.read_bytes())

    product = nanocache.fetch(url, postprocess=build)
    product.rename(tmp_path / "elsewhere")
    product.symlink_to(tmp_path / "elsewhere") if kind == "symlink" else os.mkfifo(product)
    with pytest.raises(UnsafeCache, match=f"a product should be there, not a {kind}"):
        nanocache.fetch(url, postprocess=build)


def test_a_base_reached_through_a_symlink_works_and_is_shown_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: Origin, url: str
) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("NANOCACHE_DIR", str(tmp_path / "link" / "real"))
    path = nanocache.fetch(url)
    assert path.is_relative_to(tmp_path / "link" / "real")
    assert nanocache.fetch(url) == nanocache.lookup(url) == path
    assert nanocache.fetch(url, base_dir=tmp_path / "disk" / "real").samefile(path)
    assert origin.gets("/weights.bin") == 1
