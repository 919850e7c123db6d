"""The store alone: the seal, publishing, second names, healing, modes and sweeping. No network, no lock."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from nanocache.cancel import Cancel
from nanocache.coordination.process import boot_time, me
from nanocache.disk import files
from nanocache.errors import UnsafeCache
from nanocache.store import healing, orphans, partials, refs, seal, sweep
from nanocache.store.blobs import Store
from nanocache.store.layout import FOLDERS
from nanocache.store.refs import Ref

BODY = b"weights" * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()


def heal(store: Store, *, everything: bool = False) -> bool:
    return healing.heal(store, DIGEST, everything=everything, replaceable=True, cancel=Cancel())


def published(store: Store, name: str = "w.bin", body: bytes = BODY) -> Path:
    with partials.create(store, "k") as partial:
        partial.write(body, 0)
        return store.publish(partial, hashlib.sha256(body).hexdigest(), name)


def test_published_blob_is_complete_sealed_read_only_and_leaves_no_partial(store: Store, base: Path) -> None:
    path = published(store)
    assert path.read_bytes() == BODY
    assert path == base / "blobs-v1/sha256" / DIGEST[:2] / DIGEST / "w.bin"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert store.hit(DIGEST, "w.bin") == path
    assert sorted(os.listdir(base / "partials-v1")) == [".gitignore", "CACHEDIR.TAG"]


def test_seal_is_an_instant_of_the_last_day_at_the_digests_own_second(store: Store) -> None:
    mtime = published(store).stat().st_mtime_ns
    assert mtime % 2_000_000_000 == 0
    assert 0 <= time.time_ns() - mtime < seal.DAY_NS
    assert mtime // 1_000_000_000 % 86_400 == 2 * (int(DIGEST[:8], 16) % 43_200)


@pytest.mark.parametrize("damage", ["in place", "truncate", "same size", "cp", "mv"])
def test_a_write_to_a_published_blob_is_no_hit(store: Store, damage: str) -> None:
    path, other = published(store), published(store, "other.bin", b"other bytes")
    path.chmod(0o644)
    if damage == "in place":
        with path.open("r+b") as file:
            file.write(b"W")
    elif damage == "truncate":
        os.truncate(path, 10)
    elif damage == "same size":
        os.truncate(path, 0)
        os.truncate(path, len(BODY))
    elif damage == "cp":
        shutil.copy2(other, path)
    else:
        os.rename(other, path)
    assert store.hit(DIGEST, "w.bin") is None


def test_heal_seals_right_bytes_again_and_keeps_wrong_ones_out_of_hits(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    path = published(store)
    os.utime(path)
    assert heal(store)
    assert store.hit(DIGEST, "w.bin") == path
    assert not caplog.records
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    assert not heal(store)
    assert not heal(store)
    assert store.hit(DIGEST, "w.bin") is None
    assert path.read_bytes() == b"wrong"  # kept until there is a better one
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert published(store) == path
    assert path.read_bytes() == BODY
    assert store.hit(DIGEST, "w.bin") == path


def test_bit_rot_behind_an_intact_seal_is_found_by_rehashing_everything(store: Store) -> None:
    path = published(store)
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"W")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    heal(store)
    assert store.hit(DIGEST, "w.bin") == path
    heal(store, everything=True)
    assert store.hit(DIGEST, "w.bin") is None
    assert Store(store.base).hit(DIGEST, "w.bin") is None  # its seal is broken for every process


def test_second_name_is_a_hard_link(store: Store) -> None:
    first = published(store)
    second = store.hit(DIGEST, "again.bin")
    assert second is not None
    assert second.name == "again.bin"
    assert second.samefile(first)


def test_second_name_is_a_verified_copy_where_links_cannot_be_made(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = published(store)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # fs.protected_hardlinks, another user's file

    monkeypatch.setattr(os, "link", refuse)
    assert store.hit(DIGEST, "again.bin") is None  # a hit copies nothing
    second = store.copy_name(DIGEST, "again.bin", Cancel())
    assert second is not None
    assert not second.samefile(first)
    assert second.read_bytes() == BODY
    assert store.intact(DIGEST, str(second))


def test_damaged_second_name_is_replaced_from_the_intact_one(store: Store) -> None:
    published(store)
    path = Path(store.blob(DIGEST, "bad.bin"))
    path.write_bytes(b"bad")
    assert store.hit(DIGEST, "bad.bin") is None
    assert heal(store)
    assert store.copy_name(DIGEST, "bad.bin", Cancel()) == path
    assert path.read_bytes() == BODY


def test_where_the_seal_is_not_kept_a_process_hashes_once_and_warns_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(seal, "put", lambda *_: False)
    path = published(store)
    os.utime(path)
    assert store.hit(DIGEST, "w.bin") is None
    heal(store)
    assert store.hit(DIGEST, "w.bin") == path
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) <= 2
    assert "cannot keep the seal" in warnings[0]
    other_process = Store(store.base)
    assert other_process.hit(DIGEST, "w.bin") is None
    os.utime(path)
    assert store.hit(DIGEST, "w.bin") is None


def test_verify_reads_and_changes_nothing(store: Store) -> None:
    path = published(store)
    os.utime(path, ns=(1, 1))
    assert healing.verify(store, DIGEST, "w.bin", Cancel()) == path
    assert path.stat().st_mtime_ns == 1
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    assert healing.verify(store, DIGEST, "w.bin", Cancel()) is None


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775, 0o2775])
def test_modes_come_from_the_base_directory_and_not_from_the_umask(base: Path, mode: int) -> None:
    base.chmod(mode)
    umask = os.umask(0o077)
    try:
        store = Store(str(base))
        store.prepare()
        path = published(store)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == mode & 0o444
    assert stat.S_IMODE(path.parent.stat().st_mode) == mode
    assert stat.S_IMODE((base / "locks-v1").stat().st_mode) == mode


def test_tags_stand_in_our_folders_and_never_in_the_base(store: Store, base: Path) -> None:
    assert sorted(os.listdir(base)) == sorted(FOLDERS)
    for folder in FOLDERS:
        assert (base / folder / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
        assert (base / folder / ".gitignore").read_text() == "*\n"


def test_recency_is_the_folders_mtime_and_never_the_blobs(store: Store) -> None:
    path = published(store)
    before = path.stat()
    assert path.parent.stat().st_mtime > time.time() - 60
    os.utime(path.parent, ns=(0, 0))
    another = Store(store.base)
    another.recency.mark(str(path.parent))
    assert path.parent.stat().st_mtime > time.time() - 60
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ctime_ns == before.st_ctime_ns
    os.utime(path.parent, ns=(0, 0))
    for same_hour in (store, another):
        same_hour.recency.mark(str(path.parent))
    assert path.parent.stat().st_mtime == 0


def test_another_processs_mark_counts_from_when_it_was_made(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = published(store)
    marked = time.time() - 59 * 60
    os.utime(path.parent, (marked, marked))
    another = Store(store.base)
    assert another.recency.mark(str(path.parent))
    assert path.parent.stat().st_mtime == pytest.approx(marked)  # within the hour
    later, now = time.monotonic() + 120, time.time() + 120
    monkeypatch.setattr(time, "monotonic", lambda: later)
    monkeypatch.setattr(time, "time", lambda: now)
    assert another.recency.mark(str(path.parent))
    assert path.parent.stat().st_mtime > marked + 60


def test_what_an_eviction_took_is_not_marked(store: Store) -> None:
    path = published(store)
    path.unlink()
    path.parent.rmdir()
    assert not Store(store.base).recency.mark(str(path.parent))


def test_a_mark_of_recency_that_another_process_left_within_the_hour_is_not_written_again(store: Store) -> None:
    folder = published(store).parent
    for minutes, written in ((59, False), (61, True)):
        before = time.time() - 60 * minutes
        os.utime(folder, (before, before))
        Store(store.base).recency.mark(str(folder))
        assert (folder.stat().st_mtime > time.time() - 60) is written


def test_publish_survives_the_base_directory_being_deleted_by_hand(store: Store, base: Path) -> None:
    shutil.rmtree(base)
    assert published(store).read_bytes() == BODY


def test_a_symlink_where_a_folder_of_ours_should_be_is_refused(store: Store, base: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (base / "blobs-v1" / "sha256").mkdir()
    (base / "blobs-v1" / "sha256" / DIGEST[:2]).symlink_to(outside)
    with pytest.raises(UnsafeCache, match="a symlink"):
        published(store)
    assert os.listdir(outside) == []


def test_a_base_that_is_two_file_systems_is_an_error_that_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", across)
    monkeypatch.setattr(os, "link", across)
    with pytest.raises(UnsafeCache, match="must be one file system"):
        published(store)


def test_a_failed_fsync_publishes_nothing(store: Store, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        published(store)
    assert not list((base / "blobs-v1").rglob("w.bin"))


def test_a_ref_is_not_replaced_by_an_older_one(store: Store) -> None:
    def ref(digest: str, fetched_at: float) -> Ref:
        return Ref("http://h/x", digest * 64, 1, None, None, fetched_at)

    refs.write(store, "k" * 64, ref("a", 100.0))
    refs.write(store, "k" * 64, ref("b", 99.0))
    assert refs.read(store, "k" * 64) == ref("a", 100.0)
    refs.write(store, "k" * 64, ref("c", 101.0))
    assert refs.read(store, "k" * 64) == ref("c", 101.0)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"digest": "../../x"}', "\x00" * 100, "[" * 100_000, '{"url":1,"digest":"' + "a" * 64],
)
def test_an_unparsable_ref_counts_as_absent(store: Store, text: str) -> None:
    path = Path(store.ref("k" * 64))
    path.parent.mkdir()
    path.write_text(text)
    assert refs.read(store, "k" * 64) is None


# partials


def test_a_partial_whose_owner_died_is_claimed_whole(store: Store, spawn: object) -> None:
    folder = store.partials("k")
    spawn(  # type: ignore[operator]
        "p = partials.create(BaseDirectory(base), 'k')\np.write(b'half', 0); p.save({'x': 1}); os._exit(9)",
        setup="import os; from nanocache.store import partials; from nanocache.store.layout import BaseDirectory",
        base=store.base,
    ).finish()
    with orphans.claim(store, "k", judged=False) as partial:
        assert partial.state == {"x": 1}
        assert os.pread(partial.fd, 10, 0) == b"half"
        assert len(os.listdir(folder)) == 1


def test_a_living_owners_partial_is_left_alone(store: Store) -> None:
    with partials.create(store, "k") as mine:
        mine.save({"x": 1})
        with orphans.claim(store, "k", judged=True) as other:
            assert other.state is None
            assert other.folder is None


def test_a_partial_of_another_boot_needs_a_digest_and_fifteen_still_minutes(store: Store) -> None:

    def orphan(age: float) -> Path:
        with partials.create(store, "k") as partial:
            partial.save({"x": 1})
            path = Path(partial.folder or "")
        state = path / "state.json"
        boot = me().boot
        state.write_text(state.read_text().replace(boot, "another boot").replace('"left":true', '"left":false'))
        for file in path.iterdir():
            os.utime(file, (time.time() - age,) * 2)
        return path

    def claimed(*, judged: bool) -> bool:
        with orphans.claim(store, "k", judged=judged) as partial:
            resumed = partial.state is not None
            partial.state = None
        return resumed

    moving = orphan(age=60)
    assert not claimed(judged=True)
    assert moving.exists()
    shutil.rmtree(moving)
    orphan(age=1000)
    assert claimed(judged=True)
    still = orphan(age=1000)
    assert not claimed(judged=False)  # no digest would notice that its blocks read as zeros
    assert not still.exists()


def test_an_owner_that_was_stopped_for_long_leaves_its_partial(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with partials.create(store, "k") as partial:
        partial.write(b"a", 0)
        now = boot_time()
        monkeypatch.setattr(time, "clock_gettime", lambda _: now + 301)
        with pytest.raises(partials.Abandoned):
            partial.write(b"b", 1)


def test_a_claimed_partials_old_owner_destroys_nothing_when_it_wakes(store: Store) -> None:
    old = partials.create(store, "k")
    old.write(b"half", 0)
    old.save({"x": 1})
    claimed = Path(old.folder or "").with_name("claimed")
    Path(old.folder or "").rename(claimed)
    old.close()
    assert (claimed / "data").read_bytes() == b"half"


def test_a_folder_that_is_evicted_just_before_publication_is_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob of two hours ago gets another name under the lock of another URL, beside an eviction."""
    old = published(store)
    put = seal.put

    def put_late(fd: int, digest: str) -> bool:
        store.set_aside(str(old.parent))
        return put(fd, digest)

    monkeypatch.setattr(seal, "put", put_late)
    assert published(store, "other.bin").read_bytes() == BODY
    assert not old.exists()


