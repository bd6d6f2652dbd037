"""Nobody gets through the API without a token that opens what they ask for."""

from __future__ import annotations

import socket
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.api import ApiClient, api_of, eventually, new_token
from tests.support.certificates import make_certificates
from tests.support.daemon import daemon
from tests.support.workspace import Workspace

_UNKNOWN = f"dct_{'0' * 12}_{'a' * 43}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A shared for tests that leave it as it is."""
    return Workspace.make(tmp_path_factory.mktemp("api"))


@pytest.fixture(scope="module")
def daemon_api(shared: Workspace) -> Iterator[ApiClient]:
    with daemon(shared) as running:
        yield api_of(running)
        assert running.stop() == 0
        assert not running.errors()


@pytest.fixture
def api(daemon_api: ApiClient, request: pytest.FixtureRequest) -> ApiClient:
    """The API without a token, from an address of the test's own: failures are counted by address."""
    number = sha256(request.node.nodeid.encode()).digest()
    return replace(daemon_api, source=f"127.{number[0]}.{number[1]}.{1 + number[2] % 250}")


def test_only_the_probes_answer_without_a_token(api: ApiClient) -> None:
    assert api.get("/healthz") == {"alive": True}
    assert api.get("/readyz") == {"ready": True, "checks": {"database": True, "store": True, "targets": True}}
    for path in ("/metrics", "/v1/status", "/nowhere", "/healthz/", "//healthz", "/healthz/../metrics"):
        answer = api.ask("GET", path)
        assert answer.status == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json["hint"] == "deployctl token create NAME --role viewer"


def test_a_token_opens_until_it_is_revoked(api: ApiClient, shared: Workspace) -> None:
    known = replace(api, token=new_token(shared, "watcher", "viewer"))
    assert known.ask("GET", "/metrics").status == 200

    shared.ok("token", "revoke", "watcher")

    assert known.ask("GET", "/metrics").status == 401
    assert "watcher" not in shared.ok("token", "list", "-o", "name").split()


def test_a_token_that_has_expired_opens_nothing(api: ApiClient, shared: Workspace) -> None:
    late = replace(api, token=new_token(shared, "brief", "admin", "--expires", "1ms"))

    assert late.ask("GET", "/metrics").status == 401


@pytest.mark.parametrize(
    "header",
    [
        f"Bearer {_UNKNOWN}",
        f"Basic {_UNKNOWN}",
        "Bearer",
        "Bearer ",
        "Bearer dct_",
        f"Bearer {_UNKNOWN} {_UNKNOWN}",
        "Bearer \xff\xfe",
        "Bearer " + "a" * 5000,
    ],
)
def test_what_is_no_token_opens_nothing(api: ApiClient, header: str) -> None:
    answer = api.ask("GET", "/metrics", headers={"Authorization": header})

    assert answer.status == 401
    assert header.removeprefix("Bearer ").strip() not in answer.body.decode() or len(header) < 12


def test_a_secret_that_differs_in_its_last_letter_opens_nothing(api: ApiClient, shared: Workspace) -> None:
    token = new_token(shared, "ci-2", "viewer")
    other = "A" if token[-2] != "A" else "E"

    assert replace(api, token=f"{token[:-2]}{other}{token[-1]}").ask("GET", "/metrics").status == 401


def test_a_token_for_one_target_does_not_see_what_is_of_all(api: ApiClient, shared: Workspace) -> None:
    token = new_token(shared, "local-only", "viewer", "--target", "local")

    answer = replace(api, token=token).ask("GET", "/metrics")

    assert answer.status == 403
    assert answer.json["kind"] == "DeniedError"


def test_an_address_with_many_failures_is_told_to_wait(api: ApiClient) -> None:
    wrong = replace(api, token=_UNKNOWN)
    statuses = [wrong.ask("GET", "/metrics").status for _ in range(25)]

    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert 1 <= int(wrong.ask("GET", "/metrics").headers["retry-after"]) <= 61
    assert api.get("/healthz") == {"alive": True}


def test_a_good_token_opens_where_others_of_its_address_are_wrong(api: ApiClient, shared: Workspace) -> None:
    wrong = replace(api, token=_UNKNOWN)
    while wrong.ask("GET", "/metrics").status != 429:
        pass
    # Made after the address was told to wait, too.
    good = replace(api, token=new_token(shared, "neighbour", "viewer"))

    assert eventually(lambda: good.ask("GET", "/metrics").status == 200)
    assert wrong.ask("GET", "/metrics").status == 429
    shared.ok("token", "revoke", "neighbour")
    assert good.ask("GET", "/metrics").status == 429


