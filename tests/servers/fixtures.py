"""nginx as a fixture: a second opinion on ranges and If-Range."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.nginx import Nginx

__all__ = ["Nginx", "nginx"]


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    if shutil.which("nginx") is None:
        pytest.skip("no nginx on the PATH: its opinion on ranges and If-Range is not heard")
    with Nginx(tmp_path / "nginx") as server:
        yield server
