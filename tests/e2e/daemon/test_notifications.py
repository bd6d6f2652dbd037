"""Receivers on loopback are told what happens, at least once each, whatever fails in between."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import time
from pathlib import Path

import pytest

from examples.webhook_receiver import Verifier
from tests.e2e.daemon.test_reconcile import tell_behind_its_back
from tests.support.daemon import daemon
from tests.support.webhooks import Received, Receiver, receiver
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, HALF_PLUS_TWO_TF2, Workspace, with_unknown_op

KEY = "a key of this test"
EVERYTHING = """
[targets.local]
rest_port = 0
grpc_port = 0
gates = ["ops"]
[targets.local.health]
probe_interval_s = "1s"
[inboxes.exports]
path = "exports"
stalled_s = "100ms"
settle_s = "100ms"
[daemon]
reconcile_interval_s = "1s"
"""


def configure(workspace: Workspace, **urls: str) -> None:
    """Adds channels that are called again soon."""
    with (workspace.root / "deployctl.toml").open("a") as settings:
        for name, url in urls.items():
            # Of a receiver that is only slow, nothing is sent again out of order.
            settings.write(f'\n[notifications.{name}]\nurl = "{url}"\nsecret_env = "KEY"\n')
            settings.write('retry_s = "100ms"\ntimeout_s = "60s"\n')
    workspace.environment["KEY"] = KEY


def settings(workspace: Workspace, text: str) -> None:
    with (workspace.root / "deployctl.toml").open("a") as file:
        file.write(text)


def events(requests: list[Received]) -> list[str]:
    return [each.document["event"] for each in requests]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def freeze(workspace: Workspace, reason: str) -> None:
    workspace.ok("freeze", "local", "-m", reason)


def test_what_users_do_is_told_signed_and_in_order(workspace: Workspace) -> None:
    with receiver() as server:
        configure(workspace, ops=server.url)
        workspace.ok("publish", str(HALF_PLUS_TWO), "--model", "half")
        with daemon(workspace) as running:
            running.await_line("telling")
            workspace.ok("publish", str(HALF_PLUS_TWO_TF2), "--model", "half")
            workspace.ok("up")
            workspace.ok("promote", "half@1")
            workspace.ok("promote", "half@2", "--reason", "better")
            workspace.ok("rollback", "half", "--reason", "worse")
            workspace.ok("quarantine", "half@2", "-m", "it is wrong")
            requests = server.await_taken(6)
            assert running.stop() == 0

    assert events(requests) == ["published", "started", "promoted", "promoted", "rolled-back", "quarantined"]
    for request in requests:
        timestamp = request.headers["Deployctl-Timestamp"]
        signed = f"{timestamp}.".encode() + request.body
        expected = hmac.new(KEY.encode(), signed, hashlib.sha256).hexdigest()
        assert request.headers["Deployctl-Signature"] == f"v1={expected}"
    promoted, rolled_back = requests[3].document, requests[4].document
    assert (promoted["version"], promoted["previous_version"], promoted["reason"]) == (2, 1, "better")
    assert (rolled_back["version"], rolled_back["previous_version"], rolled_back["reason"]) == (1, 2, "worse")
    assert len({request.document["id"] for request in requests}) == 6


def await_told(server: Receiver, event: str, times: int = 1) -> Received:
    """Returns the newest notification of that event as soon as there are so many of it."""

    def found() -> list[Received]:
        return [each for each in server.taken() if each.document["event"] == event]

    with server.grown:
        server.grown.wait_for(lambda: len(found()) >= times, 60)
    assert len(found()) >= times, f"{event} was not told: {events(server.requests)}"
    return found()[-1]


def expect(workspace: Workspace, answer: float) -> None:
    """Says what `half` is to answer for 2."""
    record = {"inputs": {"x": [2.0]}, "outputs": {"y": [answer]}}
    (workspace.root / "golden").mkdir(exist_ok=True)
    (workspace.root / "golden" / "half.jsonl").write_text(json.dumps(record) + "\n")


def test_everything_that_happens_to_versions_and_targets_is_told_to_programs_and_to_people(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path / "work", targets=EVERYTHING)
    bad = with_unknown_op(tmp_path / "bad")
    with receiver() as server, receiver() as chat:
        configure(workspace, ops=server.url, chat=chat.url)
        settings(workspace, 'format = "slack"\n')
        try:
            with daemon(workspace) as running:
                running.await_line("telling")
                workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE, bad)
                workspace.ok("up")
                workspace.fails(3, "promote", "half@3")
                workspace.ok("retire", "half@3", "--reason", "unknown op")
                workspace.ok("promote", "half@1")
                workspace.ok("promote", "half@2")
                workspace.ok("rollback", "half", "--reason", "worse")
                workspace.ok("promote", "half@2")
                export = workspace.root / "exports" / "half" / "run-1"
                export.mkdir(parents=True)
                (export / "saved_model.pb").write_bytes(b"no graph")
                refused = await_told(server, "export-refused").document
                tell_behind_its_back(workspace, versions=(1, 2), stable=1)
                drifted = await_told(server, "drift").document
                expect(workspace, 9.0)
                degraded = await_told(server, "degraded").document
                expect(workspace, 4.0)
                recovered = await_told(server, "recovered").document
                count = len(server.taken())
                people = chat.await_taken(count)
                assert running.stop() == 0
        finally:
            workspace.down()

    told = {each.document["event"]: each.document for each in server.taken()}
    kinds = ["published", "started", "gate-refused", "retired", "promoted", "rolled-back", "export-refused"]
    assert set(told) == {*kinds, "drift", "degraded", "recovered"}
    assert "Mvl" in told["gate-refused"]["details"][0]
    assert (told["retired"]["model"], told["retired"]["version"]) == ("half", 3)
    assert (refused["model"], refused["summary"].split(" of ")[0]) == ("half", "the export half/run-1")
    assert "label stable is at @2 by the record, and @1 answers" in drifted["details"][0]
    assert drifted["summary"].startswith("local serves something else than is recorded, which is repaired: ")
    assert "half@2 answers otherwise than is recorded" in degraded["details"][0]
    assert recovered["summary"].startswith("local has recovered after ")
    verifier = Verifier(KEY.encode())
    for request in server.taken():
        assert verifier.check(request.headers, request.body, now=time.time()) == (200, "new")
    summaries = sorted(each.document["summary"].replace(">", "&gt;") for each in server.taken())
    assert sorted(each.document["text"] for each in people) == summaries


def test_a_version_that_gates_refuse_is_told_with_the_gate(workspace: Workspace, tmp_path: Path) -> None:
    bad = with_unknown_op(tmp_path / "bad")
    with receiver() as server:
        text = (workspace.root / "deployctl.toml").read_text()
        (workspace.root / "deployctl.toml").write_text(text.replace("gates = []", 'gates = ["ops"]'))
        configure(workspace, ops=server.url)
        settings(workspace, 'events = ["gate-refused"]\n')
        with daemon(workspace) as running:
            running.await_line("telling")
            workspace.ok("publish", str(bad), "--model", "half")
            workspace.fails(3, "promote", "half@1")
            (request,) = server.await_taken(1)
            assert running.stop() == 0

    assert (request.document["event"], request.document["model"]) == ("gate-refused", "half")
    assert (request.document["version"], request.document["target"]) == (1, "local")
    assert "Mvl" in request.document["details"][0]


def test_a_receiver_that_fails_is_called_again_after_longer_pauses_also_by_a_later_daemon(
    workspace: Workspace,
) -> None:
    with receiver(500) as server:
        server.always = 503
        configure(workspace, ops=server.url)
        with daemon(workspace) as running:
            running.await_line("telling")
            began = time.monotonic()
            freeze(workspace, "a sale")
            running.await_line("at attempt 4")
            assert running.stop() == 0
        # 100 ms, 200 ms and 400 ms, each shortened by a half at most.
        assert time.monotonic() - began >= 0.35
        (channel,) = workspace.json("notifications", "list")["channels"]
        assert (channel["outstanding"], channel["dead"]) == (1, 0)
        assert channel["error"] == "the receiver answered 503 (Service Unavailable)"
        with daemon(workspace) as running:
            # Where the one before it was: not from the beginning.
            first = running.await_line("was not told of event")
            server.always = None
            server.await_taken(1)
            assert running.stop() == 0

    assert "at attempt 5: the receiver answered 503" in first["message"]
    statuses = [each.status for each in server.requests]
    assert (statuses[0], statuses[-1], set(statuses[1:-1])) == (500, 200, {503})
    assert len({each.document["id"] for each in server.requests}) == 1
    assert (
        Verifier(KEY.encode()).check(server.requests[-1].headers, server.requests[-1].body, now=time.time())[0] == 200
    )


def test_a_receiver_that_never_answers_delays_no_other(workspace: Workspace) -> None:
    with receiver() as silent, receiver() as server:
        silent.hold()
        configure(workspace, silent=silent.url, ops=server.url)
        with daemon(workspace) as running:
            running.await_line("telling")
            freeze(workspace, "one")
            silent.await_requests(1)
            freeze(workspace, "two")
            told = server.await_taken(2)
            # Its call takes a minute; it does not keep the daemon either.
            assert running.stop() == 0

    assert [each.document["reason"] for each in told] == ["one", "two"]
    assert silent.taken() == []


def test_what_is_given_up_is_kept_and_sent_again_on_request(workspace: Workspace) -> None:
    with receiver() as server:
        server.always = 404
        configure(workspace, ops=f"{server.url}/services/SECRET")
        settings(workspace, "attempts = 2\n")
        with daemon(workspace) as running:
            running.await_line("telling")
            freeze(workspace, "a sale")
            running.await_line("given up: deployctl notifications retry ops")
            assert len(server.requests) == 2

            (dead,) = workspace.json("notifications", "dead")["notifications"]
            assert (dead["channel"], dead["attempts"]) == ("ops", 2)
            assert dead["error"] == "the receiver answered 404 (Not Found)"
            assert "a sale" in workspace.ok("notifications", "dead", "ops")
            assert "SECRET" not in workspace.ok("notifications", "list")
            workspace.fails(9, "notifications", "retry", "ops", "99", hint="deployctl notifications dead ops")
            server.always = None
            workspace.ok("notifications", "retry", "ops")
            (request,) = server.await_taken(1)
            assert running.stop() == 0

    assert request.document["reason"] == "a sale"
    assert workspace.json("notifications", "dead")["notifications"] == []
    assert not any("SECRET" in line["message"] for line in running.lines())


def test_a_daemon_that_is_killed_while_it_calls_calls_again_with_the_same_id(workspace: Workspace) -> None:
    with receiver() as server:
        server.hold()
        configure(workspace, ops=server.url)
        settings(workspace, '\n[daemon]\nlease_s = "2s"\n')
        with daemon(workspace) as running:
            running.await_line("telling")
            freeze(workspace, "a sale")
            (cut_off,) = server.await_requests(1)
            running.kill()
        freeze(workspace, "while nobody watched")
        server.answering.set()
        with daemon(workspace) as running:
            taken = server.await_taken(2)
            assert running.stop() == 0

    assert [each.document["reason"] for each in taken] == ["a sale", "while nobody watched"]
    assert taken[0].document["id"] == cut_off.document["id"]


def test_a_receiver_that_comes_back_gets_what_it_missed(workspace: Workspace) -> None:
    port = free_port()
    configure(workspace, ops=f"http://127.0.0.1:{port}")
    with daemon(workspace) as running:
        running.await_line("telling")
        freeze(workspace, "a sale")
        running.await_line("cannot be reached: Connection refused")
        with receiver(port=port) as server:
            (request,) = server.await_taken(1)
        assert running.stop() == 0

    assert request.document["reason"] == "a sale"


def test_a_channel_whose_secret_is_missing_keeps_its_events(workspace: Workspace) -> None:
    with receiver() as server, receiver() as other:
        configure(workspace, ops=server.url, other=other.url)
        settings(workspace, '\n[notifications.chat]\nurl_env = "CHAT_URL"\nformat = "slack"\n')
        with daemon(workspace) as running:
            line = running.await_line("CHAT_URL, which is not set in the environment; its events wait")
            running.await_line("telling ops, other")
            freeze(workspace, "a <b>")
            server.await_taken(1)
            assert line["level"] == "error"
            assert running.stop() == 0
        with receiver() as chat:
            workspace.environment["CHAT_URL"] = chat.url
            with daemon(workspace) as running:
                (request,) = chat.await_taken(1)
                assert running.stop() == 0

    assert list(request.document) == ["text"]
    assert request.document["text"].endswith("a &lt;b&gt;")
    assert "Deployctl-Signature" not in request.headers


def test_a_call_can_be_tried_without_a_daemon(workspace: Workspace) -> None:
    with receiver(200, 302) as server:
        configure(workspace, ops=server.url)
        assert "took it" in workspace.ok("notifications", "test", "ops")
        error = workspace.fails(10, "notifications", "test", "ops", hint="deployctl notifications list")
        assert "302 (Found), and redirects are not followed" in error

    assert events(server.requests) == ["test", "test"]
    workspace.environment.clear()
    workspace.fails(2, "notifications", "test", "ops", hint="export KEY")
    workspace.fails(2, "notifications", "test", "nobody", hint="deployctl notifications list")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('url = "http://h"\nevents = ["promotedd"]', "events names 'promotedd', which is none of adopted, "),
        ("", "must have either url or url_env"),
        ('url = "http://h"\nurl_env = "U"', "has both url and url_env"),
        ('url = "SECRET"', "url does not begin with http"),
        ('url = "http://h"\nattempts = 0', "attempts = 0 would never reach anybody"),
    ],
)
def test_settings_that_can_reach_nobody_are_refused(workspace: Workspace, text: str, words: str) -> None:
    settings(workspace, f"\n[notifications.ops]\n{text}\n")

    error = workspace.fails(2, "notifications", "list", hint="deployctl config show")

    assert words in error
    assert "SECRET" not in error
