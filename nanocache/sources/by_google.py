"""A token of Google's, by google-auth: it reads every form of Google credentials, those of a person among them.

The only module that knows google-auth. The token goes into a header, so a request with it may name a generation, which
a signed address may not. Invariants: a forked child makes credentials of its own; a changed variable or file is seen by
the next call.
"""

from __future__ import annotations

import os
from datetime import UTC
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

from ..cancel import ambient
from ..http.failure import Failure
from .aside import one_aside

__all__ = ["is_installed", "token"]

LONGEST_TOKEN = 60.0  # seconds, for a server of Google's that gives tokens
SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
PREFIXES = ("GOOGLE_", "CLOUDSDK_", "GCE_", "GCLOUD_")  # of the variables that google-auth reads
PERSONS_FILE = "~/.config/gcloud/application_default_credentials.json"


def is_installed() -> bool:
    return all(map(find_spec, ("google", "requests"))) and find_spec("google.auth") is not None


def token() -> tuple[str, float | None] | None:
    """(a token, until when in seconds since the epoch); None where there are no credentials. Raises Failure."""
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.auth.transport.requests import Request

    credentials = one_aside(partial(_credentials, _environment(), os.getpid()), ambient(), LONGEST_TOKEN)
    if credentials is None:
        return None
    try:
        if not credentials.valid:
            one_aside(partial(credentials.refresh, Request()), ambient(), LONGEST_TOKEN)
    except GoogleAuthError as e:
        reason = f"google-auth gets no token ({type(e).__name__})"  # its text quotes the answer
        remedy = "gcloud auth application-default login, or look at GOOGLE_APPLICATION_CREDENTIALS"
        raise Failure(reason, lasting=not (e.retryable or isinstance(e, TransportError)), remedy=remedy) from None
    expiry = credentials.expiry
    return credentials.token, None if expiry is None else expiry.replace(tzinfo=UTC).timestamp()


def _environment() -> tuple[object, ...]:
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith(PREFIXES))
    path = os.path.expanduser(os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", PERSONS_FILE))
    try:
        st = os.stat(path)
    except OSError:
        return (*variables,)
    return (*variables, st.st_size, st.st_mtime_ns)


@lru_cache(maxsize=4)
def _credentials(environment: tuple[object, ...], process: int) -> Any:
    """None where there are none: off Google's machines it takes seconds to find that out."""
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except DefaultCredentialsError as e:
        if "GOOGLE_APPLICATION_CREDENTIALS" in os.environ:
            said = "GOOGLE_APPLICATION_CREDENTIALS names no credentials"
            raise Failure(f"{said} ({type(e).__name__})", lasting=True) from None
        return None
    return credentials
