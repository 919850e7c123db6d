"""Removing, pinning, holding: what a person or a process says of what is cached."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Cache, NotCached
from nanocache.cli.main import main
from nanocache.retention.leases import Leases
from tests.upkeep.conftest import Filled

Spawn = Callable[..., Any]


def leases(base: Path) -> list[Path]:
    return list((base / "leases-v1").glob("*-*-*"))


# --- removing ---------------------------------------------------------------------------------------------------------


def test_what_is_removed_goes_with_all_that_was_made_of_it(filled: Filled) -> None:
    digest = filled.weights.parent.name
    assert filled.cache.remove(filled.url) == [digest]
    assert not filled.weights.parent.exists()
    assert not filled.copied.exists()
    assert nanocache.lookup(filled.url) is None
    with pytest.raises(NotCached):
        filled.cache.info(digest)
    assert filled.pinned.exists()


def test_what_was_removed_is_fetched_again(filled: Filled) -> None:
    nanocache.fetch(filled.url)
    filled.cache.remove(filled.weights)
    assert nanocache.fetch(filled.url).read_bytes()
    assert filled.origin.downloads("/a/weights.bin") == 2


def test_a_snapshot_goes_with_its_files(filled: Filled, base: Path) -> None:
    filled.cache.remove("hf://owner/name")
    assert not filled.folder.exists()
    assert {path.parent.name for path in base.glob("blobs-v1/sha256/*/*/*")} == {
        filled.weights.parent.name,
        filled.pinned.parent.name,
    }


def test_a_file_that_another_snapshot_shows_stays(filled: Filled) -> None:
    other = filled.cache.snapshot("hf://owner/name", include="*.safetensors")
    filled.cache.remove(filled.folder)
    assert not filled.folder.exists()
    assert (other / "deep/model.safetensors").read_bytes()
    assert filled.cache.verify().sound


def test_what_is_pinned_or_held_is_not_removed_and_nothing_else_either(filled: Filled) -> None:
    filled.cache.pin(filled.url)
    with pytest.raises(PermissionError, match="unpin"):
        filled.cache.remove([filled.pinned, filled.url])
    assert filled.pinned.exists()
    filled.cache.unpin(filled.url)
    with filled.cache.hold(filled.url), pytest.raises(PermissionError, match="holds it"):
        filled.cache.remove([filled.pinned, filled.url])
    assert filled.pinned.exists()
    filled.cache.remove(filled.url)


def test_removing_the_unknown_is_not_cached_and_removes_nothing(filled: Filled) -> None:
    with pytest.raises(NotCached):
        filled.cache.remove([filled.url, "https://host/unknown"])
    assert filled.weights.exists()


# --- pins -------------------------------------------------------------------------------------------------------------


def test_a_pin_is_seen_with_its_note(filled: Filled, base: Path) -> None:
    filled.cache.pin(filled.url, note="baseline of the paper")
    entry = filled.cache.info(filled.url)
    assert (entry.pinned, entry.note) == (True, "baseline of the paper")
    assert (base / "pins-v1" / f"{entry.digest}.json").exists()
    assert (base / "pins-v1" / "CACHEDIR.TAG").exists()
    filled.cache.pin(filled.url, note="again")
    assert filled.cache.info(filled.url).note == "again"
    filled.cache.unpin(filled.url)
    assert filled.cache.info(filled.url).pinned is False
    filled.cache.unpin(filled.url)


def test_a_pin_that_cannot_be_read_is_a_pin(filled: Filled, base: Path) -> None:
    (base / "pins-v1").mkdir()
    (base / "pins-v1" / f"{filled.weights.parent.name}.json").write_text("{broken")
    entry = filled.cache.info(filled.url)
    assert (entry.pinned, entry.note) == (True, "")


def test_only_what_is_cached_is_pinned(filled: Filled, base: Path) -> None:
    with pytest.raises(NotCached):
        filled.cache.pin("https://host/unknown")
    with pytest.raises(ValueError, match="note"):
        filled.cache.pin(filled.url, note=3)  # type: ignore[arg-type]
    assert not (base / "pins-v1").exists()


# --- leases -----------------------------------------------------------------------------------------------------------


def test_a_lease_is_there_while_the_block_runs(filled: Filled, base: Path) -> None:
    with filled.cache.hold([filled.weights, filled.pinned_url]):
        assert filled.cache.info(filled.url).held
        assert filled.cache.info(filled.pinned).held
        assert not filled.cache.info("hf://owner/name").held
        assert len(leases(base)) == 1
        assert leases(base)[0].name.split("-")[-2] == str(os.getpid())
    assert not filled.cache.info(filled.url).held
    assert leases(base) == []


def test_a_lease_ends_with_an_error_of_the_block(filled: Filled, base: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), filled.cache.hold(filled.url):
        raise RuntimeError("mine")
    assert leases(base) == []


def test_nothing_is_held_that_is_not_there(filled: Filled, base: Path) -> None:
    with pytest.raises(NotCached), filled.cache.hold("https://host/unknown"):
        pass
    assert leases(base) == []


HOLD = """
import time
with nanocache.Cache().hold(path):
    print("held", flush=True)
    time.sleep(60)