# sweeping


def test_sweep_removes_trash_and_week_old_orphans_and_nothing_else(store: Store, base: Path) -> None:
    with partials.create(store, "k") as old:
        old.save({"x": 1})
    with partials.create(store, "k") as young:
        young.save({"x": 2})
    week = time.time() - 8 * 86_400
    for path in (*Path(old.folder or "").iterdir(), Path(old.folder or "")):
        os.utime(path, (week, week))
    (base / "trash-v1" / "aside").mkdir()
    (base / "trash-v1" / "aside" / "x").write_text("x")
    (base / "trash-v1" / "new-1").write_text("a record on its way")
    (base / "checkpoint.pt").write_text("the user's own")
    path = published(store)
    living = partials.create(store, "living")
    living.save({"x": 3})
    for file in (*Path(living.folder or "").iterdir(), Path(living.folder or "")):
        os.utime(file, (week, week))

    sweep.daily(store)

    assert not Path(old.folder or "?").exists()
    assert Path(young.folder or "?").exists()
    assert Path(living.folder or "?").exists()
    assert sorted(os.listdir(base / "trash-v1")) == [".gitignore", "CACHEDIR.TAG", "new-1", "swept"]
    assert (base / "checkpoint.pt").exists()
    assert path.exists()
    living.close()


