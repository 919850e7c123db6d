"""Signed addresses: which parameters of a query are a signature and its conditions.

They change with every signature, so a presigned URL would never be a hit, and they are credentials. Invariant: a
parameter is dropped only where the signature of its scheme stands beside it, because `sp`, `Expires` and `Policy` are
ordinary words, too: `?sp=human` and `?sp=mouse` are two files.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["without_signature"]

# The parameter that is the signature -> the parameters that belong to it. What chooses content (`versionId`,
# `x-oss-process`, `response-content-type`, `snapshot`) stays.
_SCHEMES = {
    # AWS and Google, version 4
    "(?i:x-amz-signature)": "(?i:x-amz-.*)",
    "(?i:x-goog-signature)": "(?i:x-goog-.*)",
    # AWS and Google, version 2; CloudFront; Google's CDN; Alibaba and Huawei, version 1
    "Signature": (
        "Signature|Expires|Policy|Key-Pair-Id|Hash-Algorithm|KeyName|URLPrefix"
        "|AWSAccessKeyId|GoogleAccessId|OSSAccessKeyId|AccessKeyId|security-token|(?i:x-(amz|obs)-security-token)"
    ),
    # Azure: service, account and user delegation SAS
    "sig": "sig|sv|ss|sr|srt|st|se|sp|si|sip|spr|sdd|ses|saoid|suoid|scid|sduoid|sk[a-z]+",
    # Alibaba, version 4; Volcengine; Tencent
    "(?i:x-oss-signature)": (
        "(?i:x-oss-(signature|signature-version|credential|date|expires|security-token|additional-headers))"
    ),
    "(?i:x-tos-signature)": (
        "(?i:x-tos-(signature|algorithm|credential|date|expires|signedheaders|signedqueries|policy|security-token))"
    ),
    "q-signature": (
        "q-(signature|sign-algorithm|ak|sign-time|key-time|header-list|url-param-list)|(?i:x-cos-security-token)"
    ),
}
_PATTERNS = [(re.compile(signature), re.compile(belongs)) for signature, belongs in _SCHEMES.items()]


def without_signature(query: str) -> str:
    """`query` without the parameters of each scheme whose signature is in it, and without empty parameters."""
    items = {item: unquote(item.split("=", 1)[0]) for item in query.split("&") if item}
    for signature, belongs in _PATTERNS:
        if any(map(signature.fullmatch, items.values())):
            items = {item: name for item, name in items.items() if not belongs.fullmatch(name)}
    return "&".join(item for item in query.split("&") if item in items)
