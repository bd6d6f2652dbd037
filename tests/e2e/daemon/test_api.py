"""What the command line reads and does is read and done over HTTP, within what a token is for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jsonschema_rs
import pytest

from deployctl.bootstrap import opened
from deployctl.config.load import load
from deployctl.daemon.api.openapi import openapi
from deployctl.domain.clock import Observer
from deployctl.domain.names import ModelName
from tests.support.api import Answer, ApiClient, api_of, eventually, new_token
from tests.support.daemon import RunningDaemon, daemon
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, TARGET, Workspace, ask

_OTHER = "[targets.other]\nrest_port = 0\ngrpc_port = 0\ngates = []\n"
_DAEMON = '[daemon]\npublish_from = ["exports"]\nreconcile_interval_s = "600s"\n'
# Nobody listens there: what it is to be told is given up.
_CHANNEL = '[notifications.ops]\nurl = "http://127.0.0.1:1/SECRET"\nattempts = 1\nevents = ["quarantined"]\n'


@dataclass(frozen=True)
class Place:
    workspace: Workspace
    api: ApiClient
    admin: ApiClient
    scoped: ApiClient
    viewer: ApiClient
    running: RunningDaemon

    def recorded(self, kind: str) -> tuple[str, str, str]:
        """Returns who did the newest thing of a kind, from where, and how."""
        actor = next(each["actor"] for each in self.admin.get("/v1/history")["events"] if each["kind"] == kind)
        return actor["user"], actor["host"], actor["command"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A daemon beside a server that serves `half`; the scoped token is for `half` on `local` only."""
    workspace = Workspace.make(tmp_path_factory.mktemp("api"), targets=TARGET + _OTHER + _DAEMON + _CHANNEL)
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.publish("secret", HALF_PLUS_TWO)
    shutil.copytree(HALF_PLUS_TWO, workspace.root / "exports" / "third")
    workspace.ok("up", "local")
    workspace.ok("promote", "half@1")
    try:
        with daemon(workspace) as running:
            api = api_of(running)
            scope = ("--target", "local", "--model", "half")
            yield Place(
                workspace,
                api,
                replace(api, token=new_token(workspace, "root", "admin")),
                replace(api, token=new_token(workspace, "ci", "deployer", *scope)),
                replace(api, token=new_token(workspace, "watcher", "viewer")),
                running,
            )
            assert running.stop() == 0
            assert not running.errors()
    finally:
        workspace.down()


def test_a_version_is_promoted_and_rolled_back_and_the_token_is_on_record(place: Place) -> None:
    done = place.scoped.post("/v1/promote?wait=120", {"reference": "half@2", "reason": "better"})
    assert (done["version"], done["outcome"]) == (2, "serving")
    assert ask(place.workspace.rest(), "half") == 4.0

    back = place.scoped.post("/v1/rollback?wait=120", {"model": "half", "target": "local"})

    assert (back["version"], back["outcome"]) == (1, "serving")
    assert ask(place.workspace.rest(), "half") == 3.0
    event = place.scoped.get("/v1/history?limit=1")["events"][0]
    assert event["actor"] == {"user": "ci", "host": "127.0.0.1", "ci": "", "command": "api: rollback half"}


def test_what_is_read_is_what_the_command_says(place: Place) -> None:
    pages = {
        "/v1/models": ("versions",),
        "/v1/models/half/versions": ("versions", "half"),
        "/v1/versions/half@2": ("show", "half@2"),
        "/v1/versions/half@stable?target=local": ("show", "half@stable"),
        "/v1/versions/half@1/verification": ("verify", "half@1"),
        "/v1/diff?before=half@1&after=half@2": ("diff", "half@1", "half@2"),
        "/v1/history": ("history",),
        "/v1/operations": ("op", "list"),
        "/v1/locks": ("lock", "list"),
        "/v1/tokens": ("token", "list"),
        "/v1/audit": ("audit", "verify"),
        "/v1/notifications": ("notifications", "list"),
        "/v1/notifications/dead": ("notifications", "dead"),
    }
    for path, words in pages.items():
        assert place.admin.get(path) == place.workspace.json(*words), path
    logged = place.viewer.get("/v1/targets/local/logs?limit=5")["lines"]
    assert "\n".join(logged) in place.workspace.ok("logs", "local", "-n", "1000")
    assert len(logged) == 5


