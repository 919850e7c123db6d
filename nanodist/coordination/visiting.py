"""The job's store for a process that may be no rank: a DataLoader's worker has a client of its own.

Not a place at the store (`coordinator`): a visitor is not counted, leads nothing and gives no signs of life. Invariant:
the client of the process that it was forked from is never used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import CoordinatorLost
from ..rank import topology, warn_once
from .connecting import connect
from .coordinator import REFUSED_FOR, coordination, is_no_rank, name_job, prefix
from .job import check_same_job
from .store_address import StoreAddress, address
from .store_client import ANSWER, StoreClient

__all__ = ["JobStore", "visit"]


@dataclass(frozen=True, slots=True)
class JobStore:
    """The store, and what every process of the job knows of it."""

    client: StoreClient
    job: str  # 32 hex digits, see `Coordinator.job`
    host: str  # by which this process reaches it


def visit() -> JobStore | None:
    """The store of this process's job; None where there is none, with a warning."""
    try:
        return _by_a_client_of_its_own() if is_no_rank() else _by_the_place()
    except (CoordinatorLost, ValueError) as e:
        warn_once(f"{e}; file locks alone coordinate")
        return None


def _by_the_place() -> JobStore | None:
    place = coordination()
    return None if place is None else JobStore(place, place.job, place.where.host)


def _by_a_client_of_its_own() -> JobStore | None:
    where = address()
    if where is None:
        return None
    client = _connect(replace(where, hosting=False))  # it is served by the process that this one works for, if at all
    return JobStore(client, name_job(client), where.host)


def _connect(where: StoreAddress) -> StoreClient:
    here = topology()
    client = connect(where, ANSWER, refused=REFUSED_FOR)
    check_same_job(client, here, address=str(where), hosting=False, lasting=where.lasting)
    return StoreClient(str(where), client, prefix(here))
