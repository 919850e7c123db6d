"""Addresses that botocore signs: it reads every form of AWS credentials (profiles, SSO, containers, instances).

The only module that knows botocore. No request for an object is made by it. Invariants: a forked child uses no client
of its parent, whose locks another thread may have held; a changed variable or credentials file is seen by the next
call; botocore's log of what it signs, where a customer's key stands, is not written.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

from ..artifact.buckets import BucketAddress
from ..artifact.headers import Pairs
from ..cancel import ambient
from ..http.failure import Failure
from . import signed
from .aside import one_aside
from .signed import Method, Signed

__all__ = ["is_installed", "sign"]

CHECKSUMS = "request_checksum_calculation"
OPERATIONS = {"GET": "get_object", "HEAD": "head_object", "PUT": "put_object"}
DEFAULT_REGION = "us-east-1"  # which S3 signs for where none is set; a bucket elsewhere says where it is
FILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
MOST_CLIENTS = 16  # kept
LONGEST_WAIT = 60.0  # seconds, for a service that gives credentials
TALKATIVE = ("auth", "endpoint", "parsers", "httpsession")  # of its loggers
# Headers that S3 wants signed, in lower case -> what botocore calls them.
SIGNED_HEADERS = {
    "x-amz-checksum-mode": "ChecksumMode",
    "x-amz-request-payer": "RequestPayer",
    "x-amz-expected-bucket-owner": "ExpectedBucketOwner",
    "x-amz-server-side-encryption-customer-algorithm": "SSECustomerAlgorithm",
    "x-amz-server-side-encryption-customer-key": "SSECustomerKey",
    "x-amz-server-side-encryption-customer-key-md5": "SSECustomerKeyMD5",
}

_ours = threading.local()
_clients: dict[tuple[object, ...], tuple[Any, Any]] = {}  # what they depend on -> a client, its credentials


def is_installed() -> bool:
    return find_spec("botocore") is not None


def sign(address: BucketAddress, headers: Pairs, region: str | None, method: Method = "GET") -> Signed:
    """Where the object can be asked for by `method`, for the next hour. Raises Failure.

    `headers`: those of SIGNED_HEADERS that are sent.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    parameters = {"Bucket": address.bucket, "Key": address.key}
    parameters |= {SIGNED_HEADERS[name]: value for name, value in headers}
    if address.version is not None:
        parameters["VersionId"] = address.version
    try:
        client, credentials = _ready((region, *_environment(), os.getpid()), region)
        with _quiet():
            url = client.generate_presigned_url(OPERATIONS[method], Params=parameters, ExpiresIn=signed.LIFE)
    except (BotoCoreError, ClientError) as e:
        raise _failure(e) from None
    return Signed(url, headers, credentials is not None)


def _ready(key: tuple[object, ...], region: str | None) -> tuple[Any, Any]:
    """A client and its credentials, None if there are none. What asks a service for some can be left."""
    found = _clients.get(key)
    if found is None:
        found = _clients[key] = one_aside(partial(_client, region), ambient(), LONGEST_WAIT)
        for old in list(_clients)[:-MOST_CLIENTS]:
            _clients.pop(old, None)
    client, credentials = found
    if getattr(credentials, "refresh_needed", bool)():
        one_aside(partial(_refresh, credentials), ambient(), LONGEST_WAIT)
    return client, credentials


def _refresh(credentials: Any) -> None:
    with _quiet():
        credentials.get_frozen_credentials()


def _environment() -> tuple[object, ...]:
    """What the choice of credentials and endpoints depends on, as far as it can change beside botocore's back."""
    variables = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return variables, tuple(_stamp(os.environ.get(name, path)) for name, path in FILES.items())


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        st = os.stat(os.path.expanduser(path))
    except OSError:
        return None
    return st.st_size, st.st_mtime_ns


def _client(region: str | None) -> tuple[Any, Any]:
    """A client, and its credentials. It takes 0.1 s to make, and longer where a service is asked for them."""
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.session import Session

    session = Session()
    region = region or session.get_config_variable("region") or os.environ.get("AWS_REGION") or DEFAULT_REGION
    session.set_config_variable("region", region)  # that of the service which gives a role its credentials, too
    with _quiet():
        credentials = session.get_credentials()
        # Newer ones sign a checksum into the address of a PUT: that of no bytes at all.
        plain = {CHECKSUMS: "when_required"} if CHECKSUMS in Config.OPTION_DEFAULTS else {}
        config = Config(signature_version=UNSIGNED if credentials is None else "s3v4", **plain)
        return session.create_client("s3", region_name=region, config=config), credentials


def _failure(error: Exception) -> Failure:
    """What botocore could not do, and whether that may pass, as an hour's download wants to be told."""
    from botocore.exceptions import ClientError, HTTPClientError

    name = type(error).__name__
    if isinstance(error, ClientError):  # of the service that gives credentials
        answer = error.response
        reason = f"{error.operation_name}: {answer.get('Error', {}).get('Code')}"
        may_pass = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
    else:
        # The text of one may hold what a program of the user's printed.
        reason = name if name == "CredentialRetrievalError" else f"{name}: {str(error).splitlines()[0]}"
        may_pass = isinstance(error, HTTPClientError)
    is_login = "SSO" in name or "Token" in name
    remedy = "aws sso login" if is_login else "look at the AWS_ variables and ~/.aws/config"
    return Failure(f"botocore cannot sign ({reason})", lasting=not may_pass, remedy=remedy)


# --- its log ----------------------------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    # At DEBUG it writes each request that it signs, the signature, and answers with a role's credentials. The
    # application's own use of it is left alone.
    _add_filter()
    _ours.active = True
    try:
        yield
    finally:
        _ours.active = False


@cache
def _add_filter() -> None:
    for name in TALKATIVE:
        logging.getLogger(f"botocore.{name}").addFilter(_is_others)


def _is_others(record: logging.LogRecord) -> bool:
    return not getattr(_ours, "active", False)