def test_a_token_for_some_sees_nothing_of_the_others(place: Place) -> None:
    for path, methods in openapi()["paths"].items():
        if "get" not in methods or path.endswith("/events"):
            continue
        asked = path.format(model="half", reference="half@1", target="local", operation="none")
        asked += "?before=half@1&after=half@2" if path == "/v1/diff" else ""
        answer = place.scoped.ask("GET", asked)
        assert b"secret" not in answer.body, path
        assert b'"other"' not in answer.body, path
    for path in ("/v1/models/secret/versions", "/v1/versions/secret@1", "/v1/status?target=other", "/v1/tokens"):
        assert place.scoped.ask("GET", path).status == 403, path


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("promote", {"reference": "secret@1"}),
        ("promote", {"reference": "half@2", "target": "other"}),
        ("promote", {"reference": "half@2", "break_glass": "T-1"}),
        ("rollback", {"model": "secret"}),
        ("validate", {"reference": "secret@1"}),
        ("freeze", {"reason": "all of it"}),
        ("freeze", {"reason": "another", "target": "other", "model": "half"}),
        ("unfreeze", {"model": "secret"}),
        ("publish", {"source": "exports/third", "model": "secret"}),
        ("publish", {"source": "exports/third"}),
        ("quarantine", {"reference": "half@2", "reason": "-"}),
        ("quarantine", {"reference": "half@2", "reason": "-", "release": True}),
        ("review", {"model": "half"}),
        ("retire", {"model": "half", "version": 2, "dry_run": True}),
        ("gc", {"dry_run": True}),
        ("locks/release", {"model": "half", "reason": "-"}),
    ],
)
def test_a_deployer_of_one_model_on_one_target_does_nothing_else(place: Place, path: str, body: object) -> None:
    answer = place.scoped.ask("POST", f"/v1/{path}?wait=120", body)

    assert answer.status == 403, answer
    assert answer.json["kind"] == "DeniedError"


def test_a_viewer_changes_nothing(place: Place) -> None:
    for path, methods in openapi()["paths"].items():
        if "post" in methods:
            asked = path.format(operation="20261121T133533262-943fc0d0")
            schema = methods["post"]["requestBody"]["content"]["application/json"]["schema"]
            said = {"reference": "half@2", "model": "half", "source": "exports/third", "reason": "-"}
            body = {name: said[name] for name in schema["required"]}
            assert place.viewer.ask("POST", f"{asked}?wait=60", body).status == 403, path


def test_nothing_is_done_by_get(place: Place) -> None:
    for path, methods in openapi()["paths"].items():
        if "post" in methods:
            assert place.admin.ask("GET", path.format(operation="x")).status == 405, path
            assert place.admin.ask("HEAD", path.format(operation="x")).status == 405, path


@pytest.mark.parametrize(
    "source", ["/etc", "exports/../models/half/1", "../exports", "file:///etc", "s3://a/b", "link"]
)
def test_only_what_is_below_the_places_in_the_settings_is_published(place: Place, source: str) -> None:
    link = place.workspace.root / "exports" / "link"
    if not link.is_symlink():
        link.symlink_to(place.workspace.root / "models")
    answer = place.admin.ask("POST", "/v1/publish?wait=60", {"source": source.replace("link", "exports/link")})

    assert answer.status == 403, answer