def test_a_body_is_refused_before_it_is_sent_where_it_says_that_it_is_large(api: ApiClient, shared: Workspace) -> None:
    token = new_token(shared, "ci-3", "admin")
    answer = replace(api, token=token).ask("POST", "/metrics", headers={"Content-Length": "1000000000"})

    assert answer.status == 413


def test_a_body_that_does_not_come_is_waited_for_for_a_while_only(api: ApiClient, shared: Workspace) -> None:
    token = new_token(shared, "slow", "admin")
    head = f"POST /v1/gc HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((api.host, api.port), timeout=60, source_address=(api.source, 0)) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode())
        # Others are answered meanwhile.
        assert api.get("/healthz") == {"alive": True}
        connection.settimeout(0.5)
        answer = b""
        while not answer:
            # A byte now and then is no body either.
            connection.sendall(b" ")
            with suppress(TimeoutError):
                answer = connection.recv(4096)

    assert answer.split()[1] == b"408"
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize(
    "framing",
    [
        # Two that disagree on where the request ends let a second one hide in the first.
        "Content-Length: 2\r\nContent-Length: 40\r\n",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Content-Length: +2\r\n",
        "Content-Length : 2\r\n",
        "Content-Length: 2\r\n folded: 1\r\n",
        "X-A: 1\nContent-Length: 40\r\nContent-Length: 2\r\n",
        "X-A: \x00\r\n",
    ],
)
def test_a_request_that_two_readers_could_take_for_two_is_answered_once(api: ApiClient, framing: str) -> None:
    smuggled = b"{}GET /v1/tokens HTTP/1.1\r\nHost: x\r\n\r\n"
    head = f"POST /v1/gc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n"
    with socket.create_connection((api.host, api.port), timeout=60, source_address=(api.source, 0)) as connection:
        connection.sendall(head.encode("latin-1") + smuggled)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert answer.count(b"HTTP/1.1 ") == 1, answer
    assert answer.split()[1] in {b"400", b"401", b"501"}


def test_headers_have_a_size_too(api: ApiClient) -> None:
    with socket.create_connection((api.host, api.port), timeout=60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n")
        assert connection.recv(100).split()[1] in {b"400", b"431"}


def test_what_is_no_http_is_answered_and_the_next_request_works(api: ApiClient) -> None:
    for garbage in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00"):
        with socket.create_connection((api.host, api.port), timeout=60) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            assert b"Traceback" not in connection.recv(1000)

    assert api.get("/healthz") == {"alive": True}


def test_answers_carry_headers_that_keep_browsers_out(api: ApiClient) -> None:
    headers = api.ask("GET", "/healthz").headers

    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "server" not in headers


def test_tls_is_spoken_where_a_certificate_is_set(workspace: Workspace, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    environment = {
        "DEPLOYCTL_DAEMON_TLS_CERT_FILE": str(certificates / "cert.pem"),
        "DEPLOYCTL_DAEMON_TLS_KEY_FILE": str(certificates / "key.pem"),
    }
    with daemon(workspace, **environment) as running:
        api = api_of(running)
        trusting = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        url = f"https://{api.host}:{api.port}/healthz"
        with urllib.request.urlopen(url, timeout=60, context=trusting) as response:
            assert response.status == 200
        with socket.create_connection((api.host, api.port), timeout=60) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" not in plain.recv(100)
        running.stop()


def test_a_secret_is_neither_kept_nor_logged(workspace: Workspace) -> None:
    token = new_token(workspace, "ci", "viewer")
    secret = token.rpartition("_")[2].encode()
    with daemon(workspace) as running:
        assert replace(api_of(running), token=token).ask("GET", "/metrics").status == 200
        running.stop()

    assert token not in str(running.lines())
    for file in workspace.root.rglob("*"):
        assert not file.is_file() or secret not in file.read_bytes(), file


def test_an_api_whose_port_is_taken_says_so_and_tries_again(workspace: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with daemon(workspace, DEPLOYCTL_DAEMON_LISTEN=listen) as running:
            running.await_line(f"the API cannot listen at {listen}")
            taken.close()
            running.await_line("answering at")
            assert running.stop() == 0
