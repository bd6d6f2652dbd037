"""/readyz tells whether the daemon could work: 503 and why while a thing that it needs is away, 200 when it is back."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Answer, ApiClient, api_of, eventually, new_token
from tests.support.daemon import RunningDaemon, daemon
from tests.support.s3 import Bucket
from tests.support.store_proxy import Refuse, running_proxy
from tests.support.workspace import HALF_PLUS_TWO, TARGET, Workspace

_QUIET = '[daemon]\nreconcile_interval_s = "600s"\nlease_s = "600s"\n[lineage]\nbusy_timeout_s = "200ms"\n'
_NOT_RENEWED = "the lease of the daemon was not renewed"
_STAYS_DOWN = "[targets.local.health]\nstart = false\n"
_OTHER = "[targets.other]\nrest_port = 0\ngrpc_port = 0\ngates = []\n"
_REMOTE = """\
[repository]
model_base_path = "s3://{bucket}/models"
[repository.s3]
endpoint_url = "{endpoint}"
region = "us-east-1"
addressing = "path"
deadline_s = "2s"
"""
# Where readers of a database in WAL mode hold their locks (https://www.sqlite.org/walformat.html#wal_index_locks).
_READERS = (120, 8)


def ready(api: ApiClient, status: int) -> Any:
    """Returns what /readyz tells once it answers with `status`."""

    def look() -> Answer | None:
        answer = api.ask("GET", "/readyz")
        assert answer.status in {200, 503}, answer
        return answer if answer.status == status else None

    return eventually(look).json


@contextmanager
def kept(index: Path) -> Iterator[None]:
    """Lets nobody read a SQLite database in WAL mode while the block runs, as a program that hangs might."""
    with index.open("r+b") as file:
        start, length = _READERS
        fcntl.lockf(file, fcntl.LOCK_EX, length, start)
        yield


@pytest.mark.tensorflow
def test_a_store_or_a_server_that_is_away_is_told_until_it_is_back(workspace: Workspace) -> None:
    (workspace.root / "deployctl.toml").write_text(TARGET + _STAYS_DOWN + _OTHER + _QUIET)
    workspace.publish("half", HALF_PLUS_TWO)
    workspace.ok("up", "local")
    workspace.ok("promote", "half@1")
    models, aside = workspace.root / "models", workspace.root / "aside"
    with daemon(workspace) as running:
        api = api_of(running)
        viewer = replace(api, token=new_token(workspace, "watcher", "viewer"))
        other = replace(api, token=new_token(workspace, "other", "viewer", "--target", "other"))
        # A target that nothing was promoted to needs no server.
        all_well = {"database": True, "store": True, "target local": True, "target other": True}
        assert ready(viewer, 200) == {"ready": True, "checks": all_well, "problems": {}}

        models.rename(aside)
        told = ready(viewer, 503)
        aside.rename(models)
        assert (told["ready"], told["checks"]) == (False, {**all_well, "store": False})
        assert str(models) in told["problems"]["store"]
        assert ready(viewer, 200)["ready"] is True

        os.kill(json.loads((workspace.root / ".deployctl/local/server.json").read_text())["pid"], signal.SIGKILL)
        told = ready(viewer, 503)
        assert told["problems"].keys() == {"target local"}
        assert "server" in told["problems"]["target local"]
        # Who has no token hears that a target is down, not which; who may not see it, that something is.
        assert ready(api, 503) == {"ready": False, "checks": {"database": True, "store": True, "targets": False}}
        assert ready(other, 503)["problems"] == {}
        workspace.ok("up", "local")
        assert ready(viewer, 200)["problems"] == {}
        assert running.stop() == 0


def not_renewed_s(running: RunningDaemon) -> float:
    """For how long the daemon has said that its lease is not renewed."""
    times = [datetime.fromisoformat(line["time"]) for line in running.lines() if _NOT_RENEWED in line["message"]]
    return (times[-1] - times[0]).total_seconds() if times else 0.0


def test_a_database_that_another_program_keeps_is_told_until_it_lets_go(workspace: Workspace) -> None:
    (workspace.root / "deployctl.toml").write_text(TARGET + _QUIET.replace("600s", "2s"))
    with daemon(workspace) as running:
        api = api_of(running)
        viewer = replace(api, token=new_token(workspace, "watcher", "viewer"))
        assert ready(viewer, 200)["problems"] == {}

        with kept(workspace.root / "deployctl.db-shm"):
            # Without the database no token is known: who asks without one is told what is away.
            told = ready(api, 503)["checks"]
            assert (told["database"], told["store"]) == (False, True)
            refused = viewer.ask("GET", "/readyz")
            assert (refused.status, refused.json["exit_code"]) == (503, 10)
            assert "the lineage database" in refused.json["error"]
            # Twice as long as the lease lasts.
            eventually(lambda: not_renewed_s(running) > 4.0)
            assert ready(api, 503)["checks"]["database"] is False

        assert ready(viewer, 200)["problems"] == {}
        assert running.stop() == 0
    assert not [line for line in running.lines() if "trace" in line]


def test_an_object_store_that_is_away_is_told_until_it_is_back(bucket: Bucket, tmp_path: Path) -> None:
    with running_proxy(bucket.endpoint) as proxy:
        remote = _REMOTE.format(bucket=bucket.name, endpoint=proxy.endpoint)
        workspace = Workspace.make(tmp_path / "work", targets=remote + _QUIET)
        with daemon(workspace) as running:
            api = api_of(running)
            viewer = replace(api, token=new_token(workspace, "watcher", "viewer"))
            assert ready(viewer, 200)["problems"] == {}

            proxy.inject(Refuse(503, "ServiceUnavailable"))
            assert ready(viewer, 503)["problems"].keys() == {"store"}
            proxy.mend()
            assert ready(viewer, 200)["problems"] == {}
            assert running.stop() == 0