def test_an_export_is_published_by_its_path_once(place: Place) -> None:
    body = {"source": "exports/third", "model": "fresh", "tags": {"team": "vision"}, "metrics": {"accuracy": 0.9}}
    first = place.admin.post("/v1/publish?wait=120", body)
    again = place.admin.post("/v1/publish?wait=120", body)

    assert (first["version"], first["created"], again["created"]) == (1, True, False)
    assert place.admin.get("/v1/models/fresh/versions")["versions"][0]["tags"] == {"team": "vision"}


def test_an_operation_goes_on_by_itself_and_tells_what_it_does(place: Place) -> None:
    begun = place.admin.ask("POST", "/v1/validate", {"reference": "half@1", "gates": ["signature"], "fresh": True})
    assert begun.status in {200, 202}

    stream = place.admin.ask("GET", f"{begun.headers['location']}/events")
    events = _events(stream)

    assert stream.headers["content-type"].startswith("text/event-stream")
    assert events[-1]["event"] == "outcome"
    assert events[-1]["data"]["state"] == "done"


def test_a_stream_tells_phases_of_a_commands_operation_and_goes_on_where_it_was_left(place: Place) -> None:
    place.workspace.ok("promote", "half@2")
    operation = place.workspace.json("op", "list")["operations"][0]
    path = f"/v1/operations/{operation['id']}/events"

    events = _events(place.admin.ask("GET", path))

    phases = [each["data"]["phase"] for each in events if each["event"] == "phase"]
    assert phases == [each["phase"] for each in operation["phases"]]
    later = _events(place.admin.ask("GET", path, headers={"Last-Event-ID": events[2]["id"]}))
    assert later == events[3:]
    place.workspace.ok("rollback", "half")


def test_the_same_key_begins_nothing_twice(place: Place) -> None:
    key = {"Idempotency-Key": "build-7"}
    body = {"reference": "half@1", "gates": ["signature"]}
    first = place.admin.ask("POST", "/v1/validate?wait=60", body, headers=key)
    second = place.admin.ask("POST", "/v1/validate?wait=60", body, headers=key)
    other = place.admin.ask("POST", "/v1/validate?wait=60", {"reference": "half@2"}, headers=key)

    assert first.headers["location"] == second.headers["location"]
    assert other.status == 400


def test_bytes_in_quarantine_are_not_promoted_until_they_are_released(place: Place) -> None:
    body = {"reference": "half@2", "reason": "slow"}
    put = place.admin.post("/v1/quarantine?wait=60", body)
    assert (put["version"], put["quarantined"]) == (2, True)
    (found,) = place.viewer.get("/v1/models/half/quarantines")["versions"]
    assert (found["version"], found["reason"], found["actor"]["user"]) == (2, "slow", "root")
    refused = place.scoped.ask("POST", "/v1/promote?wait=60", {"reference": "half@2"})
    assert refused.json["kind"] == "QuarantinedError"

    assert place.recorded("version.quarantined") == ("root", "127.0.0.1", "api: quarantine half@2")
    assert place.admin.post("/v1/quarantine?wait=60", {**body, "release": True})["quarantined"] is False
    assert place.recorded("version.released") == ("root", "127.0.0.1", "api: quarantine half@2")

    assert place.viewer.get("/v1/models/half/quarantines")["versions"] == []
    given_up = eventually(lambda: place.admin.get("/v1/notifications/dead")["notifications"])
    assert "half" in given_up[0]["summary"]
    assert b"SECRET" not in place.admin.ask("GET", "/v1/notifications").body


