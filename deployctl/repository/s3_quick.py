"""Single requests for small objects, past most of the SDK.

The SDK takes about a millisecond of processor time for each request, most of it not for the request itself, and a
model may have a thousand small files. What is asked here is sent once, with the SDK's credentials over connections that
it opens; whatever is not plainly well answered is left to the SDK, which repeats it and knows every error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote_plus, urlencode, urlsplit
from xml.etree import ElementTree

from deployctl.repository.s3_listing import Found, Listing
from deployctl.repository.s3_signing import EMPTY_SHA256, Signer
from deployctl.repository.s3_wire import Answer, Wire

# Above this, the time that the SDK takes is no part that counts.
QUICK_BYTES = 1 << 20


class QuickRequests:
    """Gets and puts of small objects in one bucket; may be used by many threads.

    Args:
        check_deadline: called while an answer arrives; raises when that takes too long.
        timeout_s: how long an answer's next byte may take.
    """

    def __init__(
        self, client: Any, credentials: Any, bucket: str, check_deadline: Callable[[], None], *, timeout_s: float
    ) -> None:
        # Where the SDK would send it: addressing and endpoint are its decision.
        url = urlsplit(client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "-"}))
        self._path = url.path.removesuffix("-")
        self._is_virtual = url.path == "/-"
        host = url.netloc.rpartition("@")[2].removesuffix({"http": ":80", "https": ":443"}[url.scheme])
        self._signer = Signer(credentials, client.meta.region_name, host)
        session = getattr(getattr(client, "_endpoint", None), "http_session", None)
        self._wire = Wire(session, f"{url.scheme}://{url.netloc}", timeout_s, check_deadline)
        self._works = self._wire.works()

    def get(self, key: str, headers: Mapping[str, str], query: Mapping[str, str] | None = None) -> bytes | None:
        """Returns what is asked of an object, or of the bucket without a key; None where the SDK should ask instead."""
        answer = self._send("GET", key, headers, query=query)
        return None if answer is None else answer.body

    def put(self, key: str, headers: Mapping[str, str], body: bytes, sha256: str) -> Mapping[str, str] | None:
        """Puts an object whose bytes have that sha256, in hexadecimal digits.

        Returns the headers of the answer, or None where the SDK should put it instead.
        """
        answer = self._send("PUT", key, headers, body, sha256)
        return None if answer is None else answer.headers

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
        sha256: str = EMPTY_SHA256,
        *,
        query: Mapping[str, str] | None = None,
    ) -> Answer | None:
        if not self._works:
            return None
        path = self._path + quote(key, safe="/~")
        words = ""
        if query:
            path = path if self._is_virtual else path.rstrip("/")
            words = urlencode(sorted(query.items()), quote_via=quote, safe="~")
        signed = self._signer.signed(method, path, words, headers, sha256)
        answer = self._wire.ask(method, f"{path}?{words}" if words else path, signed, body)
        if answer.status in {200, 206}:
            return answer
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
