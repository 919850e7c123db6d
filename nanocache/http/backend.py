"""What httpcore meets below it: a network that can be called off and that counts, names for its failures, quiet logs.

Not an exchange (`exchange`) and not a socket (`socket`). Invariants: what fails is a Failure in words of this library,
since those of h11 and of a proxy quote what a server sent; no line of httpcore's log about such an exchange holds a
value.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..callers import let_pass
from ..cancel import Cancel
from .environment import Proxy
from .failure import Failure, Pace
from .socket import READ, CancellableSocket

__all__ = ["CONNECT_TIMEOUT", "LONGEST_HEAD", "Network", "failures", "quiet", "without_values"]

CONNECT_TIMEOUT = 10.0  # seconds for all addresses of a host together; less if the timeout is
LONGEST_HEAD = 2 * READ  # bytes until the head is whole; h11 bounds each head, but not how many 1xx come before it


class Network:
    """How httpcore reaches the network: its backend and its stream in one, since there is one connection at a time.

    Not derived from httpcore's classes, which would import it with this module.
    """

    def __init__(self) -> None:
        self.socket = CancellableSocket()
        self.pace = Pace()
        self.head: int | None = None  # bytes that the head may still have, while it comes

    def begin(self) -> None:
        self.pace = Pace()
        self.socket.waited = 0.0

    def waited(self) -> float:
        """Seconds of this exchange in which the socket had nothing to read."""
        return self.socket.waited

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, *_: Any, **__: Any) -> Network:
        with _errors("Connect"):
            self.socket.connect(host, port, timeout or CONNECT_TIMEOUT)
        return self

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        if (outer := self.socket.secured) is not None:  # https through a proxy that itself speaks https
            from httpcore._backends.sync import TLSinTLSStream

            return TLSinTLSStream(outer, ssl_context, server_hostname, timeout)
        with _errors("Connect"):
            self.socket.secure(ssl_context, server_hostname, timeout)
        return self

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _errors("Read"):
            data = self.socket.read(timeout)
        self.pace.check(len(data))
        if self.head is not None:
            self._count_head(len(data), self.head)
        return data

    def _count_head(self, received: int, allowed: int) -> None:
        import httpcore

        self.head = allowed - received
        if self.head < 0:
            raise httpcore.RemoteProtocolError("the head has no end")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _errors("Write"):
            self.socket.write(buffer, timeout)

    def close(self) -> None:
        self.socket.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self.socket.readable()
        return self.socket.secured if info == "ssl_object" else None


@contextmanager
def _errors(phase: str) -> Iterator[None]:
    """What the socket raises in the block, as httpcore's error of this phase.

    The error is the argument, since httpcore drops causes.
    """
    try:
        yield
    except OSError as e:
        import httpcore

        let_pass(e)
        kind = "Timeout" if isinstance(e, TimeoutError) else "Error"
        raise getattr(httpcore, phase + kind)(e) from e


# --- failures --------------------------------------------------------------------------------------------------------


@contextmanager
def failures(cancel: Cancel, timeout: float, proxy: Proxy | None) -> Iterator[None]:
    """What httpcore raises in the block is a Failure, which names the proxy of the exchange."""
    import httpcore

    try:
        yield
    except httpcore.ProxyError as e:
        cancel.check()
        raise _refused(proxy, str(e)) from None
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as e:
        let_pass(e.__context__ or e)  # TLS within TLS is httpcore's own, and knows no caller
        cancel.check()  # a socket that was shut down fails in one of these ways
        raise _through(proxy, _failure(e, timeout)) from None


def _through(proxy: Proxy | None, failure: Failure) -> Failure:
    """The same failure, with the proxy in its reason and, where there is no other, in its remedy."""
    if proxy is not None:
        failure.reason += f", through {proxy}"
        failure.remedy = failure.remedy or proxy.remedy
    return failure


def _refused(proxy: Proxy | None, text: str) -> Failure:
    """What a proxy's refusal becomes. `text`: a status, and a reason in the proxy's words, which may hold a secret."""
    status = text[:3] if text[:3].isdigit() else text
    remedy = "" if proxy is None else proxy.login if status == "407" else proxy.remedy
    return Failure(f"{proxy} refused: {status}", lasting=status.startswith("4"), remedy=remedy)


def _failure(e: Exception, timeout: float) -> Failure:
    import ssl

    import httpcore

    match e:
        case httpcore.ConnectTimeout():
            return Failure(f"no connection within {min(CONNECT_TIMEOUT, timeout):g} s")
        case httpcore.TimeoutException():
            return Failure(f"not a byte for {timeout:g} s")
        case httpcore.ConnectError(args=(ssl.SSLCertVerificationError(verify_message=reason),)):
            remedy = "if it should be, let SSL_CERT_FILE name a file with its authority"
            return Failure(f"its certificate is not trusted: {reason}; {remedy}", lasting=True)
        case httpcore.ConnectError(args=(OSError(errno=errno.EINVAL, strerror=reason),)):
            return Failure(f"cannot connect: {reason}", lasting=True)
        case httpcore.ConnectError():
            return Failure(f"cannot connect: {e}")
        case httpcore.NetworkError():
            return Failure(f"the connection broke: {e}")
        case httpcore.LocalProtocolError():
            return Failure("a header of the request is not valid", lasting=True)  # h11's own text holds its value
        case _:
            return Failure(_broken_off(str(e)))


def _broken_off(text: str) -> str:
    # h11's texts quote what the server sent, a Location perhaps.
    if "closed" in text or "disconnected" in text:
        return "the connection ended before the answer was complete"
    return "the answer is not valid HTTP"


# --- what httpcore logs -----------------------------------------------------------------------------------------------

_ours = threading.local()


class _Quiet:
    # At DEBUG httpcore prints the answer's headers: a Location with its signature, a Set-Cookie; and h11's errors,
    # which quote a malformed header, sent or received. Only lines about this library's exchanges are cut, since the
    # application may use the same logger.

    def __enter__(self) -> None:
        _ours.active = True

    def __exit__(self, *_: object) -> None:
        _ours.active = False


quiet = _Quiet()  # within it this thread's lines are cut


def without_values(record: logging.LogRecord) -> bool:
    if getattr(_ours, "active", False):
        record.msg = str(record.msg).split(" return_value=")[0].split(" exception=")[0]
    return True
