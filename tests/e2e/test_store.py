"""The main job with a repository in an object store, as a user does it, and with the store gone."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.s3 import CREDENTIALS, Bucket, make_bucket, running_store
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, Workspace, ask

pytestmark = pytest.mark.tensorflow

_SETTINGS = """\
[repository]
model_base_path = "s3://{bucket}/team"
[repository.s3]
endpoint_url = "{endpoint}"
region = "us-east-1"
[targets.local]
rest_port = 0
grpc_port = 0
gates = []
"""


def make_workspace(root: Path, bucket: Bucket, endpoint: str = "") -> Workspace:
    root.mkdir()
    (root / "deployctl.toml").write_text(_SETTINGS.format(bucket=bucket.name, endpoint=endpoint or bucket.endpoint))
    workspace = Workspace(root, environment={**CREDENTIALS, "AWS_EC2_METADATA_DISABLED": "true"})
    workspace.ok("init")
    return workspace


@pytest.fixture
def team(bucket: Bucket, tmp_path: Path) -> Iterator[Workspace]:
    workspace = make_workspace(tmp_path / "work", bucket)
    yield workspace
    workspace.down()


def test_promote_predict_and_roll_back_go_on_when_the_store_is_gone(
    bucket: Bucket, s3_server: str, tmp_path: Path
) -> None:
    del s3_server
    with ExitStack() as stack:
        own = stack.enter_context(ExitStack())
        endpoint = own.enter_context(running_store(tmp_path))
        workspace = make_workspace(tmp_path / "work", make_bucket(endpoint, bucket.name), endpoint)
        stack.callback(workspace.down)
        workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
        workspace.ok("up")
        workspace.ok("promote", "half@1")
        workspace.ok("promote", "half@2")
        # The cache is worth no backup.
        workspace.ok("down")
        shutil.rmtree(workspace.root / ".deployctl" / "cache")
        workspace.ok("up")
        assert ask(workspace.rest(), "half") == 4.0
        own.close()

        rolled_back = workspace.json("rollback", "half", "-m", "the store is gone too")

        assert rolled_back["version"] == 1
        assert ask(workspace.rest(), "half") == 3.0
        assert "healthy" in workspace.ok("status")
        # Nor does a server that starts anew need the store.
        workspace.ok("down")
        workspace.ok("up")
        assert ask(workspace.rest(), "half") == 3.0
        assert workspace.fails(10, "versions").count(endpoint) == 1


def test_what_others_put_into_the_bucket_is_adopted(team: Workspace, bucket: Bucket) -> None:
    for path in HALF_PLUS_TWO.rglob("*"):
        if path.is_file():
            key = f"team/half/3/{path.relative_to(HALF_PLUS_TWO)}"
            bucket.client.put_object(Bucket=bucket.name, Key=key, Body=path.read_bytes())

    assert team.json("adopt", "half")["adopted"] == [3]
    assert team.json("show", "half@3")["manifest"]["version"] == 3
    team.publish("half", HALF_PLUS_TWO)
    assert [each["version"] for each in team.json("versions", "half")["versions"]] == [3]


def test_archives_and_urls_are_published_as_what_they_hold(team: Workspace, bucket: Bucket, tmp_path: Path) -> None:
    archive = tmp_path / "packed.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(HALF_PLUS_THREE, "some/where")
    shutil.make_archive(str(tmp_path / "zipped"), "zip", HALF_PLUS_THREE)
    bucket.client.upload_file(str(archive), bucket.name, "exports/remote.tar.gz")
    for path in HALF_PLUS_THREE.rglob("*"):
        if path.is_file():
            bucket.client.upload_file(str(path), bucket.name, f"exports/plain/{path.relative_to(HALF_PLUS_THREE)}")

    urls = [f"s3://{bucket.name}/exports/{name}" for name in ("remote.tar.gz", "plain")]
    published = [team.json("publish", each) for each in (str(archive), str(tmp_path / "zipped.zip"), *urls)]

    assert [each["model"] for each in published] == ["packed", "zipped", "remote", "plain"]
    assert {each["digest"] for each in published} == {
        team.json("publish", str(HALF_PLUS_THREE), "--model", "as-is")["digest"]
    }
    assert team.json("show", "plain@1")["manifest"]["provenance"]["source"] == urls[1]
    assert list((team.root / ".deployctl/unpacked/.deployctl/staging").iterdir()) == []


def test_sources_that_cannot_be_published_are_named_as_they_were_given(
    team: Workspace, bucket: Bucket, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "empty.tar", "w") as tar:
        tar.add(HALF_PLUS_TWO / "assets", "assets")
    (tmp_path / "text.zip").write_text("no archive")
    nothing = f"s3://{bucket.name}/exports/nothing"

    assert f"error: {tmp_path / 'empty.tar'} " in team.fails(1, "publish", str(tmp_path / "empty.tar"), hint="tar -tvf")
    assert "text.zip cannot be unpacked" in team.fails(1, "publish", str(tmp_path / "text.zip"), hint="unzip -l")
    assert "has nothing to publish" in team.fails(1, "publish", nothing, hint="aws s3 ls")
    team.fails(10, "publish", "s3://no-such-bucket-anywhere/export", hint="aws s3 mb")
    team.fails(2, "publish", "gs://bucket/export")


def test_a_copy_is_recorded_where_it_went_with_where_it_came_from(
    team: Workspace, bucket: Bucket, tmp_path: Path
) -> None:
    production = Workspace.make(tmp_path / "production")
    team.publish("half", HALF_PLUS_TWO)
    team.ok("publish", str(HALF_PLUS_THREE), "--model", "half", "--metric", "accuracy=0.9", "--run", "run-7")

    settings = str(production.root / "deployctl.toml")
    document = team.json("copy", "half@2", "--to", settings)
    there = team.json("copy", "half@2", "--to", f"s3://{bucket.name}/production", "--keep-number")

    assert (document["version"], document["created"]) == (1, True)
    manifest = production.json("show", "half@1")["manifest"]
    assert manifest["digest"] == document["digest"] == there["digest"]
    assert manifest["provenance"]["source"] == f"s3://{bucket.name}/team/half/2"
    assert (manifest["provenance"]["run"], manifest["provenance"]["metrics"]) == ("run-7", {"accuracy": 0.9})
    assert [each["recorded"] for each in production.json("versions", "half")["versions"]] == [True]
    production.ok("verify", "half@1")
    assert there["version"] == 2
    assert "already in" in team.ok("copy", "half@2", "--to", settings)
    team.ok("copy", "half@1", "--to", settings, "--keep-number", "--model", "other")
    team.fails(1, "copy", "half@1", "--to", settings, "--keep-number", hint="deployctl copy")
    assert "would be copied" in team.ok("copy", "half@1", "--to", settings, "--model", "third", "--dry-run")
    assert {each["model"] for each in production.json("versions")["models"]} == {"half", "other"}
