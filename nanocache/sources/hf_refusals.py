"""What a Hub's refusal means, and what to click or set.

Source: huggingface_hub, utils/_http.py: the header X-Error-Code says more than the status. Invariant: one line, and no
token in it.
"""

from __future__ import annotations

import os

from ..artifact.hub import HubAddress
from ..http.failure import Failure
from ..http.inquiry import Reply
from . import hf_environment as environment

__all__ = ["check"]


def check(reply: Reply, address: HubAddress) -> None:
    """Raise Failure unless the Hub answered what was asked."""
    if reply.status < 400:
        return
    code = reply.headers.get("x-error-code", "")
    reason, remedy = _meaning(reply.status, code, address)
    said = f" ({code})" if code else ""
    raise Failure(f"{reply.status}{said}: {reason}", lasting=True, status=reply.status, remedy=remedy)


def _meaning(status: int, code: str, address: HubAddress) -> tuple[str, str]:
    """(what it means, what to do)."""
    page = f"{environment.endpoint()}/{address.prefix}{address.repository}"
    if code == "GatedRepo":
        return "the repository is gated", f"accept its terms at {page}, logged in, and {_token()}"
    if code == "RevisionNotFound":
        return f"there is no revision {address.revision or 'main'}", f"look at {page}/branches"
    if code == "EntryNotFound":
        return f"there is no file {address.path} at this revision", f"look at {page}/tree/{address.revision or 'main'}"
    if code == "RepoNotFound" or status == 401:
        return (
            "there is no such repository, or it is private",
            f"look at {page}; if it is private, {_token()}",
        )
    if status == 403:
        return "the token may not read it", f"give it access to {page}, at {environment.endpoint()}/settings/tokens"
    return "the Hub refuses it", f"look at {page}"


def _token() -> str:
    if environment.token() is None:
        return f"set HF_TOKEN to a token of {environment.endpoint()}/settings/tokens"
    where = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "the token file"
    return f"let the token in {where} be of an account that may read it"
