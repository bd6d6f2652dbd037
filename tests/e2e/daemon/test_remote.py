"""Commands of clients elsewhere: what is sent, who may, and what a broken connection leaves."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.remote import as_client, client_of, commands_directory
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, TIMEOUT_S, Workspace

pytestmark = [pytest.mark.xdist_group("e2e-remote")]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The machine that the daemon is on."""
    return Workspace.make(tmp_path_factory.mktemp("host") / "work")


@pytest.fixture(scope="module")
def client(host: Workspace) -> Iterator[Workspace]:
    with client_of(host) as client:
        yield client


def _request(client: Workspace, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Returns the status and the document of a request that no well-behaved client makes."""
    url = urlsplit(client.environment["DEPLOYCTL_SERVER"])
    connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=TIMEOUT_S)
    token = {"Authorization": f"Bearer {client.environment['DEPLOYCTL_TOKEN']}"}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, token)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    lines = [json.loads(line) for line in answer.splitlines() if line]
    return response.status, lines[0] if len(lines) == 1 else lines


def _run_raw(client: Workspace, *words: str) -> str:
    """Returns what a command writes to stderr for a client that checks nothing."""
    status, frames = _request(client, "POST", "/v1/commands", {"key": os.urandom(16).hex(), "words": words})
    assert status == 200, frames
    assert frames[-1] == {"exit": 2}, frames
    return "".join(frame.get("stderr", "") for frame in frames)


def test_an_upload_that_was_cut_off_goes_on_and_is_never_visible_half(
    host: Workspace, client: Workspace, tmp_path: Path
) -> None:
    export = shutil.copytree(HALF_PLUS_TWO, tmp_path / "export")
    blob = os.urandom(3 << 20)
    (export / "assets.extra").mkdir()
    (export / "assets.extra" / "blob").write_bytes(blob)
    name = hashlib.sha256(blob).hexdigest()
    path = f"/v1/uploads/{name}?size={len(blob)}&offset="
    assert _request(client, "PUT", path + "0", blob[: 1 << 20])[0] == 200
    announced = {"model": "cut", "files": [{"path": "", "sha256": name, "size": len(blob)}]}
    assert _request(client, "POST", "/v1/uploads", announced)[1] == {"lacking": {name: 1 << 20}}
    assert not (host.root / "models" / "cut").exists()

    client.ok("publish", str(export), "--model", "cut")

    assert (host.root / "models" / "cut" / "1" / "assets.extra" / "blob").read_bytes() == blob
    assert _request(client, "POST", "/v1/uploads", announced)[1] == {"lacking": {}}
    assert _request(client, "PUT", path + "5", b"x")[0] == 412


# A client that says when it asks how much of a file is there.
_ASKING = """
import sys
from deployctl.cli import app, remote_files

have = remote_files._Sending._have

def have_and_tell(self, *words):
    print("asks", file=sys.stderr, flush=True)
    return have(self, *words)

remote_files._Sending._have = have_and_tell
app.main()
"""


def test_a_file_that_another_has_sent_meanwhile_is_not_sent_again(
    host: Workspace, client: Workspace, tmp_path: Path
) -> None:
    client.publish("first", HALF_PLUS_TWO)
    export = shutil.copytree(HALF_PLUS_TWO, tmp_path / "export")
    (export / "assets.extra").mkdir()
    blob = os.urandom(1 << 16)
    (export / "assets.extra" / "blob").write_bytes(blob)
    (whole,) = commands_directory(host).glob("uploads/*/whole")
    name = hashlib.sha256(blob).hexdigest()
    with (whole.parent / "parts" / name).open("wb") as sent_by_another:
        fcntl.flock(sent_by_another, fcntl.LOCK_EX)
        asking = [sys.executable, "-c", _ASKING]
        publishing = client.start("publish", str(export), "--model", "second", program=asking)
        assert publishing.stderr is not None
        assert publishing.stderr.readline() == "asks\n"
        (whole / name).write_bytes(blob)
        shown, words = publishing.communicate(timeout=TIMEOUT_S)

    assert publishing.returncode == 0, words
    assert shown.startswith("second@1")


def test_what_a_version_has_already_is_not_sent_again_even_by_another_token(host: Workspace, client: Workspace) -> None:
    client.publish("known", HALF_PLUS_TWO)
    url = client.environment["DEPLOYCTL_SERVER"]
    other = as_client(host, url, role="deployer", words=("--model", "known"))
    content = (HALF_PLUS_TWO / "saved_model.pb").read_bytes()
    file = {"path": "", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}

    assert _request(other, "POST", "/v1/uploads", {"model": "known", "files": [file]})[1] == {"lacking": {}}
    # Of a model that it may not see, a token learns nothing.
    stranger = as_client(host, url, role="deployer", words=("--model", "mine"))
    assert _request(stranger, "POST", "/v1/uploads", {"model": "known", "files": [file]})[0] == 403
    assert _request(stranger, "POST", "/v1/uploads", {"model": "mine", "files": [file]})[1]["lacking"]


def test_a_token_does_what_its_role_and_its_models_allow_and_nothing_else(host: Workspace, client: Workspace) -> None:
    client.publish("allowed", HALF_PLUS_TWO)
    url = client.environment["DEPLOYCTL_SERVER"]
    viewer = as_client(host, url, role="viewer")
    scoped = as_client(host, url, role="deployer", words=("--model", "allowed"))

    assert viewer.json("versions", "allowed")["versions"]
    assert "needs deployer" in viewer.fails(1, "publish", str(HALF_PLUS_TWO), "--model", "allowed")
    assert "admin" in viewer.fails(1, "gc")
    assert scoped.json("publish", str(HALF_PLUS_THREE), "--model", "allowed")["version"] == 2
    assert "is not for other" in scoped.fails(1, "publish", str(HALF_PLUS_TWO), "--model", "other")
    assert "is not for model other" in scoped.fails(1, "show", "other@1")
    assert "every model" in scoped.fails(1, "versions")
    users = {event["actor"]["user"].partition("-")[0] for event in client.json("history", "allowed")["events"]}
    assert users == {"admin", "deployer"}
    for wrong in ("", "wrong", "dct_000000000000_" + "x" * 43):
        nobody = replace(client, environment={**client.environment, "DEPLOYCTL_TOKEN": wrong})
        nobody.fails(1, "versions")


def test_no_word_names_a_file_of_the_daemons_machine(host: Workspace, client: Workspace) -> None:
    for words in (
        ("publish", str(HALF_PLUS_TWO), "--model", "stolen"),
        ("publish", "in:0", "--model", "stolen"),
        ("publish", "models/known/1", "--model", "stolen"),
        ("validate", str(HALF_PLUS_TWO)),
        ("predict", "known", "--file", "/etc/hostname"),
        ("predict", "--local", str(HALF_PLUS_TWO)),
        ("golden", "record", "known@1", "--random", "1", "--out", "/tmp/deployctl-golden"),
        ("copy", "known@1", "--to", str(host.root / "copied")),
        ("--config", "/etc/hostname", "versions"),
        ("--set", "state_dir=/", "versions"),
        ("--server", "http://127.0.0.1:9", "versions"),
        ("inspect", "/etc"),
        ("init", "/tmp"),
        ("daemon",),
        ("db", "upgrade"),
    ):
        assert "error: " in _run_raw(client, *words) or words[0] == "daemon", words
    assert not (host.root / "models" / "stolen").exists()


def test_requests_of_any_other_form_are_refused_in_words(client: Workspace) -> None:
    key = "k" * 16
    bodies: list[Any] = [
        b"{",
        b"[" * 100_000,
        [],
        {},
        {"key": "short", "words": []},
        {"key": key, "words": "status"},
        {"key": key, "words": [1]},
        {"key": key, "words": [], "environment": {"LD_PRELOAD": "x"}},
        {"key": key, "words": [], "terminal": {"stdout": [1]}},
        {"key": key, "words": [], "inputs": [{"name": "../x", "shown": "", "origin": "", "files": []}]},
        {"key": key, "words": [], "outputs": [{"name": "..", "shown": ""}]},
        {"key": key, "words": [], "offset": -1},
        {"key": key, "words": [], "more": 1},
    ]
    for body in bodies:
        status, document = _request(client, "POST", "/v1/commands", body)
        assert (status, document["exit_code"]) == (400, 2), (body, document)
    assert _request(client, "DELETE", "/v1/commands/..%2f..", {})[0] == 404
    assert _request(client, "PUT", "/v1/uploads/..%2fx?offset=0&size=1", b"x")[0] in {400, 404}


def test_a_command_given_twice_runs_once_and_is_answered_from_any_byte(client: Workspace) -> None:
    client.publish("once", HALF_PLUS_TWO)
    command = {"key": os.urandom(16).hex(), "words": ["freeze", "local", "--reason=once", "-o", "json"]}
    first = _request(client, "POST", "/v1/commands", command)[1]
    again = _request(client, "POST", "/v1/commands", {**command, "again": True})[1]
    whole = b"".join(json.dumps(frame).encode() + b"\n" for frame in first)
    rest = _request(client, "POST", "/v1/commands", {**command, "offset": len(whole) - len(b'{"exit": 0}\n')})[1]

    assert first == again
    assert rest == {"exit": 0}
    frozen = [each for each in client.json("history")["events"] if each["reason"] == "once"]
    assert len(frozen) == 1
    lost = {"key": os.urandom(16).hex(), "words": ["unfreeze", "local"], "again": True}
    assert _request(client, "POST", "/v1/commands", lost)[0] == 504
    client.ok("unfreeze", "local")


def test_clients_at_once_publish_each_its_own_and_files_come_back(client: Workspace, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(
            pool.map(lambda name: client.json("publish", str(HALF_PLUS_TWO), "--model", name), ("a1", "a2", "a3"))
        )
    assert [(each["model"], each["version"]) for each in done] == [("a1", 1), ("a2", 1), ("a3", 1)]

    client.ok("validate", "a1@1", "--gate", "integrity", "--junit", str(tmp_path / "out" / "report.xml"))

    assert "<testsuite" in (tmp_path / "out" / "report.xml").read_text()
    assert client.json("show", "a1@1")["manifest"]["provenance"]["source"] == str(HALF_PLUS_TWO)
    absent = client.fails(1, "publish", "absent/export")
    assert "absent/export" in absent
    assert ".deployctl" not in absent


def test_output_of_many_megabytes_arrives_whole(host: Workspace, client: Workspace) -> None:
    lines = [f"{number:07d} {'ab€' * 20}\n" for number in range(100_000)]
    log = host.root / ".deployctl" / "local" / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(lines))

    shown = client.ok("logs", "-n", str(len(lines)))

    assert len(shown.encode()) > 8_000_000
    assert shown == "".join(lines)


def test_a_file_that_is_not_what_it_should_be_is_neither_taken_nor_used(
    host: Workspace, client: Workspace, tmp_path: Path
) -> None:
    export = shutil.copytree(HALF_PLUS_TWO, tmp_path / "export")
    (export / "assets.extra").mkdir()
    blob = os.urandom(1 << 16)
    (export / "assets.extra" / "blob").write_bytes(blob)
    name = hashlib.sha256(blob).hexdigest()
    path = f"/v1/uploads/{name}?offset=0&size={len(blob)}"
    announced = {"model": "rot", "files": [{"path": "", "sha256": name, "size": len(blob)}]}

    status, document = _request(client, "PUT", path, bytes(len(blob)))
    assert (status, "has the SHA-256" in document["error"]) == (400, True)
    assert _request(client, "POST", "/v1/uploads", announced)[1] == {"lacking": {name: 0}}

    # What has come as it should, and was damaged where it lay.
    assert _request(client, "PUT", path, blob)[0] == 200
    (kept,) = commands_directory(host).glob(f"uploads/*/whole/{name}")
    kept.write_bytes(bytes(len(blob)))
    client.ok("publish", str(export), "--model", "rot")
    assert (host.root / "models" / "rot" / "1" / "assets.extra" / "blob").read_bytes() == blob


def test_a_model_is_meant_where_the_daemons_machine_has_a_directory_of_that_name(
    host: Workspace, client: Workspace
) -> None:
    client.publish("namesake", HALF_PLUS_TWO)
    (host.root / "namesake").mkdir()

    judged = client.json("validate", "namesake", "--gate", "integrity")

    assert (judged["subject"], judged["passed"]) == ("namesake@1", True)
    assert "is neither a path nor s3://" in client.fails(2, "publish", "http://a/b", "--model", "x", hint="publish")


def test_what_runs_where_it_is_typed_needs_no_daemon_and_publishes_nothing_to_one(client: Workspace) -> None:
    away = {"DEPLOYCTL_SERVER": "http://127.0.0.1:9"}

    assert client.json("inspect", str(HALF_PLUS_TWO), environment=away)["schema"] == "deployctl.inspect/1"
    assert client.ok("promote", "--help", environment=away).startswith("Usage: deployctl promote ")
    words = ("convert", "signatures", str(HALF_PLUS_TWO), "--publish", "converted")
    assert "would not publish to http://127.0.0.1:9" in client.fails(2, *words, environment=away)


def test_who_was_refused_a_name_is_told_how_the_command_is_typed(client: Workspace, tmp_path: Path) -> None:
    export = shutil.copytree(HALF_PLUS_TWO, tmp_path / "no name")

    client.fails(2, "publish", str(export), hint="deployctl publish --help")


def _offered(client: Workspace, *parts: str, **environment: str) -> list[str]:
    """Returns what bash is offered."""
    words = ("deployctl", *parts)
    variables = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    asking = {"_DEPLOYCTL_COMPLETE": "complete_bash", **variables, **environment}
    done = client.run(environment=asking)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_a_shell_is_offered_what_the_daemon_has_and_nothing_where_none_answers(client: Workspace) -> None:
    client.publish("offered", HALF_PLUS_TWO, HALF_PLUS_THREE)

    assert "offered@" in _offered(client, "promote", "")
    assert _offered(client, "promote", "offered@") == ["offered@latest", "offered@2", "offered@1"]
    assert _offered(client, "up", "l") == ["local"]
    assert client.json("op", "list", "-n", "1")["operations"][0]["id"] in _offered(client, "op", "show", "2")
    # The last one takes connections, and never answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address in ("127.0.0.1:9", "nobody.invalid:1", f"127.0.0.1:{silent.getsockname()[1]}"):
            assert _offered(client, "promote", "", DEPLOYCTL_SERVER=f"http://{address}") == []
    assert _offered(client, "promote", "", DEPLOYCTL_TOKEN="wrong") == []


def test_nobody_listens_any_more_with_a_token_that_was_revoked(host: Workspace, client: Workspace) -> None:
    viewer = as_client(host, client.environment["DEPLOYCTL_SERVER"], role="viewer", name="leaving")
    known = set(commands_directory(host).glob("commands/*/*/process.json"))
    watching = viewer.start("status", "--watch")
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("TARGET")

    client.ok("token", "revoke", "leaving")

    _, words = watching.communicate(timeout=TIMEOUT_S)
    assert watching.returncode == 1
    assert "the token is wrong, was revoked or has expired" in words
    given = set(commands_directory(host).glob("commands/*/*/process.json")) - known
    runners = [int(json.loads(each.read_text())["pid"]) for each in given]
    deadline = time.monotonic() + TIMEOUT_S
    while any(Path(f"/proc/{runner}").exists() for runner in runners):
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
