"""Pruning: what goes, in which order, what stays and why; and that no moment of it harms a fetch or a reader."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Cache, Pruned, sizes
from nanocache.cli.main import main
from nanocache.retention import eviction
from nanocache.retention.survey import Survey
from nanocache.store import partials
from nanocache.store.blobs import Store
from nanocache.upkeep import usage
from tests.servers.origin import content
from tests.upkeep.conftest import HOUR, Filled, copy, made_old


def age(path: Path, hours: float) -> None:
    """Have the folder of one digest look unused for so long."""
    then = time.time() - hours * HOUR
    os.utime(path, (then, then))


def kinds(pruned: Pruned) -> list[str]:
    return [one.kind for one in pruned.removed]


def reasons(pruned: Pruned) -> dict[str, str]:
    return {one.path: one.reason for one in pruned.kept}


def capped(cache: Cache) -> int:
    """Bytes as the cap counts them."""
    return sum(one.size for one in usage.measure(cache.store) if one.kind not in ("trash", "records"))


# --- what goes --------------------------------------------------------------------------------------------------------


def test_without_a_limit_only_what_the_dead_left_goes(filled: Filled, base: Path) -> None:
    made_old(base, 1000)
    assert filled.cache.prune().removed == ()
    assert filled.cache.verify().sound


def test_a_folder_in_which_a_killed_process_published_nothing_goes(filled: Filled, base: Path) -> None:
    """One that was evicted before is still remembered: `verify` would take it for one whose file was deleted."""
    made_old(base, 5)
    filled.cache.prune(max_size=0)
    nanocache.fetch(filled.url)
    for empty in (young := filled.pinned.parent, filled.copied.parent):
        empty.mkdir(parents=True)
    (filled.copied.parent / "another's").symlink_to("nowhere")
    assert filled.cache.prune().removed == ()
    assert young.exists(), "its process may be about to publish"
    made_old(base, 5)
    filled.cache.prune(dry_run=True)
    assert young.exists()
    filled.cache.prune()
    assert not young.exists()
    assert filled.copied.parent.exists(), "it is not empty"
    assert filled.weights.exists()


def test_what_was_long_unused_goes(filled: Filled, base: Path) -> None:
    made_old(base, 48)
    age(filled.weights.parent, 10)
    pruned = filled.cache.prune(older_than=24 * HOUR)
    assert not filled.pinned.exists()
    assert not filled.copied.exists()
    assert not filled.folder.exists()
    assert filled.weights.exists()
    assert pruned.freed == sum(one.size for one in pruned.removed) > 20_000
    assert reasons(pruned)[str(filled.weights.parent)] == "there is room for it"


def test_what_was_built_goes_before_artifacts_and_the_longest_unused_first(filled: Filled, base: Path) -> None:
    made_old(base, 5)
    age(filled.pinned.parent, 100)
    pruned = filled.cache.prune(max_size=0)
    assert kinds(pruned) == ["product", "tree", *["blob"] * 6]
    assert pruned.removed[2].path == str(filled.pinned.parent)
    assert pruned.size == 0
    assert capped(filled.cache) <= 400  # our tags


def test_no_more_goes_than_has_to(filled: Filled, base: Path) -> None:
    made_old(base, 5)
    age(filled.pinned.parent, 100)
    filled.cache.remove([filled.folder])
    size = filled.cache.prune(dry_run=True).size
    pruned = filled.cache.prune(max_size=size - 10_000)
    assert kinds(pruned) == ["product", "blob"]
    assert not filled.pinned.exists()
    assert filled.weights.exists()
    assert pruned.size <= size - 10_000


def test_what_went_is_fetched_again(filled: Filled, base: Path) -> None:
    made_old(base, 5)
    filled.cache.prune(max_size=0)
    assert nanocache.fetch(filled.url).read_bytes() == content(50_000, "weights")
    assert (nanocache.fetch(filled.url, postprocess=copy) / "b.txt").read_bytes() == b"b"
    assert (nanocache.snapshot("hf://owner/name") / "config.json").read_bytes() == b"{}"


def test_the_books_are_right(filled: Filled, base: Path) -> None:
    nanocache.fetch(filled.url, filename="other.bin")
    size = Survey(filled.cache.store).size
    tags = sum(path.stat().st_size for path in base.glob("*/*") if path.name in ("CACHEDIR.TAG", ".gitignore"))
    assert size <= capped(filled.cache) <= size + tags
    made_old(base, 5)
    age(filled.folder.parent, 0)
    pruned = filled.cache.prune(max_size=0)
    assert Survey(filled.cache.store).size == pruned.size


# --- what stays -------------------------------------------------------------------------------------------------------


def test_what_was_used_within_two_hours_stays(filled: Filled, base: Path) -> None:
    made_old(base, 1.9)
    pruned = filled.cache.prune(max_size=0, older_than=0)
    assert pruned.removed == ()
    assert all("less than 2 h" in reason for reason in reasons(pruned).values())


def test_what_is_pinned_held_or_listed_stays(filled: Filled, base: Path) -> None:
    made_old(base, 100)
    filled.cache.pin(filled.url)
    with filled.cache.hold(filled.pinned):
        pruned = filled.cache.prune(max_size=0, keep=[filled.folder])
    kept = reasons(pruned)
    assert kept[str(filled.weights.parent)] == "pinned"
    assert kept[str(filled.copied.parent.parent)] == "pinned"
    assert kept[str(filled.pinned.parent)] == "held by a process"
    assert kept[str(filled.folder.parent)] == "kept, as asked"
    assert (filled.folder / "deep/model.safetensors").read_bytes()
    assert filled.cache.verify(filled.folder).sound


def test_the_files_and_the_manifest_of_a_snapshot_that_stays_stay(filled: Filled, base: Path) -> None:
    made_old(base, 100)
    age(filled.folder.parent, 0)
    filled.cache.prune(max_size=0)
    filled.hub.reset()
    assert nanocache.snapshot("hf://owner/name") == filled.folder
    assert filled.hub.requests() == []


def test_a_lock_file_says_what_stays(filled: Filled, base: Path, tmp_path: Path) -> None:
    made_old(base, 100)
    lock = tmp_path / "nanocache.lock"
    lock.write_text(f'[[artifact]]\nname = "w"\nsha256 = "{filled.weights.parent.name}"\n')
    filled.cache.prune(max_size=0, keep=lock)
    assert filled.weights.exists()
    assert not filled.pinned.exists()
    lock.write_text("[[broken")
    with pytest.raises(ValueError, match="no lock file"):
        filled.cache.prune(max_size=0, keep=[str(lock)])
    with pytest.raises(FileNotFoundError):
        filled.cache.prune(max_size=0, keep="gone.lock")


def test_what_a_hook_builds_from_stays_however_long_it_takes(filled: Filled, base: Path) -> None:
    def slow(source: Path, target: Path) -> None:
        made_old(base, 5)
        assert filled.cache.prune(max_size=0).removed
        target.write_bytes(source.read_bytes()[:10])

    slow.key = "slow-v1"  # type: ignore[attr-defined]
    assert filled.cache.fetch(filled.url, postprocess=slow).read_bytes() == content(50_000, "weights")[:10]
    assert filled.weights.exists()
    made_old(base, 5)
    filled.cache.prune(max_size=0)
    assert not filled.weights.exists()


def test_a_mark_from_the_future_counts_as_now(filled: Filled, base: Path) -> None:
    for folder in base.glob("blobs-v1/sha256/*/*"):
        age(folder, -1000)
    pruned = filled.cache.prune(max_size=0, older_than=0)
    assert "blob" not in kinds(pruned)


def test_only_our_own_folders_are_touched(filled: Filled, base: Path) -> None:
    (base / "checkpoints").mkdir()
    (base / "checkpoints/step1.pt").write_bytes(b"x")
    (base / "blobs-v1/README").write_text("mine")
    made_old(base, 100)
    filled.cache.prune(max_size=0)
    assert (base / "checkpoints/step1.pt").exists()
    assert (base / "blobs-v1/README").exists()


# --- what was left ----------------------------------------------------------------------------------------------------


def test_a_dead_partial_goes_at_once_and_a_living_one_stays(
    filled: Filled, base: Path, spawn: Callable[..., Any]
) -> None:
    code = """
