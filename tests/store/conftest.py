"""What the tests of the store share."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanocache.store.blobs import Store


@pytest.fixture
def store(base: Path) -> Store:
    """A store whose folders are made."""
    store = Store(str(base))
    assert store.prepare()
    return store
