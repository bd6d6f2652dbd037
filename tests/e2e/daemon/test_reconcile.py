"""A daemon keeps a real server as it is recorded, beside people and programs that change things."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_phases import killed_in
from tests.support.api import api_of, metrics, new_token
from tests.support.closed_loop import ClosedLoop
from tests.support.daemon import daemon
from tests.support.s3 import CREDENTIALS, Bucket
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, Workspace, ask

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("daemon-reconcile")]

TIMEOUT_S = 120.0
LOOP_S = 5.0
DAEMON = '\n[daemon]\nreconcile_interval_s = "1s"\nlisten = ""\nlease_s = "2s"\n'


def until(true: Callable[[], Any], what: str) -> None:
    deadline, pause = time.monotonic() + TIMEOUT_S, threading.Event()
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        pause.wait(0.5)


@pytest.fixture(scope="module")
def served_half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Version 2 of `half` serves, version 1 stands by; the daemon looks every second."""
    workspace = Workspace.make(tmp_path_factory.mktemp("reconciled") / "work")
    with (workspace.root / "deployctl.toml").open("a") as settings:
        settings.write(DAEMON)
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    workspace.ok("promote", "half@2")
    yield workspace
    workspace.down()


@dataclass(frozen=True)
class Half:
    """The workspace, as a test finds and leaves it; `began` is the newest event when the test began."""

    workspace: Workspace
    began: int

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What was recorded of a kind during the test, newest first."""
        found = history(self.workspace)
        return [event for event in found if event["kind"] == kind and event["sequence"] > self.began]


@pytest.fixture
def half(served_half: Workspace) -> Half:
    return Half(served_half, history(served_half)[0]["sequence"])


def history(workspace: Workspace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workspace.json("history", "--target", "local", "--limit", "200")["events"]
    return found


def server_record(workspace: Workspace) -> Path:
    return workspace.root / ".deployctl" / "local" / "server.json"


def kill_the_server(workspace: Workspace) -> None:
    os.kill(int(json.loads(server_record(workspace).read_text())["pid"]), signal.SIGKILL)


def loaded(workspace: Workspace) -> list[tuple[int, str]]:
    """What the server has, descending."""
    model = workspace.json("status", "local")["targets"][0]["models"][0]
    return [(each["version"], each["state"]) for each in model["versions"] if each["state"] != "END"]


def tell_behind_its_back(workspace: Workspace, *, versions: tuple[int, ...], stable: int) -> None:
    """Sends the server another configuration, as a program would that knows nothing of deployctl."""
    import grpc

    from deployctl.protos import serving_pb2

    address = workspace.json("status", "local")["targets"][0]["endpoints"]["grpc"]
    request = serving_pb2.ReloadConfigRequest()
    entry = request.config.model_config_list.config.add(
        name="half", base_path=str(workspace.root / "models" / "half"), model_platform="tensorflow"
    )
    entry.model_version_policy.specific.versions.extend(versions)
    entry.version_labels["stable"] = stable
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
            request_serializer=serving_pb2.ReloadConfigRequest.SerializeToString,
            response_deserializer=serving_pb2.ReloadConfigResponse.FromString,
        )
        assert call(request, timeout=30).status.error_code == 0


def test_a_killed_server_comes_back_with_the_same_versions(half: Half) -> None:
    token = new_token(half.workspace, "prometheus", "viewer")
    starts, memory = (f'deployctl_target_{name}{{target="local"}}' for name in ("starts_total", "memory_bytes"))
    with daemon(half.workspace) as running:
        api = api_of(running, token)
        until(lambda: metrics(api).get(memory, 0.0) > 50e6, "the server to be measured")
        assert metrics(api)[starts] == 0
        kill_the_server(half.workspace)

        until(lambda: half.events("target.started"), "the server to come back")

        until(lambda: metrics(api)[starts] == 1, "the restart to be counted")
        assert loaded(half.workspace) == [(2, "AVAILABLE"), (1, "AVAILABLE")]
        assert ask(half.workspace.rest(), "half") == 4.0
        assert half.events("target.started")[0]["reason"] == "the server was down"
        assert running.stop() == 0


def test_a_configuration_edited_behind_its_back_is_repaired(half: Half) -> None:
    with daemon(half.workspace) as running:
        running.await_line("leading")
        tell_behind_its_back(half.workspace, versions=(1,), stable=1)

        until(lambda: half.events("target.drifted"), "the drift to be recorded")

        assert ask(half.workspace.rest(), "half") == 4.0
        assert loaded(half.workspace) == [(2, "AVAILABLE"), (1, "AVAILABLE")]
        assert running.stop() == 0
    assert [event["data"]["repaired"] for event in half.events("target.drifted")] == [True]


def test_what_was_recorded_is_a_reason_to_look_however_long_the_interval(half: Half) -> None:
    token = new_token(half.workspace, "watcher", "viewer")
    with daemon(half.workspace, DEPLOYCTL_DAEMON_RECONCILE_INTERVAL_S="1h") as running:
        api = api_of(running, token)
        until(lambda: 'deployctl_target_up{target="local"}' in metrics(api), "the first look")
        tell_behind_its_back(half.workspace, versions=(1, 2), stable=1)
        half.workspace.ok("freeze", "local", "-m", "something is recorded")

        until(lambda: half.events("target.drifted"), "the drift to be recorded")

        assert ask(half.workspace.rest(), "half") == 4.0
        assert running.stop() == 0
    half.workspace.ok("unfreeze", "local", "-m", "all is well")


def test_drift_that_is_only_to_be_told_is_told_once_and_by_a_later_daemon_repaired(half: Half) -> None:
    with daemon(half.workspace, DEPLOYCTL_DAEMON_DRIFT="report") as running:
        running.await_line("leading")
        url = half.workspace.rest()
        file = half.workspace.root / ".deployctl" / "local" / "models.config"
        right = file.read_text()
        tell_behind_its_back(half.workspace, versions=(1, 2), stable=1)
        file.write_text("")
        until(lambda: told(half) == 2, "the drift to be recorded")
        events = half.events("target.drifted")

        let_rounds_pass(half)

        assert ask(url, "half") == 3.0
        assert half.events("target.drifted") == events
        assert not any(event["data"]["repaired"] for event in events)
        running.kill()

    shown = half.workspace.run("status", "-o", "json")
    (target,) = json.loads(shown.stdout)["targets"]
    assert (shown.returncode, target["healthy"]) == (6, False)
    label, of_file = target["models"][0]["drift"], target["drift"]
    assert label == ["label stable is at @2 by the record, and @1 answers"]
    assert [f"half: {label[0]}", *of_file] == events[0]["data"]["differences"]
    lines = half.workspace.run("status").stdout.splitlines()
    assert lines[-2:] == [f"local: {of_file[0]}", f"local/half: {label[0]}"]

    with daemon(half.workspace) as running:
        until(lambda: half.events("target.drifted")[0]["data"]["repaired"], "the repair to be recorded")
        assert ask(half.workspace.rest(), "half") == 4.0
        assert file.read_text() == right
        assert running.stop() == 0


def told(half: Half) -> int:
    """How many differences were recorded last."""
    drifted = half.events("target.drifted")
    return len(drifted[0]["data"]["differences"]) if drifted else 0


def test_a_target_that_was_taken_down_stays_down_until_it_is_brought_up(half: Half) -> None:
    with daemon(half.workspace) as running:
        running.await_line("leading")
        half.workspace.ok("down")

        let_rounds_pass(half)

        assert not server_record(half.workspace).exists()
        assert half.events("target.started") == []
        half.workspace.ok("up")
        kill_the_server(half.workspace)
        until(lambda: len(half.events("target.started")) == 2, "the server to come back")
        assert running.stop() == 0


def test_a_server_that_does_not_start_is_tried_again_after_pauses_that_double(half: Half) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        changed = {"DEPLOYCTL_TARGETS_LOCAL_REST_PORT": port, "DEPLOYCTL_DAEMON_RECONCILE_INTERVAL_S": "0.1"}
        with daemon(half.workspace, **changed) as running:
            running.await_line("leading")
            known = len(ups(half.workspace))
            began = time.monotonic()
            kill_the_server(half.workspace)

            until(lambda: len(ups(half.workspace)) >= known + 4, "four starts")

            # 1 s, 2 s and 4 s; with a second for another look, four starts without pauses take less.
            assert time.monotonic() - began >= 7.0
            assert running.await_line("in use")["level"] == "warning"
            assert half.events("target.started") == []
            taken.close()
            until(lambda: half.events("target.started"), "the server to come back")
            assert running.stop() == 0


def ups(workspace: Workspace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workspace.json("op", "list", "-n", "100")["operations"]
    return [each for each in found if each["verb"] == "up" and each["state"] not in {"running", "waiting"}]


def test_state_that_is_not_what_the_events_say_is_told_and_left_as_it_is(half: Half) -> None:
    number = half.workspace.json("status")["targets"][0]["models"][0]["revision"]
    half.workspace.ok("down")
    with changed_state(half.workspace, number):
        with daemon(half.workspace) as running:
            line = running.await_line("deployctl audit verify tells more")
            assert "of half on local is current by the state, and" in line["message"]
            assert line["level"] == "error"
            let_rounds_pass(half)
            assert running.stop() == 0
        assert "by the events" in half.workspace.run("audit", "verify").stderr
        told = half.workspace.run("audit", "verify", "-o", "json")
        assert (told.returncode, json.loads(told.stdout)["intact"]) == (10, True)
        assert "by the events" in json.loads(told.stdout)["disagreement"]
    half.workspace.ok("audit", "verify")
    half.workspace.ok("up")


@contextmanager
def changed_state(workspace: Workspace, number: int) -> Iterator[None]:
    """Says of a revision that it is not the current one, past deployctl, while the block runs."""
    for is_current in (False, True):
        with closing(sqlite3.connect(workspace.root / "deployctl.db")) as connection, connection:
            connection.execute("UPDATE revisions SET is_current = ? WHERE number = ?", (is_current, number))
        if not is_current:
            yield


@pytest.mark.parametrize("phase", ["load", "switch", "finish"])
def test_what_a_killed_promotion_left_is_settled_without_a_command(half: Half, phase: str) -> None:
    with daemon(half.workspace) as running:
        running.await_line("leading")
        killed_in(half.workspace, phase, "promote", "half@1")
        left = half.workspace.json("op", "list", "-n", "5")["operations"]
        name = next(each["id"] for each in left if each["verb"] == "promote")

        until(lambda: half.workspace.json("op", "show", name)["state"] == "settled", "the promotion to be settled")

        until(lambda: half.workspace.run("status").returncode == 0, "the server to serve what is recorded")
        running.await_line("which is dead, was cleared away")
        assert ask(half.workspace.rest(), "half") == 4.0
        assert running.stop() == 0


def test_promotions_beside_a_daemon_lose_no_request_and_meet_no_lock(half: Half) -> None:
    with daemon(half.workspace) as running:
        running.await_line("leading")
        path = "/v1/models/half/labels/stable:predict"
        with ClosedLoop(half.workspace.rest(), path).running() as clients:
            began, version = time.monotonic(), 2
            while time.monotonic() - began < LOOP_S or version != 2:
                version = 3 - version
                half.workspace.ok("promote", f"half@{version}")
        assert running.stop() == 0

    assert clients.failures == []
    assert sum(clients.answers.values()) > 0
    assert [
        line["message"] for line in running.lines() if "in use" in line["message"] or line["level"] == "error"
    ] == []
    assert half.events("target.drifted") == []


def let_rounds_pass(half: Half) -> None:
    """Returns when the daemon has looked at everything again: that something ran out is seen by it alone."""
    half.workspace.ok("freeze", "local", "--for", "1s", "-m", "rounds pass")
    until(lambda: half.events("target.unfrozen"), "rounds to pass")


def test_versions_that_this_machine_has_lost_are_fetched_again_from_the_store(bucket: Bucket, tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir()
    (root / "deployctl.toml").write_text(
        f'[repository]\nmodel_base_path = "s3://{bucket.name}/team"\n'
        f'[repository.s3]\nendpoint_url = "{bucket.endpoint}"\nregion = "us-east-1"\n'
        f"[targets.local]\nrest_port = 0\ngrpc_port = 0\ngates = []\n{DAEMON}"
    )
    workspace = Workspace(root, environment={**CREDENTIALS, "AWS_EC2_METADATA_DISABLED": "true"})
    workspace.ok("init")
    try:
        workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
        workspace.ok("up")
        workspace.ok("promote", "half@1")
        workspace.ok("promote", "half@2")
        url = workspace.rest()
        cache = root / ".deployctl" / "cache" / "half"
        with daemon(workspace) as running:
            running.await_line("leading")
            for version in ("2", "1"):
                shutil.rmtree(cache / version)
                until((cache / version / "saved_model.pb").exists, "the version to be fetched")
                until(lambda: workspace.run("status").returncode == 0, "the server to serve what is recorded")
            assert running.stop() == 0
        assert loaded(workspace) == [(2, "AVAILABLE"), (1, "AVAILABLE")]
        assert ask(url, "half") == 4.0
    finally:
        workspace.down()