def test_a_change_with_a_ticket_is_reviewed(place: Place) -> None:
    place.scoped.post("/v1/freeze?wait=60", {"target": "local", "model": "half", "reason": "the sale"})
    assert place.scoped.ask("POST", "/v1/promote?wait=60", {"reference": "half@2"}).json["kind"] == "FrozenError"
    done = place.admin.post("/v1/promote?wait=120", {"reference": "half@2", "break_glass": "T-7"})

    seen = place.admin.post("/v1/review?wait=60", {"model": "half", "target": "local", "reason": "it was right"})

    assert seen["revisions"] == [done["revision"]]
    assert place.recorded("target.frozen") == ("ci", "127.0.0.1", "api: freeze half")
    assert place.recorded("revision.reviewed") == ("root", "127.0.0.1", "api: review half")
    assert place.admin.ask("POST", "/v1/review?wait=60", {"model": "half"}).status == 404
    place.scoped.post("/v1/unfreeze?wait=60", {"target": "local", "model": "half"})
    place.scoped.post("/v1/rollback?wait=120", {"model": "half"})


def test_versions_that_nothing_needs_are_retired_and_leftovers_removed(place: Place) -> None:
    publish = {"source": "exports/third", "model": "old", "new_version": True}
    assert [place.admin.post("/v1/publish?wait=120", publish)["version"] for _ in range(3)] == [1, 2, 3]
    left = place.workspace.root / "models" / "old" / ".deployctl" / "staging" / "s-left"
    left.mkdir(parents=True)

    said = place.admin.post("/v1/retire?wait=60", {"model": "old", "keep": 1, "dry_run": True})
    done = place.admin.post("/v1/retire?wait=60", {"model": "old", "version": 1, "reason": "room"})
    gone = place.admin.post("/v1/gc?wait=60", {})

    assert (said["versions"], done["versions"]) == ([1, 2], [1])
    assert [each["version"] for each in place.viewer.get("/v1/models/old/versions")["versions"]] == [2, 3]
    assert (gone["dry_run"], left.exists()) == (False, False)
    assert place.recorded("version.published") == ("root", "127.0.0.1", "api: publish old")
    assert place.recorded("version.retired") == ("root", "127.0.0.1", "api: retire old")
    # The record does not tell of it; the log does.
    place.running.await_line("api: gc for root@127.0.0.1")
    for body in ({"model": "old"}, {"model": "old", "version": 2, "keep": 1}, {"model": "old", "keep": 0}):
        assert place.admin.ask("POST", "/v1/retire?wait=60", body).status == 400, body
    held = place.admin.ask("POST", "/v1/retire?wait=60", {"model": "half", "version": 1})
    assert (held.status, held.json["kind"]) == (412, "VersionHeldError")


def test_a_lock_is_taken_from_its_holder(place: Place) -> None:
    body = {"target": "local", "model": "half", "reason": "it hangs"}
    with opened(load(directory=place.workspace.root).settings, Observer()) as deployment:
        lock = deployment.target("local").lock
        with lock.hold(model=ModelName("half"), purpose="nothing", timeout_s=60):
            (held,) = place.viewer.get("/v1/locks")["locks"]
            assert (held["model"], held["purpose"]) == ("half", "nothing")
            # No operation on the model comes past it.
            waited = place.scoped.ask("POST", "/v1/promote?wait=60", {"reference": "half@2", "lock_timeout": "1ms"})
            assert (waited.status, waited.json["exit_code"]) == (409, 7)

            taken = place.admin.post("/v1/locks/release?wait=60", body)

    assert (taken["pid"], taken["purpose"]) == (os.getpid(), "nothing")
    assert place.recorded("lock.released") == ("root", "127.0.0.1", "api: lock release half")
    assert place.viewer.get("/v1/locks")["locks"] == []
    assert place.admin.ask("POST", "/v1/locks/release?wait=60", body).status == 404


