"""One call's request: the artifact, how it is to be had, and the environment as it was when the call was made.

Pure: it decides nothing about the disk or the network. Invariant: everything that can be wrong with a call is a
ValueError here, before any I/O.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

from .. import config
from ..config import Settings
from ..progress import ProgressOption
from . import arguments, hooks, remotes, urls
from .artifact import Artifact
from .hooks import Hook

__all__ = ["Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """What the engine works with."""

    artifact: Artifact
    name: str
    hook: Hook | None
    url_key: str
    settings: Settings
    rehash: bool
    max_age: float | None
    progress: ProgressOption
    began: float  # seconds since the epoch: what is fetched later is fresh, whatever `max_age` says

    @classmethod
    def of(
        cls,
        artifact: Artifact,
        *,
        rehash: bool = False,
        max_age: float | None = None,
        offline: bool | None = None,
        progress: ProgressOption = None,
    ) -> Request:
        """Check what was asked. Raises ValueError."""
        arguments.progress(progress)
        if max_age is not None:
            arguments.number("max_age", max_age, "seconds")
        if max_age is not None and artifact.sha256 is not None:
            raise ValueError(
                "max_age asks whether a URL's content changed, and sha256 says which it is: give one of them"
            )
        settings = Settings.read(offline=arguments.option("offline", offline))
        return cls(
            artifact=artifact,
            name=config.writable_name(artifact.name, "filename"),
            hook=None if artifact.postprocess is None else hooks.identify(artifact.postprocess),
            url_key=urls.url_key(artifact.url, artifact.headers),
            settings=settings._replace(remote=remotes.of_request(settings.remote, artifact.url)),
            rehash=arguments.flag("rehash", rehash),
            max_age=max_age,
            progress=config.progress() if progress is None else progress,
            began=time.time(),
        )

    def of_base_alone(self) -> Request:
        """The same where only what lies in the base directory itself will do."""
        return replace(self, settings=self.settings._replace(readonly_dirs=()))

    @property
    def identity(self) -> tuple[object, ...]:
        """Everything that decides whether another request's failure would have been this one's.

        The sources with their credentials, what the bytes are checked against (a page is refused for `w.bin` and taken
        for `w.html`), the limits of the environment, and the user, who has a quota.
        """
        artifact = self.artifact
        sources = artifact.url, artifact.mirrors, artifact.headers
        expected = artifact.sha256, artifact.size, self.name
        return *sources, *expected, *self.settings, self.rehash, self.max_age, os.geteuid()

    @property
    def shown_url(self) -> str:
        return urls.redact(self.artifact.url)

    def sources(self) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
        """(URL, headers) in the order to try; headers go to URLs of the artifact's own origin only."""
        first = urls.origin(self.artifact.url)
        return [
            (url, self.artifact.headers if urls.origin(url) == first else ())
            for url in (self.artifact.url, *self.artifact.mirrors)
        ]
