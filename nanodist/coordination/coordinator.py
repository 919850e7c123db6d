"""This process's one place at the store that the ranks of a job agree through, and how to wait on it.

None where there is no store (`store_address`), in a worker of a DataLoader and after a fork: locks alone coordinate. It
carries short texts, never an artifact's bytes. Invariants: a wait polls (`pauses`) and never blocks in torch, which
sees no signal before it ends (torchrun then kills after 30 s) and prints two warnings per time-out; a client is never
used on both sides of a fork, which gave wrong values; a lost store is one CoordinatorLost, and is asked nothing more.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CoordinatorLost
from ..launchers import is_spawned_worker
from ..rank import Topology, is_ddp_initialized, topology, warn_once
from .at_end import at_end
from .clock import process_age
from .connecting import connect
from .job import check_same_job
from .store_address import StoreAddress, address
from .store_client import ANSWER, StoreClient, torch_distributed

__all__ = ["Coordinator", "coordination", "is_no_rank", "joined", "may_serve", "name_job", "pauses", "prefix"]

logger = logging.getLogger("nanodist")

LINGER = 1.0  # seconds that the process which hosts the store stays for its readers; some of them may be dead
ENDING = 0.5  # seconds for what is under way at the end of the process
REFUSED_FOR = 2.0  # seconds of refused connections after which a caller that can do without the store does


class Coordinator(StoreClient):
    """This process's place at the store. Every method raises CoordinatorLost once the store is out of reach."""

    def __init__(self, where: StoreAddress, here: Topology, client: Any) -> None:
        super().__init__(str(where), client, prefix(here))
        self.where = where
        self.rank = here.rank
        self.world_size = here.world_size
        # A rank that was started anew by itself, as a pod is, finds what was said before it came.
        self._fenced = not _several_agents(here) and self.add(f"starts/{here.rank}", 1) == 1
        self.last_outcome: dict[str, str] = {}  # key -> nonce of the claim whose outcome this process had last
        self._job = ""
        self._pid = os.getpid()
        self._idle: list[Any] = []  # clients that torch built over

    @property
    def is_first_start(self) -> bool:
        """Whether this process is the first of its rank in this attempt, as far as that can be told."""
        return self._fenced

    def oldest(self) -> float:
        """Age in seconds up to which a value is of this attempt of the job, and not of one that died."""
        return float("inf") if self._fenced else process_age()

    @property
    def job(self) -> str:
        """32 hex digits that all ranks of this job have in common, and no other job has."""
        self._job = self._job or name_job(self)
        return self._job

    @contextmanager
    def under(self, prefix: str) -> Iterator[Any]:
        """The store under a further prefix, for what torch builds over one in the block.

        Through a client that has no other user meanwhile: torch blocks in it while it waits for a peer, and neither
        this process's signs of life nor another peer's connection must wait for that peer.
        """
        try:
            client = self._idle.pop()
        except IndexError:
            client = self.ask(self.store.clone)
        yield torch_distributed().PrefixStore(prefix, client)
        self._idle.append(client)  # unless the block raised: it may still be in use

    def leave(self) -> None:
        """Let go of the store; if this process hosts it, once its readers have read."""
        if os.getpid() != self._pid:
            return  # a forked child at its own end: it would garble the parent's connection
        try:
            if self.where.hosting:
                deadline = time.monotonic() + LINGER
                while self.add("following", 0) > 0 and time.monotonic() < deadline:
                    time.sleep(0.01)
        except CoordinatorLost:
            pass
        self.lost = self.lost or CoordinatorLost(address=str(self.where), reason="this process is ending")
        self.calls.end(ENDING)
        self.store = None
        self._idle.clear()


def pauses(world_size: int) -> Iterator[None]:
    """Sleep between two looks: a thousandth of the time waited so far, so that a wait is late by no more than that.

    At least half a millisecond, at most 5; longer in big worlds, so that all ranks together ask the store 50,000 times
    a second at most (8 us of its time each, measured).
    """
    begun = time.monotonic()
    shortest = max(0.0005, world_size * 0.00002)
    longest = max(0.005, shortest)
    while True:
        time.sleep(min(max((time.monotonic() - begun) / 1000, shortest), longest))
        yield


_lock = threading.Lock()
_place: Coordinator | None = None
_silent: tuple[StoreAddress | None, bool] | None = None  # what no store answered to; asked again once a group is there
_refused = False  # the store was not there: it may come, so that each call looks once more, without waiting
_forked = False


def coordination(*, patience: float = REFUSED_FOR) -> Coordinator | None:
    """This process's place at the store, taken at the first call; None where there is none, with one warning.

    `patience`: seconds that the process which serves the store has to begin, or that it may have ended already.
    """
    global _place, _silent
    if is_no_rank():
        return None
    with _lock:
        if _place is not None:
            return _place if _place.lost is None else None
        try:
            asked = (address(), is_ddp_initialized())
        except ValueError as e:
            warn_once(f"{e}; file locks alone coordinate")
            return None
        if _silent != asked:
            _place = _join(asked[0], 0.0 if _refused else patience)
            _silent = asked if _place is None and not _refused else None
        return _place


def may_serve() -> bool:
    """Whether this process is to serve the store of its job, and does not yet. Never loads torch."""
    if _place is not None or _silent is not None or is_no_rank():
        return False
    try:
        where = address()
    except ValueError:
        return False
    return where is not None and where.hosting


def joined() -> Coordinator | None:
    """This process's place at the store if it has one already; never takes one, never loads torch."""
    return None if _place is None or _place.lost is not None or is_no_rank() else _place


def _join(where: StoreAddress | None, patience: float) -> Coordinator | None:
    global _refused
    _refused = False
    if where is None:
        logger.warning(
            "the ranks of this job have no store to agree through, so that file locks alone coordinate; "
            "set MASTER_ADDR and MASTER_PORT to the host of rank 0 and a free port"
        )
        return None
    here = topology()
    try:
        client = connect(where, ANSWER, refused=patience)
        check_same_job(client, here, address=str(where), hosting=where.hosting, lasting=where.lasting)
        place = Coordinator(where, here, client)
    except CoordinatorLost as e:
        _refused = isinstance(e.__cause__, ConnectionRefusedError)
        warn_once(f"{e}; file locks alone coordinate")
        return None
    at_end(place.leave)
    return place


def _several_agents(here: Topology) -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and here.local_world_size != here.world_size


def name_job(client: StoreClient) -> str:
    """32 hex digits that all processes of the job at `client` have in common."""
    return client.compare_set("job", "", uuid.uuid4().hex)


def prefix(here: Topology) -> str:
    """Of this job's keys: it tells this start of the ranks from an earlier one, as far as the environment knows.

    The agent's store keeps the keys of dead attempts. One agent counts its restarts; several do not agree on the number
    (one said 0 and one 1 in the same generation), so there `oldest` decides what matters.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    count = "all" if _several_agents(here) else os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
    return f"nanodist/{run}/{count}"


def is_no_rank() -> bool:
    """Whether this process works for a rank: one forked of it, or a DataLoader's worker, or multiprocessing's."""
    return _forked or _in_worker()


def _in_worker() -> bool:
    if is_spawned_worker() and not is_ddp_initialized():  # one that joined a group is a rank, whoever started it
        return True
    data = sys.modules.get("torch.utils.data")
    return data is not None and data.get_worker_info() is not None


def _after_fork() -> None:
    global _lock, _forked
    _lock = threading.Lock()
    # A forked child of a rank that has a client is not a rank. A child of any other process may be: launchers fork too.
    _forked = _forked or _place is not None


os.register_at_fork(after_in_child=_after_fork)
