"""Where the SDK goes astray with what other stores answer, or with what answers and is no store."""

from __future__ import annotations

import random
from functools import partial
from http import HTTPStatus
from typing import Any

from deployctl.repository.s3_errors import NoListing

# botocore.retries.standard.ExponentialBackoff
_LONGEST_PAUSE_S = 20
_LISTINGS = {"ListObjectsV2": b"ListBucketResult", "ListMultipartUploads": b"ListMultipartUploadsResult"}
# The element is the first of the answer, after a declaration and perhaps a comment.
_HEAD = 1024


def hook(client: Any, attempts: int) -> None:
    """Registers what is here with a client of the SDK that sends a request `attempts` times at most."""
    events = client.meta.events
    events.register("needs-retry.s3", partial(_pause_when_overloaded, attempts))
    events.register_first("needs-retry.s3.HeadBucket", _follow_no_redirect)
    for operation, element in _LISTINGS.items():
        # With the wildcard it comes before the SDK's own, which turns the status of what is no XML into a 500.
        events.register_first(f"before-parse.*.{operation}", partial(_require_listing, element))


def _pause_when_overloaded(
    most: int, response: tuple[Any, Any] | None = None, attempts: int = 1, **_: object
) -> float | None:
    """Returns after how many seconds to ask again where a store asks for patience by its status alone.

    The SDK's standard mode knows the codes of AWS's services (SlowDown and such) and the statuses from 500 on; other
    stores say 429 with codes of their own, or with none. The pauses are the SDK's.
    """
    if response is None or response[0].status_code != HTTPStatus.TOO_MANY_REQUESTS or attempts >= most:
        return None
    return random.uniform(0, min(2 ** (attempts - 1), _LONGEST_PAUSE_S))


def _follow_no_redirect(request_dict: dict[str, Any], **_: object) -> None:
    """Keeps the SDK from asking for a bucket's region in order to learn where to ask for a bucket's region.

    It asks so after each redirect that names no region, the one that answers this question too, without end.
    """
    request_dict.get("context", {}).setdefault("s3_redirect", {})["redirected"] = True


def _require_listing(element: bytes, response_dict: dict[str, Any], **_: object) -> None:
    """Raises NoListing where a page that says it lists something does not: the SDK takes it for an empty one."""
    head = response_dict["body"][:_HEAD]
    # Stores may fail after they have said that all is well.
    if response_dict["status_code"] == HTTPStatus.OK and element not in head and b"<Error" not in head:
        raise NoListing("the answer is no S3 listing")
