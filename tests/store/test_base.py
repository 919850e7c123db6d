"""The base directory itself: what may stand in its place, and what is said of it."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.disk import folders
from tests.servers.origin import Origin


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("file", "a folder should be there, not a file"),
        ("fifo", "not a fifo"),
        ("socket", "not a device or socket"),
        ("dangling", r"not a symlink to nothing \(/nowhere/x\)"),
        ("loop", "not a symlink to nothing"),
        ("to-file", "not a symlink to a file"),
        ("file/below/it", "/file: a folder should be there, not a file"),
        ("dangling/below", "/dangling: a folder should be there"),
    ],
)
def test_what_stands_where_the_base_should_be_is_named_before_anything_is_asked_for(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path has at most 107 bytes
    Path("file").touch()
    os.mkfifo("fifo")
    for link, target in (("dangling", "/nowhere/x"), ("loop", "loop"), ("to-file", "file")):
        Path(link).symlink_to(target)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for call in (nanocache.fetch, lambda url, base_dir: _seeds_call(url, base_dir, monkeypatch)):
            with pytest.raises(nanocache.UnsafeCache, match=said):
                call(origin.url("/bytes/10/1/a.bin"), base_dir=tmp_path / base)
    assert not origin.requests()


def _seeds_call(url: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCACHE_DIR", str(base))
    nanocache.download_file_with_lock(url, "w.bin")


def test_a_base_directory_of_a_path_too_long_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="base_dir is a path of more than"):
        nanocache.Cache("/tmp/" + "x/" * 3000)


ASCII = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": "C"}


@pytest.mark.skipif(sys.platform != "linux", reason="macOS writes names in UTF-8 whatever the locale")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("nanocache.fetch(url + 'caf%C3%A9.bin')", r"filename 'caf\xe9.bin'"),
        ("nanocache.fetch(url + 'a.bin', filename='caf\\xe9.bin')", r"filename 'caf\xe9.bin'"),
        ("nanocache.fetch(url + 'a.bin', base_dir='/tmp/caf\\xe9')", r"base_dir '/tmp/caf\xe9'"),
        ("nanocache.download_file_with_lock(url + 'a.bin', 'caf\\xe9/a.bin')", r"filename 'caf\xe9/a.bin'"),
    ],
)
def test_a_name_that_the_file_systems_encoding_cannot_write_is_found_before_the_download(
    base: Path, origin: Origin, spawn: Any, call: str, said: str
) -> None:
    code = f"try: {call}\nexcept ValueError as e: print(e)"
    printed = spawn(code, url=origin.url("/bytes/10/1/"), env=ASCII).outputs()[0]
    assert printed.startswith(said)
    assert "ascii; set PYTHONUTF8=1" in printed
    assert not origin.requests()


def test_the_base_directory_may_be_the_root(tmp_path: Path) -> None:
    """In a container whose root is made for it."""
    if os.geteuid():
        pytest.skip("only root may change the root")
    child = os.fork()
    if child == 0:
        try:
            os.chroot(tmp_path)
            folders.make_folder("//a/b", below="/", mode=0o755, checked=set())
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "a/b").is_dir()
