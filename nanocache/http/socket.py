"""A TCP or TLS connection that another thread can end in whatever it is doing.

Plain sockets and the standard library's errors: no HTTP here. A blocked `connect`, handshake or `recv` looks at no
event, and waits for its whole timeout; shut down, its socket returns at once. Invariants: after `shutdown` nothing is
begun any more; only the look-up of a host's name cannot be ended, since the system's resolver has no way to.
"""

from __future__ import annotations

import errno
import select
import socket
import time
import weakref
from collections.abc import Callable
from typing import Any

from ..callers import let_pass, suppress

__all__ = ["CancellableSocket", "close_all"]

LONGEST_HOST_SHOWN = 100  # characters
RECORD = 1 << 14  # bytes, the most that TLS gives at once
READ = 1 << 18  # bytes asked of the socket at once: 64 KiB cost twice the CPU for each byte

_open: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def close_all() -> None:
    """In a forked child: let go of the parent's connections without a word to their servers."""
    for sock in list(_open):
        sock.close()  # only this process's descriptor: a TLS session is ended by a message, which close doesn't send


def _addresses(host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (
        ValueError,
        OverflowError,
    ) as e:  # the idna codec's UnicodeError, of a label that is empty or too long; the port
        let_pass(e)
        raise _impossible(host, port) from None


def _impossible(host: str | None, port: int | None = None) -> OSError:
    shown = (host or "")[:LONGEST_HOST_SHOWN]
    return OSError(errno.EINVAL, f"no server can be at {shown!r}{'' if port is None else f', port {port}'}")


class CancellableSocket:
    """One connection at a time, opened again as often as needed."""

    def __init__(self) -> None:
        self.dead = False
        self.waited = 0.0  # seconds in which there was nothing to read
        self._sock: Any = None
        self._pending: Callable[[], int] | None = None  # bytes that TLS has decrypted already
        self._buffer: memoryview | None = None

    def shutdown(self) -> None:
        """End what is going on and what is to come; any thread may call it."""
        self.dead = True
        if (sock := self._sock) is not None:
            with suppress(OSError):  # not connected yet, or not any more
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # past SSLSocket's own, which a reader must not meet

    def _adopt(self, sock: Any) -> None:
        self._sock = sock
        _open.add(sock)
        if self.dead:
            sock.close()
            raise ConnectionAbortedError(errno.ECONNABORTED, "called off")

    def connect(self, host: str, port: int, timeout: float) -> None:
        """Connect to the first address that answers; `timeout` is for all of them together. Raises OSError."""
        self._pending = None
        deadline = time.monotonic() + timeout
        error: OSError = OSError(errno.EADDRNOTAVAIL, "the host has no address")
        addresses = _addresses(host, port)
        for left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            sock = socket.socket(family, kind, protocol)
            try:
                self._adopt(sock)
                sock.settimeout(max(0.01, (deadline - time.monotonic()) / left))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return
            except OSError as e:
                sock.close()
                let_pass(e)
                error = e
        raise error

    def secure(self, context: Any, host: str | None, timeout: float | None) -> None:
        """Begin TLS. Raises OSError."""
        try:
            self._sock.settimeout(timeout)
            secured = context.wrap_socket(self._sock, server_hostname=host, do_handshake_on_connect=False)
            self._adopt(secured)  # before the handshake, since it took the descriptor over
            secured.do_handshake()
        except OSError:
            self.close()
            raise
        except ValueError as e:  # a name that begins with a dot, or that the idna codec refuses
            self.close()
            let_pass(e)
            raise _impossible(host) from None
        self._pending = secured.pending

    @property
    def secured(self) -> Any:
        """The SSLSocket, None without TLS."""
        return None if self._pending is None else self._sock

    def read(self, timeout: float | None) -> bytes:
        """What there is, at most READ bytes, or what comes first; nothing at the end. Raises OSError."""
        if self._sock.gettimeout() != timeout:
            self._sock.settimeout(timeout)
        idle_since = None if self.readable() else time.monotonic()
        data: bytes = self._sock.recv(READ) if self._pending is None else self._records()
        if idle_since is not None:
            self.waited += time.monotonic() - idle_since
        return data

    def _records(self) -> bytes:
        """What TLS has: one record at a time, and a read of httpcore's costs more than decrypting one."""
        self._buffer = self._buffer or memoryview(bytearray(READ))
        count = more = self._sock.recv_into(self._buffer)
        with suppress(OSError):  # it shows again when there is nothing else to give
            while more and count + RECORD <= READ and self.readable():
                more = self._sock.recv_into(self._buffer[count:])
                count += more
        return bytes(self._buffer[:count])

    def write(self, data: bytes, timeout: float | None) -> None:
        """Send all of it. Raises OSError."""
        if not data:
            return
        if self._sock.gettimeout() != timeout:
            self._sock.settimeout(timeout)
        self._sock.sendall(data)

    def readable(self) -> bool:
        """Whether a read would return at once: with bytes, or with the end."""
        if self._sock.fileno() < 0 or (self._pending is not None and self._pending()):
            return True
        if not hasattr(select, "poll"):  # eventlet takes it away, since it knows no green one
            return bool(select.select([self._sock], [], [], 0)[0])
        poll = select.poll()  # unlike select(2), it takes descriptors above 1,023
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
