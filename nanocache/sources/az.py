"""az://CONTAINER/KEY: Azure Blob Storage, of the account that the environment names.

Where a blob is, signed by obstore or by the shared access signature of the environment; its bytes are fetched as ever.
The variables are those of Azure's own command and of obstore. Source: "Get Blob" and "Configure connection strings",
Azure Storage.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from ..artifact import buckets
from ..artifact.buckets import BucketAddress
from ..artifact.headers import Pairs
from ..http.failure import Failure
from . import bucket_refusals, by_obstore
from .protocol import Resolved
from .signed import Signed, missing

__all__ = ["AzureBlobs", "source"]

VERSION = ("x-ms-version", "2023-11-03")  # without it a public blob is served as in 2009, its ETag unquoted
ACCOUNT = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
ACCOUNT_KEY = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY")
SAS = ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")
BLOB_ENDPOINT = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"
UNUSUAL = "it may be that obstore signs no name with a space or a sign in it"
# The emulator's account, which Microsoft publishes.
DEVELOPMENT = {
    "AccountName": "devstoreaccount1",
    "AccountKey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "BlobEndpoint": "http://127.0.0.1:10000/devstoreaccount1",
}


def source() -> AzureBlobs:
    return AzureBlobs()


class AzureBlobs:
    def resolve_with(self, url: str, headers: Pairs) -> Resolved:
        """Where the blob of `url` is. Raises Failure, Cancelled."""
        address = buckets.parse(url)
        has_own = any(name.lower() == "authorization" for name, _ in headers)
        return _sign(address, _Account.read(), has_own).resolved((VERSION, *headers), address.version)

    def pin(self, url: str, headers: Mapping[str, str]) -> str | None:
        """The URL of the version that was answered."""
        return buckets.pinned(url, headers)

    def explain(self, url: str, refused: Resolved, failure: Failure) -> Failure | None:
        """What a refusal means. Raises Failure, Cancelled."""
        address = buckets.parse(url)
        meant = bucket_refusals.explain(address, refused) or failure
        is_unusual = quote(address.key) != address.key
        if meant.status == 403 and is_unusual and refused.expires is not None and _Account.read().sas is None:
            # obstore 0.12 signs the name as the URL has it, Azure as it is.
            return Failure(f"{meant.reason}; {UNUSUAL}", lasting=True, status=403, remedy=f"set {SAS[0]}")
        return meant


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    key: str | None
    sas: str | None  # a query
    endpoint: str

    @classmethod
    def read(cls) -> _Account:
        """As the environment names it. Raises Failure."""
        said = _connection()
        name = _variable(ACCOUNT) or said.get("AccountName")
        endpoint = said.get("BlobEndpoint") or _variable(BLOB_ENDPOINT)
        if name is None and endpoint is None:
            remedy = f"set {ACCOUNT[0]}, or {CONNECTION}"
            raise Failure("no variable names the account of Azure", lasting=True, remedy=remedy)
        sas = said.get("SharedAccessSignature") or _variable(SAS)
        suffix = said.get("EndpointSuffix", "core.windows.net")
        return cls(
            name or "",
            said.get("AccountKey") or _variable(ACCOUNT_KEY),
            None if sas is None else sas.lstrip("?"),
            (endpoint or f"https://{name}.blob.{suffix}").rstrip("/"),
        )


def _variable(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _connection() -> dict[str, str]:
    """The connection string's parts. A key ends in equals signs."""
    text = os.environ.get(CONNECTION, "")
    said = {name.strip(): value for name, _, value in (part.partition("=") for part in text.split(";"))}
    return DEVELOPMENT if said.get("UseDevelopmentStorage", "").lower() == "true" else said


def _sign(address: BucketAddress, account: _Account, has_own: bool) -> Signed:
    plain = f"{account.endpoint}/{address.bucket}/{quote(address.key)}"
    if has_own:
        return _at_version(Signed(plain), address)
    if account.sas is not None:
        return _at_version(Signed(f"{plain}?{account.sas}"), address)
    if not by_obstore.is_installed():
        raise missing("az", "obstore")
    options = {"account_name": account.name, "endpoint": account.endpoint}
    if account.key is not None:
        options["account_key"] = account.key
    signed = by_obstore.sign(address, options)
    return _at_version(signed if signed.is_signed else Signed(plain, is_signed=False), address)


def _at_version(signed: Signed, address: BucketAddress) -> Signed:
    if address.version is None:
        return signed
    mark = "&" if "?" in signed.url else "?"
    return Signed(f"{signed.url}{mark}versionid={quote(address.version)}", signed.headers, signed.is_signed)