"""


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_processs_lease_ends_with_it(filled: Filled, base: Path, spawn: Spawn) -> None:
    holder = spawn(HOLD, path=str(filled.weights))
    wait_until(lambda: leases(base))
    assert filled.cache.info(filled.url).held
    os.kill(holder.processes[0].pid, signal.SIGKILL)
    holder.processes[0].wait()
    assert not filled.cache.info(filled.url).held
    found = Leases(filled.cache.store)
    assert not found.held()
    found.clear_dead()
    assert leases(base) == []


def test_a_living_processs_lease_holds_where_locks_let_everyone_in(
    filled: Filled, base: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanocache.retention import leases as module

    holder = spawn(HOLD, path=str(filled.weights))
    wait_until(lambda: leases(base))
    monkeypatch.setattr(module, "is_locked", lambda path: False)
    assert filled.cache.info(filled.url).held
    os.kill(holder.processes[0].pid, signal.SIGKILL)
    holder.processes[0].wait()
    assert not filled.cache.info(filled.url).held


def test_a_forked_child_neither_keeps_nor_takes_back_a_lease(filled: Filled, base: Path, spawn: Spawn) -> None:
    code = """
import os, pathlib, time
cache = nanocache.Cache()
with cache.hold(path):
    child = os.fork()
    if child == 0:
        pathlib.Path(base, "forked").touch()
if child == 0:
    pathlib.Path(base, "left").touch()
    time.sleep(20)
    os._exit(0)
while not pathlib.Path(base, "left").exists():
    time.sleep(0.01)
print(cache.info(path).held, flush=True)
with cache.hold(path):
    second = os.fork()
    if second == 0:
        os._exit(0)   # without an unwind
    os.waitpid(second, 0)
    print(cache.info(path).held, flush=True)
    third = os.fork()
    if third == 0:
        raise SystemExit   # unwinds through the block
    os.waitpid(third, 0)
    print(cache.info(path).held, flush=True)
os.kill(child, 9)
"""
    out = spawn(code, path=str(filled.weights), base=str(base.parent)).outputs()[0].split()
    assert out == ["False", "True", "True"]


def test_threads_hold_independently(filled: Filled, base: Path) -> None:
    barrier = threading.Barrier(4)

    def work() -> None:
        with filled.cache.hold(filled.url):
            barrier.wait(10)
            assert len(leases(base)) == 4
            barrier.wait(10)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert leases(base) == []


# --- the commands -----------------------------------------------------------------------------------------------------


def test_the_commands(filled: Filled, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["pin", filled.url, "--note", "paper"]) == 0
    assert main(["ls"]) == 0
    assert "pinned" in capfd.readouterr().out
    assert main(["info", filled.url]) == 0
    assert "it is pinned: paper" in capfd.readouterr().out
    assert main(["rm", filled.url]) == 1
    assert "unpin" in capfd.readouterr().err
    assert main(["unpin", filled.url]) == 0
    assert main(["rm", filled.url]) == 0
    assert main(["rm", filled.url]) == 3
    assert not filled.weights.exists()


def test_a_cache_that_may_not_be_written_says_so(filled: Filled, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(filled.cache.store), "prepare", lambda self: False)
    for change in (Cache.pin, Cache.unpin, Cache.remove):
        with pytest.raises(PermissionError, match="may not change"):
            change(filled.cache, filled.url)
    with filled.cache.hold(filled.url):  # nothing there goes by this user's hand
        pass
    assert filled.weights.exists()
