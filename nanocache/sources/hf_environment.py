"""What the environment says of a Hugging Face Hub: the variables and the folders of its own client.

Source: huggingface_hub, constants.py and utils/_auth.py. Read at every call, since programs change them.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..artifact.hub import HubAddress

__all__ = ["cached_blob", "endpoint", "is_offline", "token"]

DEFAULT_ENDPOINT = "https://huggingface.co"
TRUE = ("1", "on", "yes", "true")


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def is_offline() -> bool:
    return any(_is_on(name) for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in TRUE


def token() -> str | None:
    """The token to send, None if there is none, or if it is not to be sent unasked."""
    if _is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        return None
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name, "").strip():
            return token
    try:
        return _path("HF_TOKEN_PATH", _home() / "token").read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _home() -> Path:
    cache = _path("XDG_CACHE_HOME", Path("~/.cache").expanduser())
    return _path("HF_HOME", cache / "huggingface")


def _path(variable: str, default: Path) -> Path:
    text = os.environ.get(variable)
    return Path(os.path.expandvars(text)).expanduser() if text else default


def cached_blob(address: HubAddress, etag: str | None, size: int | None) -> Path | None:
    """The file that the Hub's own client keeps under this name on this disk, if it has this size."""
    cache = _path("HF_HUB_CACHE", _path("HUGGINGFACE_HUB_CACHE", _home() / "hub"))
    if etag is None or size is None:
        return None
    folder = f"{address.kind}--{address.repository.replace('/', '--')}"
    path = cache.absolute() / folder / "blobs" / etag
    try:
        return path if path.stat().st_size == size and path.is_file() else None
    except OSError:
        return None
