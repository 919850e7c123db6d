"""The base directory itself: what may stand in its place, and what is said of it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import nanocache
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
