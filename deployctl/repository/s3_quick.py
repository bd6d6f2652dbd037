"""Single requests for small objects, past most of the SDK.

The SDK takes about a millisecond of processor time for each request, most of it not for the request itself, and a
model may have a thousand small files. What is asked here is signed and sent by the SDK's own parts, once; whatever
is not plainly well answered is left to the SDK, which repeats it and knows every error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote_plus, urlencode, urlsplit, urlunsplit
from xml.etree import ElementTree

from deployctl.repository.s3_listing import Found, Listing

# Above this, the time that the SDK takes is no part that counts.
QUICK_BYTES = 1 << 20
_PIECE = 1 << 18


class QuickRequests:
    """Gets and puts of small objects in one bucket; may be used by many threads.

    Args:
        check_deadline: called while an answer arrives; raises when that takes too long.
    """

    def __init__(self, client: Any, credentials: Any, bucket: str, check_deadline: Callable[[], None]) -> None:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        self._request = AWSRequest
        self._sign = S3SigV4Auth
        self._credentials = credentials
        self._region = client.meta.region_name
        self._check_deadline = check_deadline
        self._session = client._endpoint.http_session
        # Where the SDK would send it: addressing and endpoint are its decision.
        url = urlsplit(client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "-"}))
        self._base = urlunsplit((url.scheme, url.netloc, url.path.removesuffix("-"), "", ""))
        self._is_virtual = url.path == "/-"
        self._works = True

    def get(self, key: str, headers: Mapping[str, str], query: Mapping[str, str] | None = None) -> bytes | None:
        """Returns what is asked of an object, or of the bucket without a key; None where the SDK should ask instead."""
        answer = self._send("GET", key, headers, query=query)
        if answer is None:
            return None
        pieces = []
        for piece in iter(lambda: answer.raw.read1(_PIECE), b""):
            pieces.append(piece)
            self._check_deadline()
        return b"".join(pieces)

    def put(self, key: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str] | None:
        """Puts an object and returns the headers of the answer, or None where the SDK should put it instead."""
        answer = self._send("PUT", key, headers, body)
        if answer is None:
            return None
        answer.raw.read()
        found: Mapping[str, str] = answer.headers
        return found

    def listing(self, prefix: str, by_directory: bool, headers: Mapping[str, str]) -> Listing | None:
        """Returns what is below `prefix`, with whole keys, or None where the SDK should list it instead."""
        objects: list[Found] = []
        prefixes: list[str] = []
        query = {"list-type": "2", "prefix": prefix, "encoding-type": "url"} | (
            {"delimiter": "/"} if by_directory else {}
        )
        while True:
            body = self.get("", headers, query)
            page = _page(body) if body is not None else None
            if page is None:
                return None
            objects += page.objects
            prefixes += page.prefixes
            if not page.following:
                return Listing(tuple(objects), tuple(prefixes))
            query["continuation-token"] = page.following

    def _send(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        if not self._works:
            return None
        url = self._base + quote(key, safe="/~")
        if query:
            url = f"{url.rstrip('/') if not self._is_virtual else url}?{urlencode(query, quote_via=quote, safe='~')}"
        request = self._request(method, url, dict(headers), body, stream_output=True)
        self._sign(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        answer = self._session.send(request.prepare())
        if answer.status_code in {200, 206}:
            return answer
        answer.raw.close()
        # What was redirected or refused once would be so again; what is overloaded is to be spared.
        self._works = False
        return None


@dataclass(frozen=True, slots=True)
class _Page:
    """One answer to a listing; `following` is the token of the next, "" for none."""

    objects: list[Found]
    prefixes: list[str]
    following: str


def _page(body: bytes) -> _Page | None:
    """Returns what a page of a listing says, None for what is none, or not a whole one.

    The form is that of https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html.
    """
    try:
        document = ElementTree.fromstring(body)
        objects = [
            Found(
                unquote_plus(_text(each, "Key")),
                int(_text(each, "Size")),
                _text(each, "ETag"),
                datetime.fromisoformat(_text(each, "LastModified")),
            )
            for each in document.iterfind("{*}Contents")
        ]
        prefixes = [unquote_plus(_text(each, "Prefix")) for each in document.iterfind("{*}CommonPrefixes")]
        following = _text(document, "NextContinuationToken") if _text(document, "IsTruncated") == "true" else ""
        is_encoded = _text(document, "EncodingType") == "url"
    except (ElementTree.ParseError, ValueError):
        return None
    return _Page(objects, prefixes, following) if is_encoded else None


def _text(element: ElementTree.Element, name: str) -> str:
    found = element.findtext(f"{{*}}{name}")
    if found is None:
        raise ValueError(f"a listing has no {name}")
    return found
