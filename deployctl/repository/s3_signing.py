"""AWS's signature, version 4, for requests to S3.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html. The SDK's own signer does the same from
objects that take longer to make than a small request takes to send.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class _Key:
    """What a day's requests are signed with."""

    scope: str
    secret: str
    key: bytes


class Signer:
    """Signs requests to one host; may be used by many threads.

    Args:
        credentials: the SDK's, which renews them.
        host: as the header of that name has it.
    """

    def __init__(self, credentials: Any, region: str, host: str) -> None:
        self._credentials = credentials
        self._region = region
        self._host = host
        self._key: _Key | None = None
        self._making = threading.Lock()

    def signed(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body_sha256: str,
        *,
        at: float | None = None,
    ) -> dict[str, str]:
        """Returns all headers of a request, the signature among them.

        Args:
            method: in capitals.
            path: quoted as it is sent.
            query: sorted and quoted as it is sent, "" for none.
            headers: names in small letters.
            body_sha256: in hexadecimal digits.
            at: seconds since 1970 in place of now.
        """
        credentials = self._credentials.get_frozen_credentials()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
        everything = {
            **headers,
            "host": self._host,
            "x-amz-content-sha256": body_sha256,
            "x-amz-date": stamp,
        }
        if credentials.token:
            everything["x-amz-security-token"] = credentials.token
        names = sorted(everything)
        lines = "".join([f"{name}:{' '.join(everything[name].split())}\n" for name in names])
        signed = ";".join(names)
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{signed}\n{body_sha256}"
        key = self._key_of(stamp[:8], credentials.secret_key)
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{key.scope}\n{digest}"
        signature = hmac.digest(key.key, text.encode(), "sha256").hex()
        everything["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{key.scope}, "
            f"SignedHeaders={signed}, Signature={signature}"
        )
        return everything

    def _key_of(self, day: str, secret: str) -> _Key:
        scope = f"{day}/{self._region}/s3/aws4_request"
        known = self._key
        if known is not None and known.scope == scope and known.secret == secret:
            return known
        key = f"AWS4{secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        with self._making:
            self._key = _Key(scope, secret, key)
            return self._key
