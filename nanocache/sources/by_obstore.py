"""Addresses that obstore signs: one small package for S3, Google and Azure. It runs in a process of its own.

Because obstore starts threads that never end: a fork beside them warns, and a forked child cannot use them. The child
(`obstore_child`) takes 25 ms. Not for headers or versions, which obstore cannot sign. Invariants: credentials pass by
the environment, and by a pipe where a connection string had them; no text of obstore's is shown, which may hold them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

from ..artifact.buckets import BucketAddress
from ..cancel import ambient
from ..http.failure import Failure
from . import signed
from .signed import Method, Signed

__all__ = ["is_installed", "sign"]

CHILD = Path(__file__).with_name("obstore_child.py")
REMEDIES = {
    "s3": "look at the AWS_ variables; where botocore is installed, profiles and SSO are read",
    "gs": "look at GOOGLE_APPLICATION_CREDENTIALS; where google-auth is installed, a person's own login is read",
    "az": "look at the AZURE_ variables",
}
ANONYMOUS_FOR = 300.0  # seconds; asking the machine for credentials that it does not have takes seconds

_anonymous: dict[tuple[object, ...], float] = {}  # what had no credentials -> until when (monotonic seconds)


def is_installed() -> bool:
    return find_spec("obstore") is not None


def sign(address: BucketAddress, options: dict[str, str], method: Method = "GET") -> Signed:
    """Where the object can be asked for by `method`, for the next hour; the plain address without credentials.

    `options`: of obstore's store. Raises Failure, Cancelled.
    """
    if any(segment in ("", ".", "..") for segment in address.key.split("/")):
        raise Failure("obstore signs no key with an empty segment, . or .. in it", lasting=True)
    kind = (address.scheme, *sorted(options.items()))
    is_known = _anonymous.get(kind, 0.0) > time.monotonic()
    told = _ask(
        {
            "scheme": address.scheme,
            "method": method,
            "bucket": address.bucket,
            "key": address.key,
            "seconds": signed.LIFE,
            "options": options,
            "anonymous": is_known,
        }
    )
    if not told["signed"] and not is_known:
        _anonymous[kind] = time.monotonic() + ANONYMOUS_FOR
    return Signed(told["url"], is_signed=told["signed"])


def _ask(question: dict[str, Any]) -> dict[str, Any]:
    if getattr(sys, "frozen", False):  # the executable is the application, which would start once more
        raise Failure("obstore signs in a process of Python, and this is a frozen application", lasting=True)
    # -P: the folder of the script is not for imports, where its `file` and `signed` would be found.
    command = [sys.executable, "-P", str(CHILD)]
    with (
        subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as child,
        ambient().watch(child.kill),
    ):
        try:
            out, _ = child.communicate(json.dumps(question).encode())
        except BaseException:  # Ctrl-C: its end would be waited for
            child.kill()
            raise
    ambient().check()
    return _answer(out, question["scheme"])


def _answer(out: bytes, scheme: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(out)
    except ValueError:
        raise Failure("obstore ended without an answer", lasting=True) from None
    if "url" not in told:
        raise Failure(f"obstore cannot sign ({told['error']})", lasting=not told["may_pass"], remedy=REMEDIES[scheme])
    return told
