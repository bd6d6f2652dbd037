"""One bucket below one prefix, as few typed calls; every failure is an error of ours.

Retries are the SDK's own ("standard" mode: exponential backoff with jitter, for throttling, server errors,
time-outs and resets), with a deadline over all attempts of a request; bodies that end early are asked for again here.
"""

from __future__ import annotations

import base64
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

from deployctl.errors import DamagedTransferError, StorageError
from deployctl.repository.s3_checks import check_etag, checksummed, crc32, damaged
from deployctl.repository.s3_deadline import Deadline
from deployctl.repository.s3_errors import Absent, LostRace, store_errors
from deployctl.repository.s3_listing import Found, Listing, Upload
from deployctl.repository.s3_quick import QUICK_BYTES, QuickRequests
from deployctl.repository.s3_session import SCHEME, S3Options, make_clients

Result = TypeVar("Result")

_FIRST_PAUSE_S = 0.1
_PIECE = 1 << 20
_DELETE_AT_ONCE = 1000
# The store answers only when it has copied all; larger files go in parts, several at once.
_COPY_AT_ONCE = 64 << 20
# How often a conditional put is sent again that collided with another one under way (409).
_COLLISIONS = 8


class S3Store:
    """The objects of a repository. Keys are below the prefix; may be used by many threads."""

    def __init__(self, options: S3Options) -> None:
        self.options = options
        self._root = f"{options.prefix}/" if options.prefix else ""
        self._making = threading.Lock()
        self._deadline = Deadline(options.deadline_s)

    def url(self, key: str = "") -> str:
        """Returns the `s3://` URL of `key`, for people."""
        return f"{SCHEME}{self.options.bucket}/{self._root}{key}"

    def get(self, key: str) -> bytes | None:
        """Returns all bytes of a small object, or None; what does not match its recorded sha256 is read again.

        Raises:
            DamagedTransferError: it never matched.
        """
        try:
            return self._insisting(lambda: self._get_checked(key), "read", key)
        except Absent:
            return None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Returns `length` bytes from `start` on.

        Raises:
            DamagedTransferError: it ended early each time.
            StorageError: there is no such object, among the rest.
        """
        try:
            return self._insisting(lambda: self._get_range(key, start, length), "read", key)
        except Absent as error:
            raise StorageError(f"{self.url(key)} is gone", hint="deployctl doctor") from error

    def put(self, key: str, body: bytes) -> None:
        """Puts a small object of our own, replacing what is there."""
        with self._request("write", key) as s3:
            s3.put_object(**self._where(key), **self._encrypted(), **checksummed(body))

    def put_new(self, key: str, body: bytes) -> bool:
        """Puts a small object unless there is one of that key; whether `body` is what is there now.

        An answer that was lost on its way makes the SDK ask again and find its own object, so that one counts.
        """
        for attempt in range(_COLLISIONS):
            try:
                with self._request("write", key) as s3:
                    s3.put_object(**self._where(key), **self._encrypted(), **checksummed(body), IfNoneMatch="*")
                return True
            except LostRace:
                found = self.get(key)
                if found is not None:
                    return found == body
                _pause(attempt)
        return False

    def put_file(self, key: str, body: bytes) -> None:
        """Puts a file of a version in one piece; the store, or its answer, says that all bytes arrived.

        Raises:
            DamagedTransferError: other bytes arrived each time.
        """

        def put() -> None:
            if self._put_quickly(key, body):
                return
            with self._request("write", key) as s3:
                answer = s3.put_object(**self._where(key), **self._file_extras(), **checksummed(body))
            self._check_arrival(answer, "ChecksumSHA256", body, key)

        self._insisting(put, "write", key)

    def start_upload(self, key: str) -> str:
        """Returns the id of a new multipart upload."""
        with self._request("write", key) as s3:
            answer = s3.create_multipart_upload(**self._where(key), **self._file_extras(), ChecksumAlgorithm="CRC32")
        return str(answer["UploadId"])

    def put_part(self, key: str, upload_id: str, number: int, body: bytes) -> dict[str, Any]:
        """Uploads part `number` (from 1) and returns what `finish_upload` needs of it.

        Raises:
            DamagedTransferError: other bytes arrived each time.
        """
        checksum = base64.b64encode(crc32(body).to_bytes(4, "big")).decode()

        def put() -> dict[str, Any]:
            with self._request("write", key) as s3:
                answer = s3.upload_part(
                    **self._where(key), UploadId=upload_id, PartNumber=number, Body=body, ChecksumCRC32=checksum
                )
            self._check_arrival(answer, "ChecksumCRC32", body, key)
            part = {"ETag": answer["ETag"], "PartNumber": number}
            return part | ({"ChecksumCRC32": checksum} if "ChecksumCRC32" in answer else {})

        return self._insisting(put, "write", key)

    def finish_upload(self, key: str, upload_id: str, parts: list[dict[str, Any]]) -> None:
        """Makes an object of all the parts."""
        with self._request("write", key) as s3:
            s3.complete_multipart_upload(**self._where(key), UploadId=upload_id, MultipartUpload={"Parts": parts})

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Forgets a multipart upload and its parts; one that is gone already is no failure."""
        try:
            with self._request("discard the upload of", key) as s3:
                s3.abort_multipart_upload(**self._where(key), UploadId=upload_id)
        except Absent:
            return

    def uploads(self) -> tuple[Upload, ...]:
        """Returns the multipart uploads under way below the prefix."""
        found: list[Upload] = []
        with self._request("list the uploads of", "") as s3:
            for page in s3.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.options.bucket, Prefix=self._root, **self._payer()
            ):
                for each in page.get("Uploads", ()):
                    key = each["Key"].removeprefix(self._root)
                    found.append(Upload(key, each["UploadId"], each["Initiated"]))
        return tuple(found)

    def can_copy_from(self, other: S3Store) -> bool:
        """Whether the store can copy objects of `other` without our help."""
        mine, theirs = self.options, other.options
        return (mine.endpoint_url, mine.profile) == (theirs.endpoint_url, theirs.profile)

    def copy(self, origin: S3Store, origin_key: str, key: str, *, size: int) -> None:
        """Copies a file of a version within the store, whatever its size in bytes.

        Raises:
            StorageError: there is no such object, among the rest.
        """
        source = {"Bucket": origin.options.bucket, "Key": origin._root + origin_key}
        extras = self._file_extras() | self._payer()
        if self.options.tags:
            extras["TaggingDirective"] = "REPLACE"
        try:
            with self._request("copy to", key) as s3:
                if size <= _COPY_AT_ONCE:
                    s3.copy_object(Bucket=self.options.bucket, Key=self._root + key, CopySource=source, **extras)
                else:
                    s3.copy(source, self.options.bucket, self._root + key, extras)
        except Absent as error:
            raise StorageError(f"{origin.url(origin_key)} is gone", hint="deployctl doctor") from error

    def listing(self, prefix: str, *, by_directory: bool = False) -> Listing:
        """Returns what is below `prefix`; with `by_directory`, what has a further slash only as common prefixes."""
        quick = self._quickly(lambda quick: quick.listing(self._root + prefix, by_directory, self._payer_headers()))
        found = quick if quick is not None else self._slow_listing(prefix, by_directory)
        cut = len(self._root)
        return Listing(
            tuple(replace(each, key=each.key[cut:]) for each in found.objects),
            tuple(each[cut:] for each in found.prefixes),
        )

    def delete(self, keys: list[str]) -> None:
        """Deletes objects; those that are gone already are no failure."""
        for start in range(0, len(keys), _DELETE_AT_ONCE):
            some = keys[start : start + _DELETE_AT_ONCE]
            with self._request("delete", some[0]) as s3:
                answer = s3.delete_objects(
                    Bucket=self.options.bucket,
                    Delete={"Objects": [{"Key": self._root + key} for key in some], "Quiet": True},
                    **self._payer(),
                )
            for failed in answer.get("Errors", ()):
                raise StorageError(f"cannot delete {self.url(some[0])}: {failed.get('Code')}: {failed.get('Message')}")

    def _slow_listing(self, prefix: str, by_directory: bool) -> Listing:
        """Returns what is below `prefix`, with whole keys, as the SDK lists it."""
        objects: list[Found] = []
        prefixes: list[str] = []
        arguments = {"Bucket": self.options.bucket, "Prefix": self._root + prefix, **self._payer()}
        if by_directory:
            arguments["Delimiter"] = "/"
        with self._request("list", prefix) as s3:
            for page in s3.get_paginator("list_objects_v2").paginate(**arguments):
                self._deadline.renew()
                prefixes += [each["Prefix"] for each in page.get("CommonPrefixes", ())]
                objects += [
                    Found(each["Key"], each["Size"], each["ETag"], each["LastModified"])
                    for each in page.get("Contents", ())
                ]
        return Listing(tuple(objects), tuple(prefixes))

    @cached_property
    def _clients(self) -> tuple[Any, QuickRequests | None]:
        return make_clients(self.options, self._deadline)

    @property
    def _quick(self) -> QuickRequests | None:
        with self._making:
            return self._clients[1]

    @contextmanager
    def _request(self, action: str, key: str) -> Iterator[Any]:
        with store_errors(action, self.url(key), self.options.endpoint_url):
            with self._making:
                client, _ = self._clients
            self._deadline.renew()
            yield client

    def _get_checked(self, key: str) -> bytes:
        with self._request("read", key) as s3:
            answer = s3.get_object(**self._where(key))
            body = self._read(answer, key)
        expected = answer.get("Metadata", {}).get("sha256")
        if expected and hashlib.sha256(body).hexdigest() != expected:
            raise damaged(f"{self.url(key)} arrived with other bytes than were written")
        return body

    def _get_range(self, key: str, start: int, length: int) -> bytes:
        if length <= QUICK_BYTES:
            headers = {"Range": f"bytes={start}-{start + length - 1}", **self._payer_headers()}
            body = self._quickly(lambda quick: quick.get(self._root + key, headers))
            if body is not None and len(body) == length:
                return body
        with self._request("read", key) as s3:
            answer = s3.get_object(**self._where(key), Range=f"bytes={start}-{start + length - 1}")
            body = self._read(answer, key)
        if len(body) != length:
            raise damaged(f"{self.url(key)} has {len(body)} bytes from {start} on, not {length}")
        return body

    def _read(self, answer: dict[str, Any], key: str) -> bytes:
        """Reads a body to its end; a store that drips bytes meets the deadline too."""
        pieces = []
        with answer["Body"] as stream:
            # The SDK's own `read` waits until it has all that it was asked for, however slowly that comes.
            while piece := stream.read1(_PIECE):
                pieces.append(piece)
                self._deadline.check()
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(body) != answer["ContentLength"]:
            raise damaged(f"{self.url(key)} ended after {len(body)} of {answer['ContentLength']} bytes")
        return body

    def _put_quickly(self, key: str, body: bytes) -> bool:
        """Whether a small file could be put past the SDK; with settings that few have, it is not tried."""
        options = self.options
        if len(body) > QUICK_BYTES or options.sse or options.storage_class or options.tags:
            return False
        digest = hashlib.sha256(body)
        checksum = base64.b64encode(digest.digest()).decode()
        headers = {"x-amz-checksum-sha256": checksum, "x-amz-meta-sha256": digest.hexdigest(), **self._payer_headers()}
        answer = self._quickly(lambda quick: quick.put(self._root + key, headers, body, digest.hexdigest()))
        if answer is None:
            return False
        if answer.get("x-amz-checksum-sha256") != checksum:
            check_etag(answer.get("etag", ""), body, self.url(key))
        return True

    def _quickly(self, ask: Callable[[QuickRequests], Result | None]) -> Result | None:
        """Returns what `ask` returns, None where it fails: the SDK then finds out, and tells, why."""
        quick = self._quick
        if quick is None:
            return None
        self._deadline.renew()
        with suppress(StorageError), store_errors("use", self.url()):
            return ask(quick)
        return None

    def _payer_headers(self) -> dict[str, str]:
        return {"x-amz-request-payer": "requester"} if self.options.requester_pays else {}

    def _check_arrival(self, answer: dict[str, Any], checksum: str, body: bytes, key: str) -> None:
        # With a key of KMS, the ETag is no MD5.
        if checksum not in answer and self.options.sse != "aws:kms":
            check_etag(str(answer.get("ETag", "")), body, self.url(key))

    def _insisting(self, ask: Callable[[], Result], action: str, key: str) -> Result:
        """Returns what `ask` returns, asking again where a body ended early, broke off or was wrong."""
        deadline = time.monotonic() + self.options.deadline_s
        for attempt in range(self.options.attempts):
            try:
                return ask()
            except DamagedTransferError:
                if attempt + 1 == self.options.attempts or time.monotonic() > deadline:
                    raise
                _pause(attempt)
        raise StorageError(f"cannot {action} {self.url(key)}")

    def _where(self, key: str) -> dict[str, Any]:
        return {"Bucket": self.options.bucket, "Key": self._root + key, **self._payer()}

    def _payer(self) -> dict[str, Any]:
        return {"RequestPayer": "requester"} if self.options.requester_pays else {}

    def _encrypted(self) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if self.options.sse:
            extras["ServerSideEncryption"] = self.options.sse
        if self.options.kms_key_id:
            extras["SSEKMSKeyId"] = self.options.kms_key_id
        return extras

    def _file_extras(self) -> dict[str, Any]:
        from urllib.parse import urlencode

        extras = self._encrypted()
        if self.options.storage_class:
            extras["StorageClass"] = self.options.storage_class
        if self.options.tags:
            pairs = (tag.partition("=") for tag in self.options.tags)
            extras["Tagging"] = urlencode([(name, value) for name, _, value in pairs])
        return extras


def _pause(attempt: int) -> None:
    """Waits with full jitter, 0.1 s at most at first and twice as long each time."""
    threading.Event().wait(random.uniform(0, _FIRST_PAUSE_S * 2**attempt))
