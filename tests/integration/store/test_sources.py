"""Exports in a bucket that cannot be published: each is told with a command that lists it where it is."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from deployctl.domain.clock import Observer
from deployctl.errors import (
    DeployctlError,
    InvalidModelError,
    NotASavedModelError,
    UnsafeArchiveError,
    UnsafeExportError,
)
from deployctl.repository.sources import ExportSource, Scratch
from deployctl.system import SystemClock
from tests.support.s3 import Bucket


def refused(bucket: Bucket, tmp_path: Path, key: str, *, later: Exception | None = None) -> tuple[DeployctlError, str]:
    """Returns what publishing from below `key` ends with, and the option that has `aws` ask the same store."""
    options = {"endpoint_url": bucket.endpoint, "region": "us-east-1"}
    scratch = Scratch(tmp_path / "unpacked", SystemClock(), Observer(), options)
    source = ExportSource(f"s3://{bucket.name}/{key}")
    with pytest.raises(DeployctlError) as caught:
        use(source, scratch, later)
    return caught.value, f"--endpoint-url {bucket.endpoint}"


def use(source: ExportSource, scratch: Scratch, later: Exception | None) -> None:
    with source.opened(scratch):
        if later is not None:
            raise later


@pytest.mark.parametrize("name", ["odd//evil", f"odd/{'d/' * 101}file"], ids=["no path", "deep"])
def test_a_key_that_is_no_path_is_listed(bucket: Bucket, tmp_path: Path, name: str) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key=name, Body=b"x")

    error, option = refused(bucket, tmp_path, "odd")

    assert type(error) is UnsafeExportError
    assert error.hint == f"aws s3 ls --recursive s3://{bucket.name}/odd/ {option}"


def test_what_is_not_there_is_looked_for_in_the_store_that_was_asked(bucket: Bucket, tmp_path: Path) -> None:
    error, option = refused(bucket, tmp_path, "my export")

    assert type(error) is NotASavedModelError
    assert error.hint == f"aws s3 ls 's3://{bucket.name}/my export/' {option}"


def test_an_archive_that_cannot_be_unpacked_is_listed_in_its_store(bucket: Bucket, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../evil"))
    bucket.client.put_object(Bucket=bucket.name, Key="evil.tar", Body=packed.getvalue())

    error, option = refused(bucket, tmp_path, "evil.tar")

    assert type(error) is UnsafeArchiveError
    assert error.hint == f"aws s3 ls s3://{bucket.name}/evil.tar {option}"


def test_an_export_that_proves_bad_is_listed_in_its_store(bucket: Bucket, tmp_path: Path) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="bad/file", Body=b"x")

    error, option = refused(bucket, tmp_path, "bad", later=InvalidModelError("bad", "is none"))

    assert error.hint == f"aws s3 ls --recursive s3://{bucket.name}/bad {option}"
