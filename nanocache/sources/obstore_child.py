"""The process in which obstore signs one address: a question on stdin, an answer on stdout, both JSON.

The only module that knows obstore. It is run as a script, and imports nothing of this library. Invariant: where no
credential is configured and the machine gives none, the answer says so, and is no error.
"""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import timedelta
from typing import Any

# Variables of which one is set where credentials are configured; otherwise the machine itself may have some.
CREDENTIALS = {
    "s3": (
        *("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    ),
    "gs": (
        *("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_BEARER_TOKEN"),
    ),
    "az": (
        *("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_MASTER_KEY", "AZURE_STORAGE_TOKEN"),
        *("AZURE_CLIENT_ID", "AZURE_STORAGE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_USE_AZURE_CLI"),
        *("IDENTITY_ENDPOINT", "MSI_ENDPOINT"),
    ),
}
GOOGLES_FILE = "~/.config/gcloud/application_default_credentials.json"
IN_OPTIONS = ("account_key",)  # what stands in a connection string
LIMITS: dict[str, Any] = {  # of its requests for credentials
    "retry_config": {"max_retries": 1, "retry_timeout": timedelta(seconds=10)},
    "client_options": {"connect_timeout": timedelta(seconds=1), "timeout": timedelta(seconds=10), "allow_http": True},
}
# Credentials of no one, with which an address is made and its signature then left off.
NOBODY = {"access_key_id": "nobody", "secret_access_key": "nobody"}
_REQUEST = "Error performing"  # how obstore's text begins where a server of credentials gave none
_WORDS = re.compile(r"[A-Za-z' ]{3,80}")


def main() -> None:
    question = json.load(sys.stdin)
    from obstore.exceptions import BaseError

    try:
        answer = _answer(question)
    except (BaseError, TypeError, ValueError) as e:
        answer = {"error": _words(e), "may_pass": _REQUEST in str(e)}
    json.dump(answer, sys.stdout)


def _words(error: Exception) -> str:
    """What of its text is plain words: the rest quotes what it read."""
    parts = [part.strip() for part in str(error).split("\n")[0].split(": ")[1:]]
    words = next((part for part in parts if _WORDS.fullmatch(part)), "")
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    from obstore.exceptions import BaseError

    if question["anonymous"]:
        return {"url": _plain(question), "signed": False}
    try:
        return {"url": _sign(question, question["options"]), "signed": True}
    except BaseError:
        if _is_configured(question):
            raise
        return {"url": _plain(question), "signed": False}


def _sign(question: dict[str, Any], options: dict[str, str]) -> str:
    import obstore
    from obstore.store import AzureStore, GCSStore, S3Store

    kind: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[question["scheme"]]
    store = kind(question["bucket"], **options, **LIMITS)
    return str(obstore.sign(store, question["method"], question["key"], timedelta(seconds=question["seconds"])))


def _is_configured(question: dict[str, Any]) -> bool:
    scheme = question["scheme"]
    if any(os.environ.get(name) for name in CREDENTIALS[scheme]):
        return True
    if any(name in question["options"] for name in IN_OPTIONS):
        return True
    return scheme == "gs" and os.path.exists(os.path.expanduser(GOOGLES_FILE))


def _plain(question: dict[str, Any]) -> str:
    """Of S3, whose endpoint and addressing style obstore knows; the others' plain addresses are simple."""
    if question["scheme"] != "s3":
        return ""
    return _sign(question, {**question["options"], **NOBODY}).partition("?")[0]


if __name__ == "__main__":
    main()
