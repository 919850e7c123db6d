"""hf://: a Hugging Face Hub, asked where a file of a repository is and what it is.

One HEAD, not followed off the Hub, gives the commit, the size, and the file's digest: SHA-256 for what LFS or Xet
keeps, git's SHA-1 for small files. The bytes come from where the Hub's answer points. After a listing no file of it is
asked about again. Source: huggingface_hub, file_download.py (headers), utils/_http.py (X-Error-Code).

Invariants: a branch is asked once a call, and the commit used from then on; the token goes to the Hub's origin and
nowhere else; what the Hub's own client has on this disk is taken from there, and checked like everything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from ..artifact import hub
from ..artifact.headers import Pairs
from ..artifact.hub import HubAddress
from ..artifact.urls import origin
from ..cancel import ambient
from ..http import inquiry
from ..http.failure import Failure, Offline
from ..http.inquiry import Reply
from . import hf_environment as environment
from . import hf_refusals
from .protocol import Listed, Listing, Resolved

__all__ = ["Hub", "source"]

MAIN = "main"
LARGEST_OVER_HTTP = 50_000_000_000  # bytes; the Hub gives larger files by Xet alone (huggingface_hub, constants.py)
MOST_LISTINGS = 8  # kept, so that their files need no HEAD each

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_NEXT = re.compile(r'<([^>]+)>;\s*rel="?next"?')


def source() -> Hub:
    return Hub()


class Hub:
    """The Hub that HF_ENDPOINT names, huggingface.co by default."""

    def __init__(self) -> None:
        self._listings: dict[str, dict[str, Listed]] = {}  # repository at a commit -> its files by path
        self._wrong: set[str] = set()  # files of the Hub's own client that did not hold what their names say

    # --- one file -----------------------------------------------------------------------------------------------------

    def resolve_with(self, url: str, headers: Pairs) -> Resolved:
        """Where the file of `url` is. Raises Failure, Offline."""
        address = hub.parse(url)
        _check_online()
        listed = self._listings.get(_repository(address), {}).get(address.path)
        found = self._ask(address, headers) if listed is None else self._as_listed(address, listed, headers)
        if found.size is not None and found.size > LARGEST_OVER_HTTP:
            raise Failure(
                f"it has {found.size:,} bytes, and above {LARGEST_OVER_HTTP:,} the Hub gives files by Xet alone",
                lasting=True,
                remedy="pip install 'nanocache[hf]', have `hf download` fetch it, and give its file:// URL",
            )
        return self._nearby(address, found)

    def _ask(self, address: HubAddress, headers: Pairs) -> Resolved:
        reply = inquiry.head(_file_url(address), _credentials(headers), ambient())
        hf_refusals.check(reply, address)
        commit = reply.headers.get("x-repo-commit")
        pinned = None if commit is None or not _SHA1.fullmatch(commit) else address.at(commit)
        etag = _bare(reply.headers.get("x-linked-etag") or reply.headers.get("etag"))
        is_linked = "x-linked-etag" in reply.headers
        there = reply.location or _file_url(pinned or address)
        return Resolved(
            there,
            _credentials(headers) if origin(there) == origin(_file_url(address)) else (),
            size=_size(reply),
            sha256=etag if is_linked and etag is not None and _SHA256.fullmatch(etag) else None,
            git_sha1=etag if pinned is not None and etag is not None and _SHA1.fullmatch(etag) else None,
            validator=etag,
            pinned=None if pinned is None else pinned.url,
        )

    def _as_listed(self, address: HubAddress, listed: Listed, headers: Pairs) -> Resolved:
        return Resolved(
            _file_url(address),
            _credentials(headers),
            size=listed.size,
            sha256=listed.sha256,
            git_sha1=listed.git_sha1,
            validator=listed.sha256 or listed.git_sha1,
            pinned=address.url,
        )

    # --- what the Hub's own client has here ---------------------------------------------------------------------------

    def _nearby(self, address: HubAddress, found: Resolved) -> Resolved:
        """`found`, or the same from the cache of the Hub's own client."""
        path = environment.cached_blob(address, found.sha256 or found.git_sha1, found.size)
        if path is None or path.as_uri() in self._wrong:
            return found
        return Resolved(
            path.as_uri(),
            size=found.size,
            sha256=found.sha256,
            git_sha1=found.git_sha1,
            validator=found.validator,
            pinned=found.pinned,
        )

    def distrust(self, resolved: Resolved) -> bool:
        """Whether there is another place to ask than `resolved`, which did not give the file."""
        if not resolved.url.startswith("file:"):
            return False
        self._wrong.add(resolved.url)
        return True

    # --- a whole repository -------------------------------------------------------------------------------------------

    def list(self, url: str) -> Listing:
        """The files of the repository that `url` names, at one commit. Raises Failure, Offline."""
        address = hub.parse(url, repository=True)
        _check_online()
        pinned = address if address.is_pinned else address.at(self._commit(address))
        return Listing(pinned.url, tuple(self._files(pinned)))

    def learn(self, listing: Listing) -> None:
        """Ask no more about the files of `listing`."""
        address = hub.parse(listing.pinned, repository=True)
        self._listings[_repository(address)] = {file.path: file for file in listing.files}
        while len(self._listings) > MOST_LISTINGS:
            del self._listings[next(iter(self._listings))]

    def _commit(self, address: HubAddress) -> str:
        revision = quote(address.revision or MAIN, safe="")
        reply = self._get(f"{_api(address)}/revision/{revision}", address)
        commit = _json(reply, dict).get("sha")
        if not isinstance(commit, str) or not _SHA1.fullmatch(commit):
            raise Failure("the Hub named no commit", lasting=True)
        return commit

    def _files(self, address: HubAddress) -> Iterator[Listed]:
        page: str | None = f"{_api(address)}/tree/{address.revision}?recursive=true&expand=false"
        while page is not None:
            reply = self._get(page, address)
            for entry in _json(reply, list):
                if isinstance(entry, dict) and entry.get("type") == "file":
                    yield _listed(entry)
            following = _NEXT.search(reply.headers.get("link", ""))
            page = None if following is None else following[1]
            if page is not None and origin(page) != origin(environment.endpoint()):
                raise Failure("the Hub's listing goes on at another host", lasting=True)

    def _get(self, url: str, address: HubAddress) -> Reply:
        reply = inquiry.get(url, _credentials(()), ambient())
        hf_refusals.check(reply, address)
        return reply