def test_what_is_refused_is_logged_and_no_secret_with_it(place: Place) -> None:
    # From addresses of their own: of one address so much is logged in a minute.
    scoped, viewer = replace(place.scoped, source="127.7.7.1"), replace(place.viewer, source="127.7.7.2")
    wrong = replace(place.api, token=f"dct_{'0' * 12}_{'b' * 43}", source="127.7.7.3")
    assert scoped.ask("POST", "/v1/promote", {"reference": "secret@1"}).status == 403
    assert viewer.ask("POST", "/v1/gc", {}).status == 403
    assert wrong.ask("GET", f"/v1/status/{wrong.token}%0ainjected?token={wrong.token}").status == 401

    place.running.await_line("POST '/v1/promote' by token ci at 127.7.7.1 was answered 403: token ci is not for model")
    place.running.await_line("POST '/v1/gc' by token watcher at 127.7.7.2 was answered 403")
    line = place.running.await_line("by nobody known at 127.7.7.3 was answered 401")
    assert "\n" not in line["message"]
    for client in (place.scoped, place.viewer, place.admin, wrong):
        assert client.token.rpartition("_")[2] not in str(place.running.lines())


def test_errors_have_one_shape_and_a_status_each(place: Place) -> None:
    wanted = {
        404: place.admin.ask("POST", "/v1/promote?wait=60", {"reference": "half@77"}),
        412: place.admin.ask("POST", "/v1/promote?wait=60", {"reference": "half@2", "if_current": 999}),
        503: place.admin.ask("POST", "/v1/promote?wait=60", {"reference": "half@2", "target": "other"}),
        400: place.admin.ask("POST", "/v1/rollback?wait=60", {"model": "half", "to_revision": 1, "to_version": 1}),
    }
    for status, answer in wanted.items():
        assert answer.status == status, answer
        assert set(answer.json) == {"error", "hint", "exit_code", "kind", "retryable"}


def test_answers_are_as_the_document_says(place: Place) -> None:
    document = place.viewer.get("/v1/openapi.json")
    assert document == json.loads(json.dumps(openapi()))
    operation = place.workspace.json("op", "list")["operations"][0]["id"]
    for path, methods in document["paths"].items():
        if "get" in methods and not path.endswith("/events"):
            asked = path.format(model="half", reference="half@1", target="local", operation=operation)
            asked += "?before=half@1&after=half@2" if path == "/v1/diff" else ""
            _conforms(document, methods["get"], place.admin.ask("GET", asked), 200)
            _conforms(document, methods["get"], place.admin.ask("GET", asked.split("?")[0] + "?nonsense=1"), 400)
        if "post" in methods:
            asked = path.format(operation="none")
            _conforms(document, methods["post"], place.admin.ask("POST", asked, {"nonsense": 1}), 400)
    bodies: dict[str, Any] = {
        "/v1/validate": {"reference": "half@1"},
        "/v1/promote": {"reference": "half@2", "dry_run": True},
        "/v1/rollback": {"model": "half", "to_version": 1, "dry_run": True},
        "/v1/freeze": {"model": "secret", "reason": "the sale", "for": "1h"},
        "/v1/unfreeze": {"model": "secret"},
        "/v1/publish": {"source": "exports/third", "model": "fresh", "dry_run": True},
        "/v1/quarantine": {"reference": "secret@1", "reason": "odd"},
        "/v1/retire": {"model": "half", "keep": 1, "dry_run": True},
        "/v1/gc": {"dry_run": True},
    }
    for path, body in bodies.items():
        described = document["paths"][path]["post"]
        schema = described["requestBody"]["content"]["application/json"]["schema"]
        jsonschema_rs.validator_for(schema).validate(body)
        _conforms(document, described, place.admin.ask("POST", f"{path}?wait=120", body), 200)


def _conforms(document: Any, described: Any, answer: Answer, status: int) -> None:
    name = described["operationId"]
    assert answer.status == status or (status == 400 and answer.status in {200, 404}), (name, answer)
    schema = described["responses"][str(answer.status)]["content"]["application/json"]["schema"]
    whole = {**schema, "components": document["components"]}
    jsonschema_rs.validator_for(whole).validate(answer.json)


def _events(stream: Answer) -> list[dict[str, Any]]:
    assert stream.status == 200, stream
    found = []
    for part in stream.body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in part.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found
