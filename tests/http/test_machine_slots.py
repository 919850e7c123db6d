"""Connections that all processes of a machine count together: one budget for each origin, freed with its holders."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanocache.cancel import Cancel
from nanocache.http import machine_slots, slots
from tests.servers.origin import MIB, Origin, Request

ORIGIN = ("http", "host", 80)

HOLD = """
import sys, time
from nanocache.http import machine_slots
machine_slots.IN_MEMORY = sys.argv[2]
held = [machine_slots.take(("http", "host", 80), 3) for _ in range(int(sys.argv[1]))]
print(sum(slot is not None for slot in held), flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setattr(machine_slots, "IN_MEMORY", str(tmp_path / "tmp"))
    monkeypatch.setattr(machine_slots, "_broken", False)
    return tmp_path / "tmp"


def hold(count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(count), machine_slots.IN_MEMORY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{min(count, 3)}\n"
    return process


def test_what_a_process_holds_no_other_can_have_until_it_dies() -> None:
    with hold(2) as process:
        mine = machine_slots.take(ORIGIN, 3)
        assert mine is not None
        assert machine_slots.take(ORIGIN, 3) is None
        assert machine_slots.take(("http", "host", 81), 3) is not None
        process.send_signal(signal.SIGKILL)
    two = [machine_slots.take(ORIGIN, 3) for _ in range(2)]
    assert None not in two
    mine.release()
    assert machine_slots.take(ORIGIN, 3) is not None


def test_forked_child_holds_nothing_of_its_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = machine_slots.take(ORIGIN, 1)
    assert mine is not None
    read, write = os.pipe()
    if not (pid := os.fork()):
        try:
            mine.release()  # as an unwinding child would: its parent's lock stays
            os.write(write, b"no" if machine_slots.take(ORIGIN, 1) is None else b"yes")
            time.sleep(60)
        finally:
            os._exit(0)
    try:
        assert os.read(read, 3) == b"no"
        mine.release()
        assert machine_slots.take(ORIGIN, 1) is not None
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("fault", ["no folder", "anybody's", "a link"])
def test_without_a_folder_of_its_own_each_process_has_its_share(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "no folder":
        monkeypatch.setattr(machine_slots, "IN_MEMORY", "/nonexistent")
    else:
        planted = own_folder / "elsewhere"
        planted.mkdir()
        if fault == "a link":
            (own_folder / f"nanocache-{os.getuid()}").symlink_to(planted)
        else:
            planted.chmod(0o777)
            planted.rename(own_folder / f"nanocache-{os.getuid()}")
    assert not machine_slots.are_there()
    assert slots.most(limit=2, budget=16) == 2
    with slots.slot(ORIGIN, limit=1, budget=16, cancel=Cancel()), pytest.raises(slots.Busy), one(patient=False):
        pass


def one(**options: Any) -> Any:
    return slots.slot(ORIGIN, limit=1, budget=3, cancel=Cancel(), **options)


def test_where_locks_do_not_work_each_process_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError("no locks")

    monkeypatch.setattr(machine_slots.fcntl, "flock", refuse)
    assert slots.most(limit=2, budget=16) == 16
    with one():
        assert slots.most(limit=2, budget=16) == 2


def test_process_without_a_connection_gets_one_whatever_others_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "LONGEST_SLOT_WAIT", 0.3)
    with hold(3) as process:
        began = time.monotonic()
        with one():
            assert 0.3 <= time.monotonic() - began < 10
            with pytest.raises(slots.Busy), one(patient=False):
                pass
        process.kill()


class Counting(Origin):
    """Counts what is under way."""

    now = most = 0
    guard = threading.Lock()

    def answer(self, connection: socket.socket, request: Request) -> bool:
        with self.guard:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return super().answer(connection, request)
        finally:
            with self.guard:
                self.now -= 1


def test_processes_that_download_share_one_budget(base: Path, spawn: Callable[..., Any]) -> None:
    with Counting() as origin:
        urls = [origin.url(f"/bytes/{MIB // 2}/{n}/f.bin?rate=2e6") for n in range(16)]
        code = "nanocache.fetch_many(urls[INDEX::4])"
        spawn(code, 4, urls=urls, env={"NANOCACHE_CONNECTIONS": "3"}).outputs()
        assert origin.gets() == 16
        assert origin.most == 3
