"""What the environment says of reaching servers: the proxy, and the trusted certificates.

The variables and the rules are those of httpx, curl and requests: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY in
either case, SSL_CERT_FILE, SSL_CERT_DIR. Read at every request, since programs change them; worked out once a value.
"""

from __future__ import annotations

import functools
import os

__all__ = ["certificates", "proxy"]

PROXY_VARIABLES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]
PROXY_VARIABLES += [*map(str.upper, PROXY_VARIABLES), "REQUEST_METHOD"]  # a CGI's HTTP_PROXY is a client's header


def proxy(scheme: str, host: str, port: int) -> str | None:
    """The URL of the proxy for an origin, None if it is to be reached directly."""
    return _proxy(scheme, host, port, *map(os.environ.get, PROXY_VARIABLES))


@functools.lru_cache(maxsize=64)
def _proxy(scheme: str, host: str, port: int, *_: str | None) -> str | None:
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()  # looks at every variable there is, which took a tenth of a small artifact's time
    found = proxies.get(scheme) or proxies.get("all")
    if not found or proxy_bypass(f"{host}:{port}"):
        return None
    return found if "://" in found else f"http://{found}"


def certificates() -> tuple[str | None, str | None]:
    """(file, folder) of the certificates to trust; None where the environment names none."""
    return os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
