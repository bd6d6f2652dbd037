"""How an object store is reached: settings, credentials and clients of the SDK."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from shlex import quote
from typing import Any

from deployctl.errors import SettingsError, StorageError
from deployctl.repository.s3_deadline import Deadline
from deployctl.repository.s3_errors import store_errors, told_url
from deployctl.repository.s3_hooks import hook
from deployctl.repository.s3_quick import QuickRequests

SCHEME = "s3://"
_CONNECT_TIMEOUT_S = 5
_LOOK = "deployctl config show --origin"
# In the order in which the SDK looks at them.
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where the repository is and how its objects are written; credentials come from AWS's own chain.

    Attributes:
        prefix: without slashes at its ends; may be empty.
        addressing: "auto", "path" or "virtual".
        sse: "", "AES256" or "aws:kms"; `kms_key_id` only with the latter.
        tags: "key=value", put on the files of versions.
        deadline_s: seconds for all attempts of one request.
        single_publisher: whether publishing is never done by two at a time, so that a store without conditional
            puts will do.
        connections: requests under way at the same time.
        attempts: how often a request is sent at most.
        answer_timeout_s: how long one attempt waits for the next byte of an answer.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str = ""
    region: str = ""
    addressing: str = "auto"
    profile: str = ""
    sse: str = ""
    kms_key_id: str = ""
    storage_class: str = ""
    requester_pays: bool = False
    tags: tuple[str, ...] = ()
    single_publisher: bool = False
    deadline_s: float = 120.0
    connections: int = 10
    attempts: int = 4
    answer_timeout_s: float = 20.0


def parse_url(url: str) -> tuple[str, str]:
    """Returns the bucket and the prefix of `s3://bucket/prefix`.

    Raises:
        SettingsError: it names no bucket.
    """
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    if not url.startswith(SCHEME) or not bucket:
        raise SettingsError(f"{url!r} is not s3://BUCKET/PREFIX", hint="deployctl config show")
    return bucket, prefix.strip("/")


def is_endpoint(url: str) -> bool:
    """Whether `url` is one that a store can be at: its scheme is that of HTTP, and it names a host."""
    return url.startswith(("http://", "https://")) and bool(told_url(url))


def no_endpoint(value: str, setting: str) -> SettingsError:
    """Returns the error for a `setting` that should be the URL of a store; nothing secret in `value` is told."""
    host = value.rpartition("://")[2].rpartition("@")[2].partition("/")[0]
    meant = told_url(f"http://{host}")
    hint = f"deployctl --set repository.s3.endpoint_url={quote(meant)} versions" if meant else _LOOK
    return SettingsError(f"{setting}: {host!r} is no URL of a store, which starts with http:// or https://", hint=hint)


def make_clients(options: S3Options, deadline: Deadline) -> tuple[Any, QuickRequests | None]:
    """Returns the SDK's client, and what goes past it where there are credentials.

    Raises:
        StorageError: the SDK is not installed, or finds no credentials or region.
        SettingsError: AWS's own settings name an endpoint that is none.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise StorageError("boto3 is not installed", hint="pip install 'deployctl[s3]'") from error
    config = Config(
        retries={"mode": "standard", "total_max_attempts": options.attempts},
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=options.answer_timeout_s,
        max_pool_connections=options.connections + 2,
        s3={"addressing_style": options.addressing},
        # We send and compare checksums ourselves; other stores refuse the trailers that the SDK would add.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    with store_errors("use", f"{SCHEME}{options.bucket}"), _environment_errors():
        session = boto3.session.Session(profile_name=options.profile or None, region_name=options.region or None)
        client = session.client(
            "s3",
            endpoint_url=options.endpoint_url or None,
            region_name=session.region_name or "us-east-1",
            config=config,
        )
        credentials = session.get_credentials()
        quick = None
        if credentials:
            timeout_s = options.answer_timeout_s
            quick = QuickRequests(client, credentials, options.bucket, deadline.check, timeout_s=timeout_s)
    client.meta.events.register("before-send.s3", deadline.check)
    client.meta.events.register("needs-retry.s3", deadline.note)
    hook(client, options.attempts)
    return client, quick


@contextmanager
def _environment_errors() -> Iterator[None]:
    """Raises SettingsError where the SDK refuses the endpoint that AWS's own settings name; ours was looked at."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Invalid endpoint"):  # one of the SDK's own, such as for a region that is none
            raise
        named = next((name for name in _ENDPOINTS if os.environ.get(name)), "")
        raise no_endpoint(os.environ.get(named, ""), named or "endpoint_url of AWS's own settings") from error
