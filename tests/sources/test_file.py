"""A `file:` URL: what lies on this machine, answered as a server would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import nanocache


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="no file here that has bytes and a size of 0")
def test_a_file_that_says_0_bytes_and_gives_some_is_read_to_its_end(fetch: Callable[..., Path], base: Path) -> None:
    """An empty blob was cached for it, as a success."""
    assert fetch("file:///proc/version").read_bytes() == Path("/proc/version").read_bytes()


def test_an_empty_file_is_empty_and_remembered(fetch: Callable[..., Path], base: Path, tmp_path: Path) -> None:
    (empty := tmp_path / "empty.txt").touch()
    path = fetch(empty.as_uri())
    assert path.read_bytes() == b""
    assert nanocache.lookup(empty.as_uri()) == path
