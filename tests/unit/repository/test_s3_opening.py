"""Settings of an object store that cannot be right are refused before anything is asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployctl.errors import SettingsError, StorageError
from deployctl.repository.opening import Opening
from deployctl.repository.s3_opening import open_s3, s3_options
from deployctl.system import SystemClock


def opening(tmp_path: Path, **options: Any) -> Opening:
    return Opening("s3://models/team", tmp_path, SystemClock(), options)


@pytest.mark.parametrize("tag", ["novalue", "=value", ""])
def test_a_tag_is_a_key_and_a_value(tmp_path: Path, tag: str) -> None:
    with pytest.raises(SettingsError, match=rf"repository\.s3\.tags: '{tag}' is not KEY=VALUE") as caught:
        s3_options(opening(tmp_path, tags=("team=vision", tag)))

    assert caught.value.exit_code == 2


def test_the_value_of_a_tag_may_be_empty(tmp_path: Path) -> None:
    assert s3_options(opening(tmp_path, tags=("team=", "a=b=c"))).tags == ("team=", "a=b=c")


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("127.0.0.1:28601", "http://127.0.0.1:28601"),
        ("minio:9000", "http://minio:9000"),
        ("minio", "http://minio"),
        ("ftp://minio:9000/", "http://minio:9000"),
        ("admin:s3cret@minio:9000", "http://minio:9000"),
    ],
)
def test_an_endpoint_is_a_url(tmp_path: Path, url: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=r"repository\.s3\.endpoint_url: .* is no URL of a store") as caught:
        s3_options(opening(tmp_path, endpoint_url=url))

    assert caught.value.exit_code == 2
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint == f"deployctl --set repository.s3.endpoint_url={meant} versions"


def test_an_endpoint_has_a_port_that_can_be(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'minio:port' is no URL of a store") as caught:
        s3_options(opening(tmp_path, endpoint_url="http://admin:s3cret@minio:port"))

    assert caught.value.hint == "deployctl config show --origin"


def test_a_region_that_is_none_is_not_taken_for_an_endpoint(tmp_path: Path) -> None:
    pytest.importorskip("boto3")

    with pytest.raises(StorageError, match="region"):
        open_s3(opening(tmp_path, region="eu central")).models()


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_of_the_environment_is_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pytest.importorskip("boto3")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "test")
    monkeypatch.setenv(name, "minio:9000")

    with pytest.raises(SettingsError, match=f"{name}: 'minio:9000' is no URL of a store"):
        open_s3(opening(tmp_path)).models()
