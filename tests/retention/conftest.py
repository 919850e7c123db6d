"""The cache with something of each kind in it is upkeep's."""

from tests.upkeep.conftest import filled, hub

__all__ = ["filled", "hub"]
