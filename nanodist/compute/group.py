"""compute_init and compute_cleanup: seed, precision, device and process group of one rank, and the way back.

No barrier after init: it costs a collective and proves nothing that the first real one does not. Invariants: the device
is bound before any collective; a group is made over keys that no earlier attempt of the job has touched, because torch
2.13's elastic restart leaves the dead attempt's addresses in the store, and `init_process_group("gloo")` connects to
them (0 of 6 restarts came up, with keys of their own 6 of 6). NCCL, XCCL, MPS and XLA are tested with fakes only.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from ..coordination.at_end import at_end
from ..coordination.connecting import connect
from ..coordination.coordinator import pauses
from ..coordination.interface import choose_interface
from ..coordination.job import check_same_job
from ..coordination.store_address import address
from ..coordination.store_client import StoreClient, torch_distributed
from ..errors import CoordinatorLost
from ..rank import Topology, initialized_group, topology
from .device import autodetect_device_type, local_device, resolve, set_tf32
from .seeds import seed_all

if TYPE_CHECKING:
    import torch

__all__ = ["Compute", "compute_cleanup", "compute_init"]

logger = logging.getLogger("nanodist")

SEED = 42
LATE_RANK = 5.0  # seconds that a rank which is done waits for one that still connects
GATHERING = 1800.0  # seconds that the ranks have to come, unless the caller says otherwise: as long as torch gives gloo


class Compute(NamedTuple):
    """What `compute_init` returns."""

    ddp: bool
    rank: int
    local_rank: int
    world_size: int
    device: torch.device


def compute_init(device_type: str | None = None, *, seed: int = SEED, timeout: float | None = None) -> Compute:
    """Make this rank ready to compute: `(ddp, rank, local_rank, world_size, device)`.

    `device_type`: "cuda", "cpu", "mps", "xpu"...; None picks (`autodetect_device_type`). Seeds all ranks alike, lets
    float32 products use TF32 on CUDA, binds the device, and, under a launcher, makes the process group: NCCL for CUDA,
    gloo for the CPU, the registered backend elsewhere. A group that is there already is used. `timeout`: seconds that
    the ranks have to come, and the group's own; None: 1,800 to come, and torch's own for the group (600 for NCCL).

    Raises ValueError for a device that is not there (saying what is), for a broken environment (`topology`), and
    CoordinatorLost if no store answers or ranks are missing (naming them).
    """
    name = autodetect_device_type() if device_type is None else resolve(device_type)
    here = topology()
    seed_all(seed)
    if name == "cuda":
        set_tf32()
    device = local_device(name, here)
    if here.distributed and initialized_group() is None:
        _init_group(here, device, timeout)
    if here.rank == 0:
        logger.info("world size: %d, device: %s", here.world_size, device)
    return Compute(here.distributed, here.rank, here.local_rank or 0, here.world_size, device)


def compute_cleanup() -> None:
    """Destroy the process group, if there is one. May be called twice, and at exit."""
    global _meeting
    if (dist := initialized_group()) is not None:
        if _meeting is not None:
            _meeting.wait_for_all()
        dist.destroy_process_group()
    _meeting = None


class _Meeting:
    """How many ranks have their group. One that destroys it at once would fail those that still connect to it."""

    def __init__(self, words: StoreClient, world_size: int) -> None:
        self._words = words
        self._world_size = world_size
        self._pid = os.getpid()
        words.add("up", 1)

    def wait_for_all(self) -> None:
        """Return once all ranks have their group, or after `LATE_RANK` seconds: a rank may be dead."""
        deadline = time.monotonic() + LATE_RANK
        try:
            while os.getpid() == self._pid and self._words.add("up", 0) < self._world_size:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)
        except CoordinatorLost:  # rank 0 served the store, and has ended: it had waited for all
            pass


_meeting: _Meeting | None = None  # of the group that compute_init made


def _init_group(here: Topology, device: torch.device, timeout: float | None) -> None:
    dist = torch_distributed()
    if device.type == "xla":
        import torch_xla.distributed.xla_backend  # type: ignore[import-not-found,unused-ignore]  # noqa: F401

        dist.init_process_group("xla", init_method="xla://")
        return
    backend = dist.Backend.default_device_backend_map.get(device.type, "gloo")
    global _meeting
    where = address()
    if backend == "gloo" and where is not None:
        choose_interface(where.host)
    store = _fresh_store(here, GATHERING if timeout is None else timeout)
    try:
        dist.init_process_group(
            backend,
            store=store,
            rank=here.rank,
            world_size=here.world_size,
            timeout=None if timeout is None else timedelta(seconds=timeout),
            # Binds NCCL's communicator to the device at once, and every barrier with it; gloo takes no device.
            device_id=device if backend != "gloo" else None,
        )
    except RuntimeError as e:  # torch's DistError: a rank left, or cannot be reached at the address that it gave
        reason = f"the ranks met, and their {backend} group did not come up ({_first_line(e)}){_remedy(backend)}"
        raise CoordinatorLost(address=str(address()), reason=reason) from e
    if isinstance(store, dist.Store):
        _meeting = _Meeting(StoreClient(str(address()), store, "nanodist"), here.world_size)
    if backend == "gloo":
        # A process that ends with its group up, by an exception or a forgotten cleanup, was seen to abort in gloo's
        # threads (SIGABRT in 1 of 5 runs); ending a gloo group asks no other rank.
        at_end(compute_cleanup)


def _remedy(backend: str) -> str:
    if backend != "gloo":
        return ""
    return "; if a rank is alive and out of reach, set GLOO_SOCKET_IFNAME to the interface that reaches MASTER_ADDR"


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _fresh_store(here: Topology, timeout: float) -> Any:
    """A client for the group's own use, under a prefix that only the ranks of this attempt share."""
    dist = torch_distributed()
    where = address()
    if where is None:
        raise CoordinatorLost(
            address="MASTER_ADDR:MASTER_PORT",
            reason=f"{here.launcher} started {here.world_size} ranks and neither is set; set them to the host of "
            f"rank 0 (under SLURM: scontrol show hostnames | head -n 1) and a free port",
        )
    deadline = time.monotonic() + timeout
    client = connect(where, timeout)
    check_same_job(client, here, address=str(where), hosting=where.hosting, lasting=where.lasting)
    attempts = StoreClient(str(where), client, "nanodist/attempts")
    session = _greet(attempts, here, deadline) if here.rank == 0 else _call(attempts, here, deadline)
    return dist.PrefixStore(f"nanodist/group/{session}", client)


