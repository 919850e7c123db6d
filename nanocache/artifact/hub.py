"""Addresses of a Hugging Face Hub: hf://[datasets/|spaces/]OWNER/NAME[@REVISION][/PATH], as HfFileSystem writes them.

Not the Hub itself (`sources.hf`). Pure. Invariant: a URL, so percent-encoded; a revision with slashes is written
`refs%2Fpr%2F1`, and as the Hub's own client does also plain where it begins with refs/pr/ or refs/convert/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import quote, unquote

__all__ = ["HubAddress", "is_repository", "parse"]

Kind = Literal["models", "datasets", "spaces"]
KINDS: tuple[Kind, ...] = ("datasets", "spaces")  # a model's address has no kind before it

_FORM = "hf://[datasets/|spaces/]OWNER/NAME[@REVISION]/PATH"
_ADDRESS = re.compile(
    r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/@]+))?(?:/(?P<path>.*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A file of a repository, or with an empty path the repository."""

    kind: Kind
    repository: str  # OWNER/NAME
    revision: str | None  # None: the main branch
    path: str  # plain, not percent-encoded

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never moves."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    @property
    def url(self) -> str:
        revision = "" if self.revision is None else "@" + quote(self.revision, safe="")
        path = "/" + quote(self.path) if self.path else ""
        return f"hf://{self.prefix}{self.repository}{revision}{path}"

    @property
    def prefix(self) -> str:
        """What stands before the repository in the paths of the Hub's pages."""
        return "" if self.kind == "models" else f"{self.kind}/"

    def at(self, revision: str, path: str | None = None) -> HubAddress:
        """The same file, or the one at `path`, at another revision."""
        return replace(self, revision=revision, path=self.path if path is None else path)


def is_repository(url: str) -> bool:
    """Whether `url` names a whole repository of a Hub."""
    if not url.startswith("hf://"):
        return False
    try:
        parse(url, repository=True)
    except ValueError:
        return False
    return True


def parse(url: str, *, repository: bool = False) -> HubAddress:
    """What `url` names: a file, or with `repository` a whole one. Raises ValueError."""
    rest = url.partition("?")[0].partition("://")[2]
    kind: Kind = next((kind for kind in KINDS if rest.startswith(f"{kind}/")), "models")
    match = _ADDRESS.fullmatch(rest.removeprefix(f"{kind}/"))
    if match is None or "?" in url:
        raise ValueError(f"an address of the Hub is {_FORM}")
    path = unquote(match["path"] or "")
    if bool(path.strip("/")) == repository:
        meant = "a whole repository, which snapshot() takes" if not repository else "one file, which fetch() takes"
        raise ValueError(f"it names {meant}: an address of the Hub is {_FORM}")
    revision = match["revision"]
    return HubAddress(kind, f"{match['owner']}/{match['name']}", None if revision is None else unquote(revision), path)
