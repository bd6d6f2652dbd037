"""Whether bytes arrived in an object store, and came back, as they were sent."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from deployctl.errors import DamagedTransferError

_MD5_DIGITS = 32


def check_etag(etag: str, body: bytes, where: str) -> None:
    """Raises DamagedTransferError where a store that knows no checksums names another MD5 as the ETag of `body`."""
    digest = etag.strip('"')
    if len(digest) == _MD5_DIGITS and hashlib.md5(body, usedforsecurity=False).hexdigest() != digest:
        raise damaged(f"{where} arrived in the store with other bytes than were sent")


def damaged(message: str) -> DamagedTransferError:
    """Returns the error for bytes that are not what they should be."""
    return DamagedTransferError(message, hint="deployctl doctor")


def checksummed(body: bytes) -> Mapping[str, Any]:
    """The body, and its sha256 for the store to check on arrival and for us to check when it comes back."""
    digest = hashlib.sha256(body)
    return {
        "Body": body,
        "ChecksumSHA256": base64.b64encode(digest.digest()).decode(),
        "Metadata": {"sha256": digest.hexdigest()},
    }


def crc32(body: bytes) -> int:
    """Returns the CRC-32 of `body`, by AWS's own library where that is installed (`boto3[crt]`)."""
    try:
        from awscrt import checksums as library
    except ImportError:
        import zlib as library
    return int(library.crc32(body))