def _call(attempts: StoreClient, here: Topology, deadline: float) -> str:
    """The session that rank 0 answers with. A fresh nonce can hold no dead attempt's answer."""
    nonce = uuid.uuid4().hex
    attempts.set(f"call/{attempts.add('calls', 1)}", f"{here.rank} {nonce}")
    if not _until(lambda: attempts.check(f"answer/{nonce}"), here, deadline):
        raise CoordinatorLost(address=str(address()), reason="rank 0 did not come")
    session = attempts.get(f"answer/{nonce}")
    if attempts.add(f"{session}/here/{here.rank}", 1) > 1:
        reason = (
            f"another process is rank {here.rank} of its group already; give each job a MASTER_PORT of its own, and "
            f"start all ranks of a job again"
        )
        raise CoordinatorLost(address=str(address()), reason=reason)
    attempts.add(f"{session}/here", 1)
    return session


def _greet(attempts: StoreClient, here: Topology, deadline: float) -> str:
    """Answer every call, those of dead attempts too, until all ranks of this one have read theirs."""
    session = uuid.uuid4().hex
    waiting: set[int] = set()  # calls that were announced and not read yet; a rank may die between the two
    highest = 0
    called: set[int] = set()

    def all_here() -> bool:
        nonlocal highest
        count = attempts.add("calls", 0)
        waiting.update(range(highest + 1, count + 1))
        highest = count
        for number in [n for n in waiting if attempts.check(f"call/{n}")]:
            rank, nonce = attempts.get(f"call/{number}").split()
            attempts.set(f"answer/{nonce}", session)
            waiting.discard(number)
            called.add(int(rank))
        return bool(attempts.add(f"{session}/here", 0) == here.world_size - 1)

    if not _until(all_here, here, deadline):
        missing = sorted(set(range(1, here.world_size)) - called)
        raise CoordinatorLost(address=str(address()), reason=f"these ranks did not come: {missing or 'unknown'}")
    return session


def _until(done: Callable[[], bool], here: Topology, deadline: float) -> bool:
    for _ in pauses(here.world_size):
        if done():
            return True
        if time.monotonic() > deadline:
            return False
    raise AssertionError("pauses never end")