def test_what_was_sealed_and_not_published_yet_is_not_swept(store: Store) -> None:
    """Its seal may look a day old."""
    soon = int(time.time() + 600) % seal.DAY_SECONDS // 2
    with partials.create(store, "k") as partial:
        assert seal.put(partial.fd, f"{soon:08x}".ljust(64, "0"))
        assert time.time() - os.fstat(partial.fd).st_mtime > 85_000
        sweep.daily(store)
        assert not orphans.is_dead(partial.data, store)
        assert os.path.exists(partial.data)


def test_looking_at_a_partial_that_disappears_leaves_nothing_open(store: Store) -> None:
    (path := Path(store.partials("k")) / "random").mkdir(parents=True)
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        shutil.rmtree(path, ignore_errors=True)
        assert not orphans.gone(str(path), store, age=1)
        path.mkdir()
    assert len(os.listdir("/dev/fd")) == before


def test_sweep_runs_at_most_once_a_day(store: Store, base: Path) -> None:
    sweep.daily(store)
    (base / "trash-v1" / "aside").write_text("x")
    sweep.daily(store)
    assert (base / "trash-v1" / "aside").exists()
    yesterday = time.time() - 86_401
    os.utime(base / "trash-v1" / "swept", (yesterday, yesterday))
    sweep.daily(Store(store.base))  # as another process, or this one a day later
    assert not (base / "trash-v1" / "aside").exists()


def test_records_are_written_whole_or_not_at_all(base: Path) -> None:
    files.write_json(str(base / "r.json"), {"a": 1}, scratch=str(base), mode=0o640)
    assert files.read_json(str(base / "r.json")) == {"a": 1}
    assert stat.S_IMODE((base / "r.json").stat().st_mode) == 0o640
    with pytest.raises(TypeError):
        files.write_json(str(base / "r.json"), {"a": object()}, scratch=str(base), mode=0o640)
    assert files.read_json(str(base / "r.json")) == {"a": 1}
    assert os.listdir(base) == ["r.json"]
