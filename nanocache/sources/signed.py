"""What a signer gives: an object's address for a while, with what must be sent beside it.

What signs stands in modules of its own, each the only one that knows its library: `by_botocore`, `by_obstore`,
`by_google`. Invariant: what is signed here is one request, for one object.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from ..artifact.headers import Pairs
from ..http.failure import Failure
from .protocol import Resolved

__all__ = ["LIFE", "Method", "Signed", "missing"]

Method = Literal["GET", "HEAD", "PUT"]

LIFE = 3600  # seconds that an address is asked to be good for; session tokens live as long at least, as a rule


@dataclass(frozen=True, slots=True)
class Signed:
    """`headers` were signed, so they must be sent. Without credentials it is the object's plain address."""

    url: str
    headers: Pairs = ()
    is_signed: bool = True
    expires: float | None = None  # seconds since the epoch; None: a signature of ours, which lasts as LIFE says

    def resolved(self, headers: Pairs, version: str | None) -> Resolved:
        """`headers`: to be sent as well. An object's `version` is one for ever."""
        return Resolved(
            self.url,
            (*self.headers, *headers),
            validator=version,
            condition="if-match",
            expires=(self.expires or time.time() + LIFE) if self.is_signed else None,
            as_stored=True,
        )


def missing(scheme: str, packages: str) -> Failure:
    return Failure(
        f"{scheme}:// needs {packages}, which is not installed",
        lasting=True,
        remedy=f"pip install 'nanocache[{scheme}]'",
    )
