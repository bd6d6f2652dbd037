"""What an object store lists."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Found:
    """An object in a listing.

    Attributes:
        key: without the repository's prefix.
        modified: aware, UTC, by the store's clock.
    """

    key: str
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects in key order, and with a delimiter the common prefixes, each with its final slash."""

    objects: tuple[Found, ...]
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload under way; see `Found`."""

    key: str
    upload_id: str
    started: datetime
