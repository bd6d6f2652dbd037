"""What answers is no object store, or says one thing in its listings and another elsewhere: it is told, and soon."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployctl.errors import StorageError, StoreUnavailableError
from deployctl.repository.s3 import S3ModelRepository
from tests.support.repository import DIGITS, publish, write_export
from tests.support.s3 import Bucket
from tests.support.store_proxy import Page, Proxy, Refuse

# The first is XML, which the SDK reads without complaint; the second is none.
PAGES = [Page(body=b"<html><body>console</body></html>"), Page(), Page(body=b"")]


@pytest.fixture
def hasty(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> S3ModelRepository:
    """A repository behind the proxy that gives up a request after half a second."""
    return bucket.repository(
        tmp_path / "cache", endpoint_url=proxy.endpoint, addressing="path", attempts=2, deadline_s=0.5
    )


@pytest.mark.parametrize("page", PAGES, ids=["XML", "no XML", "nothing"])
def test_what_is_no_listing_is_no_empty_repository(behind: S3ModelRepository, proxy: Proxy, page: Page) -> None:
    proxy.inject(page, "GET")

    for ask in (behind.models, behind.catalogue, behind.leftovers, lambda: behind.versions(DIGITS)):
        with pytest.raises(StorageError, match="cannot list s3://.*: the answer is no S3 listing$") as caught:
            ask()

        assert caught.value.exit_code == 10
        assert caught.value.hint == "deployctl config show --origin"


@pytest.mark.parametrize("page", PAGES[:2], ids=["XML", "no XML"])
def test_what_is_no_list_of_uploads_is_told(behind: S3ModelRepository, proxy: Proxy, page: Page) -> None:
    proxy.inject(page, "GET .*[?&]uploads")

    with pytest.raises(StorageError, match="cannot list the uploads of s3://.*: the answer is no S3 listing$"):
        behind.leftovers()


def test_a_page_in_the_place_of_a_manifest_ends_a_publishing_at_the_first_number(
    behind: S3ModelRepository, bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.inject(Page(), "GET .*/manifests/digits/")

    with pytest.raises(StorageError, match="manifests/digits/.*what the store gives for it is no manifest"):
        publish(behind, DIGITS, write_export(tmp_path / "export"))

    assert len([each for each in proxy.requests if each.startswith("PUT") and "/claims/" in each]) == 2
    assert bucket.keys(".deployctl/claims/") == []


def test_numbers_that_are_all_said_to_be_taken_meet_the_deadline(
    hasty: S3ModelRepository, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.inject(Refuse(412, "PreconditionFailed"), "PUT .*/claims/")

    with pytest.raises(StoreUnavailableError, match=r"no version number of digits .* within 0.5 s") as caught:
        publish(hasty, DIGITS, write_export(tmp_path / "export"))

    assert caught.value.exit_code == 10


def test_bytes_that_are_said_to_be_recorded_and_are_not_meet_the_deadline(
    hasty: S3ModelRepository, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.inject(Refuse(412, "PreconditionFailed"), "PUT .*/contents/")

    with pytest.raises(StoreUnavailableError, match=r"refused for 0.5 s to take a record of digits's bytes"):
        publish(hasty, DIGITS, write_export(tmp_path / "export"))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_that_names_no_region_is_told_with_where_it_leads(
    behind: S3ModelRepository, proxy: Proxy, tmp_path: Path, status: int
) -> None:
    proxy.inject(Page(status, location="https://store.example.com/bucket?token=secret"))

    with pytest.raises(StorageError, match="the store redirects to https://store.example.com$") as listing:
        behind.versions(DIGITS)
    with pytest.raises(StorageError, match="the store redirects to https://store.example.com$"):
        publish(behind, DIGITS, write_export(tmp_path / "export"))

    assert listing.value.exit_code == 10
    assert listing.value.hint == ("deployctl --set repository.s3.endpoint_url=https://store.example.com versions")
