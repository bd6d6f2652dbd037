"""How objects are written and asked for as the settings say: what was sent, and what the store made of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from deployctl.domain.clock import Observer
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.repository.s3 import S3ModelRepository
from tests.support.repository import DIGITS, SMALL_EXPORT, commit, publish, write_export
from tests.support.s3 import Bucket
from tests.support.store_proxy import Proxy

# One file of each kind: put at once past the SDK, and in parts.
FILES = {**SMALL_EXPORT, "variables/large": os.urandom(17 << 20)}
ONE = VersionNumber(1)
KEY = "arn:aws:kms:eu-central-1:123456789012:key/abc"
WRITES = re.compile(r"PUT |POST .*\?uploads")
PARTS = re.compile(r"PUT .*partNumber=")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_export(tmp_path / "export", FILES)


def through(bucket: Bucket, proxy: Proxy, cache: Path, **options: Any) -> S3ModelRepository:
    return bucket.repository(cache, endpoint_url=proxy.endpoint, addressing="path", **options)


def written(proxy: Proxy) -> dict[str, dict[str, str]]:
    """The headers of each request that says how an object is to be, by its key below the prefix."""
    return {
        request.partition("/models/")[2].partition("?")[0]: headers
        for request, headers in zip(proxy.requests, proxy.headers, strict=True)
        if WRITES.match(request) and not PARTS.match(request)
    }


def of_version(keys: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    files = {f"{DIGITS}/{ONE}/{path}" for path in FILES}
    assert files <= keys.keys()
    return {key: headers for key, headers in keys.items() if key in files}


def fetched(repository: S3ModelRepository) -> dict[str, bytes]:
    path = repository.ensure_local(DIGITS, ONE, Observer())
    return {name: (path / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(("sse", "key"), [("AES256", ""), ("aws:kms", KEY)])
def test_all_that_is_written_is_encrypted_as_the_settings_say(
    bucket: Bucket, proxy: Proxy, export: Path, tmp_path: Path, sse: str, key: str
) -> None:
    repository = through(bucket, proxy, tmp_path / "cache", sse=sse, kms_key_id=key)

    publish(repository, DIGITS, export)

    for headers in written(proxy).values():
        assert headers.get("x-amz-server-side-encryption") == sse
        assert headers.get("x-amz-server-side-encryption-aws-kms-key-id", "") == key
    for path in FILES:
        found = bucket.client.head_object(Bucket=bucket.name, Key=f"models/{DIGITS}/{ONE}/{path}")
        assert found.get("ServerSideEncryption", sse) == sse
    assert fetched(repository) == FILES


def test_files_of_versions_have_the_storage_class_and_the_tags(
    bucket: Bucket, proxy: Proxy, export: Path, tmp_path: Path
) -> None:
    tags = ("team=vision & sound", "cost-centre=47/11")
    repository = through(bucket, proxy, tmp_path / "cache", storage_class="STANDARD_IA", tags=tags)

    publish(repository, DIGITS, export)

    keys = written(proxy)
    for headers in of_version(keys).values():
        assert headers["x-amz-storage-class"] == "STANDARD_IA"
        assert headers["x-amz-tagging"] == "team=vision+%26+sound&cost-centre=47%2F11"
    # Records of ours are a few bytes, and read often.
    for key in keys.keys() - of_version(keys).keys():
        assert not {"x-amz-storage-class", "x-amz-tagging"} & keys[key].keys()
    # The store of the suite drops the tags of what comes in parts.
    for path in SMALL_EXPORT:
        key = f"models/{DIGITS}/{ONE}/{path}"
        found = bucket.client.get_object_tagging(Bucket=bucket.name, Key=key)["TagSet"]
        assert {each["Key"]: each["Value"] for each in found} == {
            "team": "vision & sound",
            "cost-centre": "47/11",
        }
        assert bucket.client.head_object(Bucket=bucket.name, Key=key).get("StorageClass") == "STANDARD_IA"
    assert fetched(repository) == FILES


def test_copies_within_the_store_are_written_in_the_same_way(
    bucket: Bucket, proxy: Proxy, export: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "sse": "aws:kms",
        "kms_key_id": KEY,
        "storage_class": "STANDARD_IA",
        "tags": ("team=vision",),
    }
    source = through(bucket, proxy, tmp_path / "source")
    publish(source, DIGITS, export)
    copies = through(bucket, proxy, tmp_path / "copies", prefix="models/production", **options)
    already = len(proxy.requests)
    manifest = source.manifest(DIGITS, ONE)
    assert manifest is not None

    with copies.stage_version(DIGITS, manifest, source, Observer()) as staged:
        commit(copies, staged)

    copied = [
        headers
        for request, headers in zip(proxy.requests[already:], proxy.headers[already:], strict=True)
        if "x-amz-copy-source" in headers
    ]
    assert len(copied) == len(FILES)
    for headers in copied:
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == KEY
        assert headers["x-amz-storage-class"] == "STANDARD_IA"
        assert headers["x-amz-tagging"] == "team=vision"
        assert headers["x-amz-tagging-directive"] == "REPLACE"


def test_whoever_pays_says_so_with_each_request(bucket: Bucket, proxy: Proxy, export: Path, tmp_path: Path) -> None:
    repository = through(bucket, proxy, tmp_path / "cache", requester_pays=True)

    publish(repository, DIGITS, export)
    fetched(repository)
    repository.catalogue()
    repository.strays()
    publish(repository, ModelName("other"), export)

    assert {request.partition(" ")[0] for request in proxy.requests} >= {"GET", "PUT", "POST"}
    for request, headers in zip(proxy.requests, proxy.headers, strict=True):
        assert headers.get("x-amz-request-payer") == "requester", request


def test_nothing_of_it_is_sent_unless_it_is_set(bucket: Bucket, proxy: Proxy, export: Path, tmp_path: Path) -> None:
    repository = through(bucket, proxy, tmp_path / "cache")

    publish(repository, DIGITS, export)
    fetched(repository)

    sent = {name for headers in proxy.headers for name in headers}
    assert not [name for name in sent if re.search("encryption|storage-class|tagging|payer", name)]
