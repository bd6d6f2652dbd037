"""An object store that fails in every way that one can: each has its error, and nothing is ever half there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deployctl.domain.clock import Observer
from deployctl.domain.names import VersionNumber
from deployctl.errors import (
    BucketNotFoundError,
    ClockSkewError,
    DamagedTransferError,
    StorageError,
    StoreCredentialsError,
    StoreDeniedError,
    StoreUnavailableError,
)
from deployctl.repository.s3 import S3ModelRepository
from tests.support.repository import DIGITS, SMALL_EXPORT, publish, write_export
from tests.support.s3 import Bucket
from tests.support.store_proxy import CutShort, Drip, Fault, Page, Proxy, Refuse, Reset, Silence, WrongBytes

FILES = {**SMALL_EXPORT, "variables/large": os.urandom(9 << 20)}
ONE = VersionNumber(1)
LARGE = "GET .*/digits/1/variables/large"
SMALL = "GET .*/digits/1/saved_model.pb"
# What the store, or the way to it, does at every request, and what we call it.
LASTING: list[tuple[Fault, type[StorageError]]] = [
    (Refuse(500, "InternalError"), StoreUnavailableError),
    (Refuse(503, "SlowDown"), StoreUnavailableError),
    (Refuse(429, "TooManyRequests"), StoreUnavailableError),
    (Silence(), StoreUnavailableError),
    (Reset(), StoreUnavailableError),
    (Refuse(400, "ExpiredToken"), StoreCredentialsError),
    (Refuse(403, "InvalidAccessKeyId"), StoreCredentialsError),
    (Refuse(403, "SignatureDoesNotMatch"), StoreCredentialsError),
    (Refuse(403, "RequestTimeTooSkewed"), ClockSkewError),
    (Refuse(403, "AccessDenied"), StoreDeniedError),
    (Refuse(404, "NoSuchBucket"), BucketNotFoundError),
]
# What goes away when the request is made again.
PASSING: list[Fault] = [
    Refuse(500, "InternalError"),
    Refuse(503, "SlowDown"),
    Refuse(429, "SlowDown"),
    Refuse(429, "TooManyRequests"),
    Silence(),
    Reset(),
    Reset(after=True),
]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_export(tmp_path / "export", FILES)


@pytest.fixture
def direct(bucket: Bucket, tmp_path: Path) -> S3ModelRepository:
    """The same repository past the proxy, with a cache of its own."""
    return bucket.repository(tmp_path / "direct")


def cached_versions(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / DIGITS).glob("[!.]*"))


def fetched(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(("fault", "expected"), LASTING, ids=str)
def test_a_fault_at_every_request_is_told_for_what_it_is(
    behind: S3ModelRepository,
    direct: S3ModelRepository,
    proxy: Proxy,
    export: Path,
    tmp_path: Path,
    fault: Fault,
    expected: type[StorageError],
) -> None:
    proxy.inject(fault)

    with pytest.raises(StorageError) as caught:
        publish(behind, DIGITS, export)

    assert type(caught.value) is expected
    assert caught.value.exit_code == 10
    assert caught.value.hint
    assert len(str(caught.value).splitlines()) == 1
    assert direct.models() == ()
    assert cached_versions(tmp_path) == []


@pytest.mark.parametrize(
    "step", ["PUT .*claims", "POST .*uploads|PUT .*/large", "PUT .*/digits/1/assets", "PUT .*manifests/"]
)
@pytest.mark.parametrize("fault", [Refuse(403, "AccessDenied"), Reset(after=True)], ids=str)
def test_a_publishing_that_fails_at_any_step_leaves_no_version_and_does_not_bar_the_next(
    behind: S3ModelRepository, direct: S3ModelRepository, proxy: Proxy, export: Path, fault: Fault, step: str
) -> None:
    proxy.inject(fault, step)

    with pytest.raises(StorageError):
        publish(behind, DIGITS, export)
    # The answer to the manifest may be lost when the manifest is there: then the version is whole.
    assert direct.versions(DIGITS) in ((), (ONE,))
    for version in direct.versions(DIGITS):
        assert fetched(direct.ensure_local(DIGITS, version, Observer())) == FILES
    proxy.mend()

    committed = publish(behind, DIGITS, export)

    assert fetched(direct.ensure_local(DIGITS, committed.manifest.version, Observer(), rehash=True)) == FILES
    assert direct.strays() == ()


@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_a_fault_that_passes_is_not_noticed_by_a_publisher(
    bucket: Bucket, direct: S3ModelRepository, proxy: Proxy, export: Path, tmp_path: Path, fault: Fault
) -> None:
    behind = bucket.repository(tmp_path / "cache", endpoint_url=proxy.endpoint, addressing="path", answer_timeout_s=0.5)
    for step in ("PUT .*claims/", "POST .*uploads|PUT .*/large", "PUT .*manifests/"):
        proxy.inject(fault, step, times=1)

    committed = publish(behind, DIGITS, export)

    assert committed.created
    assert direct.versions(DIGITS) == (1,)
    assert fetched(direct.ensure_local(DIGITS, ONE, Observer())) == FILES


@pytest.mark.parametrize("fault", [*PASSING, CutShort(), WrongBytes()], ids=str)
def test_a_fault_that_passes_is_not_noticed_by_who_fetches(
    bucket: Bucket, direct: S3ModelRepository, proxy: Proxy, export: Path, tmp_path: Path, fault: Fault
) -> None:
    publish(direct, DIGITS, export)
    behind = bucket.repository(tmp_path / "cache", endpoint_url=proxy.endpoint, addressing="path", answer_timeout_s=0.5)
    for step in ("GET .*manifests/", LARGE, SMALL):
        proxy.inject(fault, step, times=1)

    assert fetched(behind.ensure_local(DIGITS, ONE, Observer())) == FILES


BREAKING: list[tuple[Fault, type[StorageError]]] = [
    (CutShort(), DamagedTransferError),
    (WrongBytes(), DamagedTransferError),
]


@pytest.mark.parametrize(
    ("file", "fault", "expected"),
    [
        *((LARGE, *each) for each in (*LASTING, *BREAKING) if each[1] is not BucketNotFoundError),
        *((SMALL, *each) for each in (*LASTING[:2], *BREAKING)),
    ],
    ids=str,
)
def test_a_version_that_cannot_be_fetched_is_not_served(
    behind: S3ModelRepository,
    direct: S3ModelRepository,
    proxy: Proxy,
    export: Path,
    tmp_path: Path,
    fault: Fault,
    expected: type[StorageError],
    file: str,
) -> None:
    publish(direct, DIGITS, export)
    proxy.inject(fault, file)

    with pytest.raises(StorageError) as caught:
        behind.ensure_local(DIGITS, ONE, Observer())

    assert type(caught.value) is expected
    assert caught.value.exit_code == 10
    assert caught.value.hint
    assert not behind.is_local(DIGITS, ONE)
    assert cached_versions(tmp_path) == []
    proxy.mend()
    assert fetched(behind.ensure_local(DIGITS, ONE, Observer())) == FILES


@pytest.mark.parametrize("fault", [CutShort(), Silence(), Reset()], ids=str)
def test_a_listing_that_breaks_off_is_no_empty_repository(
    behind: S3ModelRepository, direct: S3ModelRepository, proxy: Proxy, export: Path, fault: Fault
) -> None:
    publish(direct, DIGITS, export)
    proxy.inject(fault, "list-type=2")

    with pytest.raises(StorageError):
        behind.versions(DIGITS)


def test_bytes_that_change_on_their_way_to_the_store_are_noticed(
    behind: S3ModelRepository, direct: S3ModelRepository, proxy: Proxy, export: Path
) -> None:
    proxy.inject(WrongBytes(sent=True), "PUT .*/digits/1/saved_model.pb")

    with pytest.raises(DamagedTransferError):
        publish(behind, DIGITS, export)

    assert direct.versions(DIGITS) == ()
    proxy.mend()
    proxy.inject(WrongBytes(sent=True), "PUT .*/digits/[0-9]+/variables/large", times=1)
    committed = publish(behind, DIGITS, export)
    assert fetched(direct.ensure_local(DIGITS, committed.manifest.version, Observer())) == FILES


def test_a_store_that_drips_meets_the_deadline(
    bucket: Bucket, direct: S3ModelRepository, proxy: Proxy, export: Path, tmp_path: Path
) -> None:
    publish(direct, DIGITS, export)
    behind = bucket.repository(tmp_path / "cache", endpoint_url=proxy.endpoint, addressing="path", deadline_s=1.0)
    proxy.inject(Drip(), "GET .*/digits/1/variables/large")

    with pytest.raises(StoreUnavailableError, match="within 1 s"):
        behind.ensure_local(DIGITS, ONE, Observer())


def test_all_attempts_together_meet_the_deadline(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    behind = bucket.repository(
        tmp_path / "cache",
        endpoint_url=proxy.endpoint,
        addressing="path",
        deadline_s=0.5,
        attempts=50,
        answer_timeout_s=0.2,
    )
    proxy.inject(Silence())

    with pytest.raises(StoreUnavailableError):
        behind.versions(DIGITS)

    # Fifty would take ten seconds.
    assert 1 <= len(proxy.requests) < 10


def test_a_store_that_nobody_answers_for_is_named(bucket: Bucket, tmp_path: Path) -> None:
    nobody = bucket.repository(tmp_path / "cache", endpoint_url="http://127.0.0.1:1", attempts=1)

    with pytest.raises(StoreUnavailableError, match=r"nothing answers at http://127\.0\.0\.1:1$"):
        nobody.versions(DIGITS)


def test_a_password_in_the_address_of_a_store_is_not_told(bucket: Bucket, tmp_path: Path) -> None:
    nobody = bucket.repository(tmp_path / "cache", endpoint_url="http://admin:s3cret@127.0.0.1:1", attempts=1)

    with pytest.raises(StoreUnavailableError, match=r"nothing answers at http://127\.0\.0\.1:1$"):
        nobody.versions(DIGITS)


@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        (Refuse(404, "NoSuchBucket"), "aws s3 mb s3://{bucket} --endpoint-url {endpoint}"),
        (
            Refuse(403, "InvalidObjectState"),
            "aws s3api restore-object --bucket {bucket} --key models/digits/1/saved_model.pb --restore-request Days=7"
            " --endpoint-url {endpoint}",
        ),
        (Refuse(403, "AccessDenied"), "deployctl s3 policy --role server"),
        (Refuse(403, "QuotaExceeded"), "deployctl gc --dry-run"),
        (Refuse(400, "AuthorizationHeaderMalformed"), "deployctl config show --origin"),
    ],
    ids=str,
)
def test_a_fetch_that_is_refused_hints_at_what_helps(
    behind: S3ModelRepository,
    direct: S3ModelRepository,
    bucket: Bucket,
    proxy: Proxy,
    export: Path,
    fault: Fault,
    hint: str,
) -> None:
    publish(direct, DIGITS, export)
    proxy.inject(fault, SMALL)

    with pytest.raises(StorageError) as caught:
        behind.ensure_local(DIGITS, ONE, Observer())

    assert caught.value.hint == hint.format(bucket=bucket.name, endpoint=proxy.endpoint)


def test_a_publishing_that_is_denied_hints_at_a_publishers_rights(
    behind: S3ModelRepository, proxy: Proxy, export: Path
) -> None:
    proxy.inject(Refuse(403, "AccessDenied"), "PUT")

    with pytest.raises(StoreDeniedError) as caught:
        publish(behind, DIGITS, export)

    assert caught.value.hint == "deployctl s3 policy --role publisher"


def test_a_region_that_the_store_corrects_is_hinted_at(behind: S3ModelRepository, proxy: Proxy) -> None:
    body = (
        b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region is wrong</Message>"
        b"<Region>eu-central-1</Region></Error>"
    )
    proxy.inject(Page(400, body))

    with pytest.raises(StoreCredentialsError, match="the region is wrong") as caught:
        behind.versions(DIGITS)

    assert caught.value.hint == "deployctl --set repository.s3.region=eu-central-1 versions"


@pytest.mark.parametrize("body", [b"", b"<html><body>short and stout</body></html>"])
def test_an_answer_without_a_code_is_told_by_its_status(behind: S3ModelRepository, proxy: Proxy, body: bytes) -> None:
    proxy.inject(Page(418, body))

    with pytest.raises(StorageError, match=r"cannot list s3://\S+: .*418") as caught:
        behind.versions(DIGITS)

    assert ": :" not in str(caught.value)


def test_a_store_that_asks_for_patience_for_too_long_is_told_so(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    behind = bucket.repository(
        tmp_path / "cache", endpoint_url=proxy.endpoint, addressing="path", deadline_s=0.2, attempts=50
    )
    proxy.inject(Refuse(503, "SlowDown"))

    with pytest.raises(StoreUnavailableError, match=r"no good answer within 0\.2 s, the last was SlowDown$"):
        behind.versions(DIGITS)


def test_a_version_in_the_cache_needs_no_store(
    behind: S3ModelRepository, direct: S3ModelRepository, proxy: Proxy, export: Path
) -> None:
    publish(direct, DIGITS, export)
    behind.ensure_local(DIGITS, ONE, Observer())
    proxy.inject(Reset())
    asked = len(proxy.requests)

    assert behind.is_local(DIGITS, ONE)
    assert fetched(behind.ensure_local(DIGITS, ONE, Observer(), rehash=True)) == FILES
    assert behind.manifest(DIGITS, ONE) is not None
    assert len(proxy.requests) == asked
