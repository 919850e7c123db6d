"""What the tests of sources share."""

from __future__ import annotations

from tests.download.downloads import slept

__all__ = ["slept"]
