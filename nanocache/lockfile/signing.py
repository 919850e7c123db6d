"""The signature of a lock file: nanocache.lock.sig, as OpenSSF Model Signing writes it. The only door to that library.

With an elliptic-curve key of the caller's: no service is asked, so it works offline. Any tool of Model Signing can
check it. Invariants: what was checked is what is used, since the bytes are read once; a signature that is missing,
that cannot be read, or that is another key's is none.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..callers import let_pass
from ..errors import NotSigned
from . import file

__all__ = ["check", "sign", "signature_of"]


def signature_of(path: str) -> str:
    """Where the signature of the lock file at `path` is."""
    return f"{path}.sig"


def sign(path: str, key: str) -> str:
    """Sign the lock file at `path` with the private key in the file `key`; where the signature is.

    Raises OSError, NotSigned without the library, and ValueError for what is no such key.
    """
    library = _library(path, key)
    data = file.read_text(path).encode()
    with TemporaryDirectory() as folder:
        copy, signature = _copied(folder, path, data), Path(folder, "signature")
        try:
            library.signing.Config().use_elliptic_key_signer(private_key=Path(key)).sign(copy, signature)
        except Exception as e:  # noqa: BLE001 - a key may be anything, and what reads it raises anything
            raise _no_key(key, "private", e) from None
        file.replace(signature_of(os.path.realpath(path)), signature.read_bytes())
    return signature_of(path)


def check(path: str, data: bytes, key: str) -> None:
    """Raise NotSigned unless `data`, which the lock file at `path` holds, is signed by the key in the file `key`.

    Also without the library. Raises OSError, and ValueError for what is no public key.
    """
    library = _library(path, key)
    try:
        verifier = library.verifying.Config().use_elliptic_key_verifier(public_key=Path(key))
    except Exception as e:  # noqa: BLE001 - as above
        raise _no_key(key, "public", e) from None
    signature = Path(signature_of(os.path.realpath(path)))
    if not signature.is_file():
        raise NotSigned(lock=path, key=key, reason=f"{signature} is not there")
    with TemporaryDirectory() as folder:
        try:
            verifier.verify(_copied(folder, path, data), signature)
        except Exception as e:  # of any class: a signature is what a stranger wrote, and several parsers read it
            let_pass(e)
            raise NotSigned(lock=path, key=key, reason=_brief(e)) from e


def _library(path: str, key: str) -> Any:
    try:
        import model_signing
    except ImportError as e:
        reason = "signatures need OpenSSF Model Signing (pip install 'nanocache[sign]')"
        raise NotSigned(lock=path, key=key, reason=reason) from e
    return model_signing


def _copied(folder: str, path: str, data: bytes) -> Path:
    copy = Path(folder, os.path.basename(path))
    copy.write_bytes(data)
    return copy


def _no_key(key: str, kind: str, error: Exception) -> Exception:
    let_pass(error)
    if isinstance(error, OSError):
        return error
    return ValueError(f"{key} is no {kind} elliptic-curve key in PEM, without a password: {_brief(error)}")


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] or f"it does not fit ({type(error).__name__})"