def _check_online() -> None:
    if environment.is_offline():
        raise Offline


def _file_url(address: HubAddress) -> str:
    revision = quote(address.revision or MAIN, safe="")
    return f"{environment.endpoint()}/{address.prefix}{address.repository}/resolve/{revision}/{quote(address.path)}"


def _api(address: HubAddress) -> str:
    return f"{environment.endpoint()}/api/{address.kind}/{address.repository}"


def _repository(address: HubAddress) -> str:
    return f"{environment.endpoint()} {address.at(address.revision or MAIN, '').url}"


def _credentials(headers: Pairs) -> Pairs:
    if any(name.lower() == "authorization" for name, _ in headers):
        return headers
    token = environment.token()
    return headers if token is None else (*headers, ("Authorization", f"Bearer {token}"))


def _bare(etag: str | None) -> str | None:
    return None if etag is None else etag.strip().removeprefix("W/").strip('"')


def _size(reply: Reply) -> int | None:
    text = reply.headers.get("x-linked-size") or ("" if reply.location else reply.headers.get("content-length", ""))
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _json(reply: Reply, kind: type) -> Any:
    try:
        value = json.loads(reply.body)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise Failure("the Hub's answer is not what its API gives", lasting=True)
    return value


def _listed(entry: dict[str, Any]) -> Listed:
    lfs = entry.get("lfs") or {}
    path, size, oid = entry.get("path"), lfs.get("size", entry.get("size")), lfs.get("oid")
    sha1 = entry.get("oid") if oid is None else None
    if not isinstance(path, str) or type(size) is not int or size < 0:
        raise Failure("the Hub's listing is not what its API gives", lasting=True)
    return Listed(path, size, _digest(oid, _SHA256), _digest(sha1, _SHA1))


def _digest(value: object, form: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and form.fullmatch(value) else None