import os
from nanocache.store import partials
from nanocache.store.blobs import Store
partial = partials.create(Store(base), "0" * 64)
partial.write(b"x" * 100_000, 0)
partial.save({})
print(partial.folder, flush=True)
os._exit(0)
"""
    dead = spawn(code, base=str(base)).outputs()[0]
    with partials.create(Store(str(base)), "1" * 64) as living, partials.create(Store(str(base)), "2" * 64) as young:
        living.write(b"y" * 1000, 0)
        living.save({})
        pruned = filled.cache.prune()
        assert [one.path for one in pruned.removed] == [dead]
        assert pruned.freed >= 100_000
        assert os.path.exists(living.data)
        assert os.path.exists(young.data)


def test_old_trash_goes_and_what_was_put_there_just_now_stays(
    filled: Filled, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanocache.retention import prune

    (base / "trash-v1/0123").mkdir()
    (base / "trash-v1/0123/left").write_bytes(b"x" * 5000)
    filled.cache.prune()
    assert (base / "trash-v1/0123").exists()
    monkeypatch.setattr(prune, "JUST_NOW", -1.0)
    filled.cache.verify()
    assert kinds(filled.cache.prune()) == ["trash"]
    assert sorted(os.listdir(base / "trash-v1")) == [".gitignore", "CACHEDIR.TAG", "swept", "verified"]


# --- two at once ------------------------------------------------------------------------------------------------------


def test_what_is_used_pinned_or_held_in_the_last_moment_is_put_back(
    filled: Filled, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename
    last_moment: list[Callable[[], object]] = []

    def rename(source: str, target: str) -> None:
        if str(source) == str(filled.weights.parent) and last_moment:
            last_moment.pop()()
        real(source, target)

    monkeypatch.setattr(eviction.os, "rename", rename)
    lease = filled.cache.hold(filled.weights)
    for keeping in (
        lambda: nanocache.fetch(filled.url, filename="new.bin"),
        lambda: Store(str(base)).recency.mark(str(filled.weights.parent)),
        lambda: filled.cache.pin(filled.url),
        lease.__enter__,
    ):
        made_old(base, 100)
        filled.cache.unpin(filled.url)
        last_moment.append(keeping)
        pruned = filled.cache.prune(max_size=0)
        assert last_moment == []
        assert filled.weights.exists()
        assert reasons(pruned)[str(filled.weights.parent)] == eviction.USED
    lease.__exit__(None, None, None)


def test_a_hit_whose_folder_was_just_taken_is_a_miss(
    filled: Filled, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_old(base, 100)
    store = filled.cache.store
    store.recency._marked.clear()  # as after an hour
    real = store.recency.mark

    def mark(folder: str) -> bool:
        monkeypatch.undo()
        Cache(base).prune(max_size=0)
        return real(folder)

    monkeypatch.setattr(store.recency, "mark", mark)
    path = nanocache.fetch(filled.url, sha256=filled.weights.parent.name)
    assert path.read_bytes() == content(50_000, "weights")


def test_what_was_published_again_meanwhile_joins_what_is_put_back(filled: Filled, tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    os.rename(filled.weights.parent, aside)
    nanocache.fetch(filled.url, filename="new.bin")
    eviction._put_back(str(aside), str(filled.weights.parent))
    assert sorted(os.listdir(filled.weights.parent)) == ["new.bin", "weights.bin"]
    assert not aside.exists()


def test_one_prune_at_a_time(filled: Filled, base: Path) -> None:
    made_old(base, 100)
    removed: list[str] = []
    threads = [
        threading.Thread(target=lambda: removed.extend(o.path for o in Cache(base).prune(max_size=0).removed))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(removed) == len(set(removed)) == 8


# --- asking -----------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_the_same_and_changes_nothing(filled: Filled, base: Path) -> None:
    made_old(base, 100)
    before = {path: path.lstat().st_mtime_ns for path in base.rglob("*")}
    said = filled.cache.prune(max_size=30_000, dry_run=True)
    assert {path: path.lstat().st_mtime_ns for path in base.rglob("*")} == before
    done = filled.cache.prune(max_size=30_000)
    assert [one.path for one in said.removed] == [one.path for one in done.removed]
    assert (said.size, said.freed, said.dry_run) == (done.size, done.freed, True)


def test_a_cache_that_may_not_be_written_says_so(filled: Filled, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_old(base, 100)
    monkeypatch.setattr(type(filled.cache.store), "prepare", lambda self: False)
    assert filled.cache.prune(max_size=0, dry_run=True).freed > 0
    with pytest.raises(PermissionError, match="may not change"):
        filled.cache.prune(max_size=0)
    assert filled.weights.exists()


@pytest.mark.parametrize(
    "option", [{"max_size": "big"}, {"max_size": -1}, {"max_size": "101%"}, {"older_than": -1}, {"dry_run": 1}]
)
def test_a_wrong_option_is_a_value_error(base: Path, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Cache(base).prune(**option)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("50GB", 50 * 10**9), ("50 gb", 50 * 10**9), ("1.5GiB", 3 << 29), ("2T", 2 * 10**12), ("7k", 7000)],
)
def test_sizes_as_people_write_them(text: str, count: int, tmp_path: Path) -> None:
    assert sizes.read_size("max_size", text, str(tmp_path)) == count


def test_a_share_is_of_the_disk(tmp_path: Path) -> None:
    st = os.statvfs(tmp_path)
    expected = st.f_blocks * st.f_frsize // 2
    assert abs(sizes.read_size("max_size", "50%", str(tmp_path / "none/yet")) - expected) <= 1


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90m", 5400), ("12h", 43_200), ("30d", 2_592_000)])
def test_ages_as_people_write_them(text: str, seconds: float) -> None:
    assert sizes.read_age("--older-than", text) == seconds


def test_the_command_explains(filled: Filled, base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made_old(base, 100)
    filled.cache.pin(filled.url)
    assert main(["prune", "--max-size", "0", "--dry-run", "--explain"]) == 0
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "pinned" in out
    assert "would go" in out
    assert main(["prune", "--older-than", "1d", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["schema"], facts["kept"], facts["dry_run"]) == (1, 2, False)
    assert filled.weights.exists()
    assert not filled.pinned.exists()
    assert main(["prune", "--older-than", "soon"]) == 2
