"""One connection to the store of a job, within a time that a person can wait.

torch's own constructor hears no signal and prints while it tries, so the port is tried here first. Invariant: whatever
stands against it is one CoordinatorLost, which says what to set.
"""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from typing import Any

from ..errors import CoordinatorLost
from .store_address import StoreAddress
from .store_client import torch_distributed
from .torch_calls import TorchCalls

__all__ = ["connect"]

RESOLVER = 15.0  # seconds for torch to look a client's name up: a DNS server that is silent takes 5 or 10, no error


def connect(where: StoreAddress, timeout: float, *, refused: float | None = None) -> Any:
    """A new client of the store (and its server, where this process hosts it), within `timeout` seconds.

    `refused`: seconds after which a port at which nothing listens is given up, `timeout` by default. Waits for the
    server alone: `dist.rendezvous` would hold rank 0 until every rank has come. Raises CoordinatorLost.
    """
    called = time.monotonic()
    dist = torch_distributed()  # before the clock of `timeout` runs: to load it takes seconds, for rank 0 too
    began = time.monotonic()
    if not where.hosting:
        _reach(where, timeout, timeout if refused is None else _left(refused, began - called))
    patience = max(timeout, RESOLVER) if refused is None else _about_as_long(time.monotonic() - began)

    def make() -> Any:
        return dist.TCPStore(
            where.host,
            where.port,
            is_master=where.hosting,
            wait_for_workers=False,
            multi_tenant=True,  # a later init_process_group of this process finds this server at its port
            timeout=timedelta(seconds=patience),
        )

    try:
        return TorchCalls().call(patience, make)
    except TimeoutError:
        reason = f"it took a connection, and gave no answer within {patience:.0f} s"
    except RuntimeError as e:
        reason = _why_not(where, str(e).split("\n", 1)[0])
    raise CoordinatorLost(address=str(where), reason=reason)


def _left(refused: float, loading: float) -> float:
    """Seconds of `refused` that are left after those of loading torch: at least half, as rank 0 loads it too."""
    return max(refused / 2, refused - loading)


def _about_as_long(seconds: float) -> float:
    """Seconds that torch gets to connect where this process just did in so many: the store may have ended since."""
    return min(RESOLVER, max(3.0, 3 * seconds))


def _why_not(where: StoreAddress, said: str) -> str:
    if not where.hosting or "EADDRINUSE" not in said:
        return said
    return (
        f"rank 0 cannot serve the store, because another process has port {where.port} (another job, or what is left "
        f"of this one?); set MASTER_PORT to a free port on all ranks"
    )


def _reach(where: StoreAddress, timeout: float, refused: float) -> None:
    # Here and not inside torch's constructor, which no signal interrupts while it tries.
    began = time.monotonic()
    while True:
        try:
            socket.create_connection((where.host, where.port), timeout=1).close()
            return
        except OSError as e:
            absent = isinstance(e, ConnectionRefusedError)
            if time.monotonic() - began > (refused if absent else timeout):
                # The same words at every look, so that they are logged once.
                reason = f"rank 0 serves no store there ({e})" if absent else f"no answer within {timeout:g} s ({e})"
                raise CoordinatorLost(address=str(where), reason=reason) from e
        time.sleep(0.05)
