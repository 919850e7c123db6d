"""What the environment says of reaching servers: the proxy, and the trusted certificates.

The variables and the rules are those of httpx, curl and requests: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY in
either case, SSL_CERT_FILE, SSL_CERT_DIR. Read at every request, since programs change them; worked out once a value.
"""

from __future__ import annotations

import functools
import os
import re
from typing import NamedTuple

__all__ = ["Proxy", "certificates", "proxy"]

_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d+)?")
PROXY_VARIABLES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]
PROXY_VARIABLES += [*map(str.upper, PROXY_VARIABLES), "REQUEST_METHOD"]  # a CGI's HTTP_PROXY is a client's header


class Proxy(NamedTuple):
    """A proxy, and the variable that names it. As text it shows no password."""

    url: str
    variable: str

    def __str__(self) -> str:
        return f"the proxy {_place(self.url)} ({self.variable})"

    @property
    def remedy(self) -> str:
        return f"set {self.variable} right, unset it, or name the host in no_proxy"

    @property
    def login(self) -> str:
        return f"write user:password@ before the host in {self.variable}"


def _place(url: str) -> str:
    """Scheme, host and port, where they can be told from a password, which may have a / or a # in it."""
    scheme, _, rest = url.partition("://")
    authority = re.split("[/?#]", rest)[0].rpartition("@")[2]
    known = "@" not in rest[rest.find(authority) + len(authority) :] and _AUTHORITY.fullmatch(authority)
    return f"{scheme if scheme.isalnum() else '...'}://{authority if known else '...'}"


def proxy(scheme: str, host: str, port: int) -> Proxy | None:
    """The proxy for an origin, None if it is to be reached directly."""
    return _proxy(scheme, host, port, *map(os.environ.get, PROXY_VARIABLES))


@functools.lru_cache(maxsize=64)
def _proxy(scheme: str, host: str, port: int, *_: str | None) -> Proxy | None:
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()  # looks at every variable there is, which took a tenth of a small artifact's time
    key = scheme if proxies.get(scheme) else "all"
    found = proxies.get(key)
    if not found or proxy_bypass(f"{host}:{port}"):
        return None
    return Proxy(found if "://" in found else f"http://{found}", _variable(f"{key}_proxy"))


def _variable(name: str) -> str:
    names = [name, name.upper(), *os.environ]
    return next((each for each in names if each.lower() == name and os.environ.get(each)), "the system's settings")


def certificates() -> tuple[str | None, str | None]:
    """(file, folder) of the certificates to trust; None where the environment names none."""
    return os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
