"""The network interface through which this host reaches the others, for gloo, which goes by the host's name.

On a node with hostNetwork, or Debian's 127.0.1.1, that name means loopback, and the peers are told to connect to
themselves. The address from which the store was reached is known to work. Linux only; elsewhere gloo's choice stands.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import struct
import sys

__all__ = ["choose_interface"]

logger = logging.getLogger("nanodist")

VARIABLE = "GLOO_SOCKET_IFNAME"
SIOCGIFADDR = 0x8915  # linux/sockios.h


def choose_interface(host: str) -> None:
    """Have gloo use the interface that reaches `host`, where this host's own name means loopback and `host` does not.

    An interface that was chosen already stays.
    """
    if sys.platform != "linux" or os.environ.get(VARIABLE) or not _is_loopback(_named()):
        return
    name = _interface_to(host)
    if name is not None:
        logger.info("this host's name means loopback; gloo uses %s, which reaches %s", name, host)
        os.environ[VARIABLE] = name


def _named() -> str | None:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None


def _is_loopback(address: str | None) -> bool:
    """Also of a name that means nothing: gloo falls back on loopback then."""
    return address is None or ipaddress.ip_address(address).is_loopback


def _interface_to(host: str) -> str | None:
    """The interface with the address from which this host sends to `host`; None for loopback, or if it is not known."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing
        except OSError:
            return None
        address = probe.getsockname()[0]
        if _is_loopback(address):
            return None
        return next((name for _, name in socket.if_nameindex() if _address_of(probe, name) == address), None)


def _address_of(probe: socket.socket, interface: str) -> str | None:
    import fcntl

    try:
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
    except OSError:  # an interface without an IPv4 address
        return None
    return socket.inet_ntoa(answer[20:24])
