"""build: what a function makes, once for all processes, complete or not there."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import PostprocessFailed

SCRIPT = """
import os, sys, time
from pathlib import Path
import nanocache

def make(dst):
    with open(sys.argv[1], "a") as log:
        log.write(f"{os.getpid()}\\n")
    assert not dst.exists()
    dst.mkdir()
    for n in range(20):
        (dst / f"{n}.o").write_text("x" * 1000)
        time.sleep(float(sys.argv[2]) / 20)
    if sys.argv[3] == "fails":
        raise ValueError("no compiler")

try:
    print(nanocache.build("kernel-v1", make, name="kernels"))
except nanocache.PostprocessFailed as e:
    print(type(e).__name__, e)
"""


def start(tmp_path: Path, seconds: float, how: str = "works") -> subprocess.Popen[str]:
    line = [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / "log"), str(seconds), how]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def builds(tmp_path: Path) -> int:
    return len((tmp_path / "log").read_text().split())


def write(text: str = "built", calls: list[Path] | None = None) -> Callable[[Path], None]:
    def make(dst: Path) -> None:
        if calls is not None:
            calls.append(dst)
        dst.write_text(text)

    return make


def test_it_is_built_once_and_found_afterwards(base: Path) -> None:
    calls: list[Path] = []
    path = nanocache.build("k", write(calls=calls), name="out.txt")
    assert (path.name, path.read_text()) == ("out.txt", "built")
    assert nanocache.build("k", write("another", calls), name="out.txt") == path
    assert len(calls) == 1
    assert calls[0].name == "out.txt"
    assert path.read_text() == "built"


def test_keys_and_names_tell_builds_apart(base: Path) -> None:
    paths = {nanocache.build(key, write(key + name), name=name) for key in ("a", "b") for name in ("x", "y")}
    assert sorted(path.read_text() for path in paths) == ["ax", "ay", "bx", "by"]


def test_eight_processes_build_once(base: Path, tmp_path: Path) -> None:
    running = [start(tmp_path, 1.0) for _ in range(8)]
    told = {process.communicate(timeout=60)[0].strip() for process in running}
    assert len(told) == 1
    assert len(list(Path(told.pop()).iterdir())) == 20
    assert builds(tmp_path) == 1


def test_a_failed_build_publishes_nothing_and_is_every_waiters_error(base: Path, tmp_path: Path) -> None:
    running = [start(tmp_path, 1.0, "fails") for _ in range(4)]
    told = [process.communicate(timeout=60)[0] for process in running]
    assert all("PostprocessFailed" in text and "no compiler" in text for text in told)
    assert builds(tmp_path) == 1
    assert not list(base.glob("products-v1/*/*/*"))
    text = start(tmp_path, 0.0).communicate(timeout=60)[0]
    assert text.strip().endswith("kernels")
    assert builds(tmp_path) == 2


def test_a_build_that_is_killed_shows_nothing_and_the_next_one_builds(base: Path, tmp_path: Path) -> None:
    victim = start(tmp_path, 10)
    deadline = time.monotonic() + 10
    while not list(base.glob("partials-v1/*/*/private/kernels/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=60)
    assert not list(base.glob("products-v1/*/*/*"))
    folder = Path(start(tmp_path, 0.0).communicate(timeout=60)[0].strip())
    assert len(list(folder.iterdir())) == 20


def test_what_was_purged_is_built_again(base: Path) -> None:
    def make(dst: Path) -> None:
        (dst / "sub").mkdir(parents=True)
        (dst / "sub" / "a").write_text("a")
        (dst / "b").write_text("b")

    folder = nanocache.build("k", make, name="tree")
    (folder / "sub" / "a").unlink()
    assert nanocache.build("k", make, name="tree") == folder
    assert (folder / "sub" / "a").read_text() == "a"


def test_the_threads_of_a_process_share_one_build(base: Path) -> None:
    calls: list[Path] = []

    def make(dst: Path) -> None:
        calls.append(dst)
        time.sleep(0.3)
        dst.write_text("x")

    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(nanocache.build("k", make, name="f"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == len(calls) == 1


def test_a_build_may_fetch_and_build(base: Path, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("source")

    def outer(dst: Path) -> None:
        fetched = nanocache.fetch((tmp_path / "source").as_uri())
        inner = nanocache.build("inner", write("inner"), name="i")
        dst.write_text(fetched.read_text() + inner.read_text())

    assert nanocache.build("outer", outer, name="o").read_text() == "sourceinner"


def test_a_build_that_makes_nothing_fails(base: Path) -> None:
    with pytest.raises(PostprocessFailed, match="built no file or folder"):
        nanocache.build("k", lambda dst: None, name="f")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"key": ""}, "key"),
        ({"key": 1}, "key"),
        ({"name": "a/b"}, "segment"),
        ({"name": ""}, "name a file"),
        ({"fn": "make"}, "fn"),
        ({"fn": Path}, "fn"),
    ],
)
def test_wrong_arguments_are_value_errors(base: Path, arguments: dict[str, Any], reason: str) -> None:
    given: dict[str, Any] = {"key": "k", "fn": write(), "name": "f"} | arguments
    with pytest.raises(ValueError, match=reason):
        nanocache.build(given["key"], given["fn"], name=given["name"])
    assert not list(base.iterdir())
