"""A daemon takes versions back that do worse than those before them, once, and tells of what it cannot mend."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.closed_loop import ClosedLoop
from tests.support.daemon import daemon
from tests.support.models import TensorFlowModels
from tests.support.webhooks import receiver
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, Workspace, ask

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("daemon-health")]

TIMEOUT_S = 120.0
TARGET = """
[targets.local]
rest_port = 0
grpc_port = 0
gates = []
[targets.local.health]
soak_s = "10m"
probe_interval_s = "1s"
[daemon]
reconcile_interval_s = "1s"
listen = ""
"""
STABLE = "/v1/models/{}/labels/stable:predict"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = Workspace.make(tmp_path_factory.mktemp("watched") / "work", targets=TARGET)
    workspace.ok("up")
    yield workspace
    workspace.down()


def until(true: Callable[[], Any], what: str) -> None:
    deadline, pause = time.monotonic() + TIMEOUT_S, threading.Event()
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        pause.wait(0.5)


def history(workspace: Workspace, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workspace.json("history", *words, "--limit", "200")["events"]
    return found


def changes(workspace: Workspace, model: str) -> list[tuple[str, str]]:
    """The changes of a model that serve, oldest first, with their reasons."""
    events = reversed(history(workspace, model))
    pending = {}
    found = []
    for event in events:
        if event["kind"] == "revision.pending":
            pending[event["data"]["revision"]] = event["data"]["kind"]
        if event["kind"] == "revision.serving":
            found.append((pending[event["data"]["revision"]], event["reason"]))
    return found


def let_rounds_pass(workspace: Workspace) -> None:
    sequence = history(workspace)[0]["sequence"]
    workspace.ok("freeze", "local", "--for", "3s", "-m", "rounds pass")
    until(
        lambda: any(
            event["kind"] == "target.unfrozen" and event["sequence"] > sequence for event in history(workspace)
        ),
        "rounds to pass",
    )


@contextmanager
def telling(workspace: Workspace, url: str) -> Iterator[None]:
    """Has the daemons of the block tell a receiver of rollbacks."""
    file = workspace.root / "deployctl.toml"
    text = file.read_text()
    file.write_text(f'{text}\n[notifications.ops]\nurl = "{url}"\nevents = ["rolled-back"]\n')
    try:
        yield
    finally:
        file.write_text(text)


def call_wrongly(workspace: Workspace, model: str, times: int) -> None:
    """Sends requests that the model cannot answer."""
    url = f"{workspace.rest()}{STABLE.format(model)}"
    for _ in range(times):
        request = urllib.request.Request(url, b'{"instances": ["no number"]}')
        with pytest.raises(urllib.error.HTTPError) as failed:
            urllib.request.urlopen(request, timeout=30)
        failed.value.close()


def expect(workspace: Workspace, model: str, answer: float) -> None:
    """Makes a golden record of a model by hand: for 2, `answer`."""
    folder = workspace.root / "golden"
    folder.mkdir(exist_ok=True)
    record = {"inputs": {"x": [2.0]}, "outputs": {"y": [answer]}}
    (folder / f"{model}.jsonl").write_text(json.dumps(record) + "\n")


def test_versions_that_answer_golden_requests_wrongly_are_taken_back_once_each(watched: Workspace) -> None:
    watched.publish("wrong", HALF_PLUS_TWO, HALF_PLUS_THREE)
    watched.ok("publish", str(HALF_PLUS_THREE), "--model", "wrong", "--new-version")
    expect(watched, "wrong", 3.0)
    watched.ok("promote", "wrong@1")
    url = watched.rest()
    with receiver() as server, telling(watched, server.url), daemon(watched) as running:
        running.await_line("telling")

        for version in (2, 3):
            watched.ok("promote", f"wrong@{version}")
            until(lambda: len(changes(watched, "wrong")) == 2 * version - 1, "the version to be taken back")  # noqa: B023
            assert ask(url, "wrong") == 3.0
        let_rounds_pass(watched)
        server.await_taken(2)
        assert running.stop() == 0

    told = [each.document for each in server.taken()]
    assert [(each["event"], each["version"], each["previous_version"]) for each in told] == [
        ("rolled-back", 1, 2),
        ("rolled-back", 1, 3),
    ]
    assert all(each["reason"].startswith("soak: answers otherwise than is recorded") for each in told)
    done = changes(watched, "wrong")
    assert [kind for kind, _ in done] == ["promote", "promote", "rollback", "promote", "rollback"]
    assert done[2][1].startswith("soak: answers otherwise than is recorded: record 1: output 'y'")
    assert watched.json("status", "local")["targets"][0]["models"]


def test_a_version_whose_latency_doubles_is_taken_back(watched: Workspace, tensorflow_models: TensorFlowModels) -> None:
    watched.publish("slow", HALF_PLUS_TWO, tensorflow_models.path("slow_half_plus_two"))
    watched.ok("promote", "slow@1")
    with daemon(watched) as running, ClosedLoop(watched.rest(), STABLE.format("slow")).running() as clients:
        running.await_line("leading")
        until(lambda: sum(clients.answers.values()) > 100, "usual answers")
        let_rounds_pass(watched)

        watched.ok("promote", "slow@2")

        until(lambda: len(changes(watched, "slow")) == 3, "the version to be taken back")
        assert running.stop() == 0
    kind, reason = changes(watched, "slow")[-1]
    assert kind == "rollback"
    assert reason.startswith("soak: took ")
    assert clients.failures == []


def test_a_version_that_went_wrong_after_its_soak_is_told_of_once_and_so_is_its_recovery(watched: Workspace) -> None:
    watched.publish("later", HALF_PLUS_TWO)
    watched.ok("promote", "later@1")
    expect(watched, "later", 9.0)
    began = history(watched)[0]["sequence"]

    def told(kind: str) -> list[dict[str, Any]]:
        return [each for each in history(watched) if each["kind"] == kind and each["sequence"] > began]

    with daemon(watched, DEPLOYCTL_TARGETS_LOCAL_HEALTH_SOAK_S="0") as running:
        until(lambda: told("target.degraded"), "the target to be degraded")
        let_rounds_pass(watched)
        assert "later@1 answers otherwise than is recorded" in told("target.degraded")[0]["data"]["problem"]
        expect(watched, "later", 3.0)
        until(lambda: told("target.recovered"), "the target to recover")
        assert len(told("target.degraded")) == len(told("target.recovered")) == 1
        call_wrongly(watched, "later", 30)
        until(lambda: len(told("target.degraded")) == 2, "the failures to be told of")
        assert running.stop() == 0

    # The golden requests are among those that it answered.
    problem = told("target.degraded")[0]["data"]["problem"]
    assert re.search(r"later failed \d\d.*% of its requests of the last minute", problem)
    assert changes(watched, "later") == [("promote", "")]
