"""The policies that `s3 policy` prints allow what each role does, and no more: every request is held against them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from deployctl.domain.clock import Observer
from deployctl.domain.names import VersionNumber
from deployctl.repository.cache import CacheOptions, VersionCache
from deployctl.repository.s3 import S3ModelRepository
from deployctl.repository.s3_client import S3Store
from deployctl.repository.s3_policy import Role, policy
from deployctl.system import SystemClock
from tests.support.repository import DIGITS, SMALL_EXPORT, publish, write_export
from tests.support.s3 import Bucket
from tests.support.store_proxy import Proxy

ONE = VersionNumber(1)
# What a request may do by its method and the parameters of its query, the first that fits
# (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html and "Required permissions" there).
ACTIONS: Sequence[tuple[str, str, str]] = (
    ("GET", "uploads", "s3:ListBucketMultipartUploads"),
    ("GET", "list-type", "s3:ListBucket"),
    ("GET", "uploadId", "s3:ListMultipartUploadParts"),
    ("GET", "", "s3:GetObject"),
    ("HEAD", "", "s3:GetObject"),
    ("PUT", "", "s3:PutObject"),
    ("POST", "uploadId", "s3:PutObject"),
    ("POST", "uploads", "s3:PutObject"),
    ("POST", "delete", "s3:DeleteObject"),
    ("DELETE", "uploadId", "s3:AbortMultipartUpload"),
    ("DELETE", "", "s3:DeleteObject"),
)


def asked(proxy: Proxy, deleted: Sequence[str]) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Yields action, resource and condition keys of each request; `deleted` are the keys of requests for many."""
    for request, headers in zip(proxy.requests, proxy.headers, strict=True):
        method, _, address = request.partition(" ")
        parts = urlsplit(address)
        query = parse_qs(parts.query, keep_blank_values=True)
        action = next(action for verb, key, action in ACTIONS if verb == method and (not key or key in query))
        keys = [unquote(parts.path).lstrip("/")] if "delete" not in query else deleted
        conditions = {f"s3:{name}": headers[name] for name in ("if-none-match",) if name in headers}
        if "prefix" in query:
            conditions["s3:prefix"] = query["prefix"][0]
        for key in keys:
            yield action, f"arn:aws:s3:::{key.rstrip('/')}", conditions


def allows(document: Mapping[str, Any], action: str, resource: str, conditions: Mapping[str, str]) -> bool:
    """Whether a policy allows a request: something allows it, and nothing denies it."""
    effects = {
        statement["Effect"]
        for statement in document["Statement"]
        if action in _listed(statement["Action"])
        and any(fnmatchcase(resource, pattern) for pattern in _listed(statement["Resource"]))
        and _holds(statement.get("Condition", {}), conditions)
    }
    return effects == {"Allow"}


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _holds(condition: Mapping[str, Mapping[str, str]], said: Mapping[str, str]) -> bool:
    for kind, wanted in condition.items():
        for key, value in wanted.items():
            if kind == "Null":
                if (key not in said) != (value == "true"):
                    return False
            elif kind == "StringLike":
                if not fnmatchcase(said.get(key, ""), value):
                    return False
            else:
                raise ValueError(kind)
    return True


def of(bucket: Bucket, role: Role) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(policy(f"s3://{bucket.name}/models", role))
    return found


def denied(bucket: Bucket, proxy: Proxy, role: Role) -> set[tuple[str, str]]:
    """What the role may not do of all that was asked, without the bucket's name in the resources."""
    document = of(bucket, role)
    deleted = [
        f"{bucket.name}/models/{key}" for key in (f"{DIGITS}/1/saved_model.pb", f".deployctl/retired/{DIGITS}/1.json")
    ]
    return {
        (action, resource.partition(f"{bucket.name}/models/")[2])
        for action, resource, conditions in asked(proxy, deleted)
        if not allows(document, action, resource, conditions)
    }


@pytest.fixture
def repository(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> S3ModelRepository:
    """A repository behind the proxy that keeps nothing of what was retired."""
    clock = SystemClock()
    cache = VersionCache(CacheOptions(tmp_path / "cache"), clock, frozenset)
    store = S3Store(bucket.options(endpoint_url=proxy.endpoint, addressing="path"))
    return S3ModelRepository(store, cache, clock, grace_s=0.0)


def test_a_publisher_may_do_all_that_publishing_asks_for(
    bucket: Bucket, proxy: Proxy, repository: S3ModelRepository, tmp_path: Path
) -> None:
    publish(repository, DIGITS, write_export(tmp_path / "export", SMALL_EXPORT))
    repository.examine()
    repository.discard_leftovers()

    assert denied(bucket, proxy, Role.PUBLISHER) == set()
    assert denied(bucket, proxy, Role.RETIRER) == set()
    assert {action for action, _ in denied(bucket, proxy, Role.SERVER)} >= {"s3:PutObject", "s3:DeleteObject"}


def test_a_retirer_may_do_all_that_retiring_asks_for_and_a_publisher_may_not(
    bucket: Bucket, proxy: Proxy, repository: S3ModelRepository, tmp_path: Path
) -> None:
    publish(repository, DIGITS, write_export(tmp_path / "export", SMALL_EXPORT))
    proxy.requests.clear()
    proxy.headers.clear()

    repository.retire(DIGITS, ONE)

    assert denied(bucket, proxy, Role.RETIRER) == set()
    assert denied(bucket, proxy, Role.PUBLISHER) == {("s3:PutObject", f".deployctl/manifests/{DIGITS}/1.json")}
    assert repository.discard_leftovers() == (f"retired {DIGITS}@1",)
    assert not bucket.keys(f"{DIGITS}/1/")
    assert denied(bucket, proxy, Role.RETIRER) == set()


def test_a_server_may_do_all_that_fetching_asks_for(
    bucket: Bucket, proxy: Proxy, repository: S3ModelRepository, tmp_path: Path
) -> None:
    publish(repository, DIGITS, write_export(tmp_path / "export", SMALL_EXPORT))
    proxy.requests.clear()
    proxy.headers.clear()

    assert repository.catalogue() == {DIGITS: (ONE,)}
    repository.ensure_local(DIGITS, ONE, Observer())

    assert denied(bucket, proxy, Role.SERVER) == set()


@pytest.mark.parametrize("role", Role)
def test_nobody_may_remove_a_manifest_or_reach_beyond_the_prefix(bucket: Bucket, role: Role) -> None:
    document = of(bucket, role)
    root = f"arn:aws:s3:::{bucket.name}"

    assert not allows(document, "s3:DeleteObject", f"{root}/models/.deployctl/manifests/{DIGITS}/1.json", {})
    for action in sorted({action for _, _, action in ACTIONS} - {"s3:ListBucket", "s3:ListBucketMultipartUploads"}):
        assert not allows(document, action, f"{root}/others/digits/1/saved_model.pb", {}), action
    assert not allows(document, "s3:ListBucket", root, {"s3:prefix": "others/"})


@pytest.mark.parametrize("role", Role)
def test_a_key_is_for_writing_only_where_somebody_writes(role: Role) -> None:
    document = json.loads(policy("s3://models", role, kms_key_id="abc", tagged=True))
    (key,) = [each for each in document["Statement"] if each["Sid"] == "Key"]

    assert ("kms:GenerateDataKey" in key["Action"]) is role.publishes
    assert bool(re.search("PutObjectTagging", json.dumps(document))) is role.publishes
