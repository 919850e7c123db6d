"""Which process still lives, as far as this one can tell."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest

from nanocache.coordination import process
from nanocache.coordination.process import me


def test_a_process_that_ended_is_dead_and_one_that_took_its_pid_is_another() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pid = ended.pid
    assert dataclasses.replace(me(), pid=pid).alive is False
    assert me().alive is True
    assert dataclasses.replace(me(), start="1").alive is False


def test_a_process_of_another_user_that_the_kernel_hides_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """hidepid=2: kill(2) says EPERM, and /proc shows nothing. Taken for dead, its lock was given up after 5 s."""

    def refuse(pid: int, sent: int) -> None:
        raise PermissionError

    other = dataclasses.replace(me(), pid=os.getppid())
    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(process, "_read", lambda path: "")
    assert other.alive is None
