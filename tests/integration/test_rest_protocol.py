"""What connections to the REST front do beside plain requests: bytes on a socket, over a core in memory."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from tests.support.memory_core import HalfPlusTwo, MemoryCore
from tests.support.rest import MAX_BODY, TIMEOUT_S, call, exchange, rest_options, running

STATUS = b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running(MemoryCore(HalfPlusTwo("m", 1))) as server:
        yield server.port


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)) as connection:
        yield connection


def predict(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /v1/models/m:predict HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


def test_a_client_that_asks_first_is_told_to_go_on(port: int) -> None:
    body = b'{"instances": [1.0]}'
    with connected(port) as connection:
        connection.sendall(predict(body, b"Expect: 100-continue").removesuffix(body))
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_until(connection, b"[2.5\n    ]\n}").startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_client_that_asks_first_hears_at_once_that_its_body_is_too_long(port: int) -> None:
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n"
    received = exchange(port, head % (MAX_BODY + 1))
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nconnection: close\r\n" in received


def send_on(connection: socket.socket) -> None:
    """Sends until nobody takes it, or for too long."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        connection.sendall(b" ")
        threading.Event().wait(0.05)


_TOO_LONG = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1)


def test_a_client_that_still_sends_reads_why_it_was_refused(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(_TOO_LONG)
        received = read_until(connection, b'bytes"\n}')
        # What comes after the answer would be answered by a reset, if the connection were closed already.
        for _ in range(20):
            connection.sendall(b" " * 65536)
            threading.Event().wait(0.01)

        assert received.startswith(b"HTTP/1.1 413 ")
        assert connection.recv(1) == b""


def test_a_client_that_sends_for_ever_is_cut_off(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(_TOO_LONG)
        with pytest.raises(ConnectionError):
            send_on(connection)


def test_a_client_that_still_sends_keeps_no_server_from_stopping() -> None:
    with running(MemoryCore(HalfPlusTwo("m", 1))) as server, connected(server.port) as connection:
        connection.sendall(_TOO_LONG)
        read_until(connection, b'bytes"\n}')

        server.stop(1.0)

        with pytest.raises(ConnectionError):
            send_on(connection)


def test_an_offer_to_change_the_protocol_is_passed_over(port: int) -> None:
    # So Java's client begins.
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    body = b'{"instances": [1.0]}'
    for cut in (0, 30, len(predict(body, *offer)) - 25, len(predict(body, *offer)) - 3):
        sent = predict(body, *offer)
        with connected(port) as connection:
            connection.sendall(sent[:cut])
            connection.sendall(sent[cut:])
            assert read_until(connection, b"[2.5\n    ]\n}").startswith(b"HTTP/1.1 200 OK\r\n")
            connection.sendall(STATUS)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_proxy_is_not_what_this_is(port: int) -> None:
    assert exchange(port, b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_target_may_have_its_host(port: int) -> None:
    whole = STATUS.replace(b"/v1", b"http://x/v1", 1).replace(b"Host: x", b"Host: x\r\nConnection: close")
    assert exchange(port, whole).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("request_line", "header"),
    [(b"GET /v1/models/m HTTP/1.0", b"Host: x"), (b"GET /v1/models/m HTTP/1.1", b"Connection: close")],
)
def test_a_connection_ends_when_the_client_wants_no_more(port: int, request_line: bytes, header: bytes) -> None:
    received = exchange(port, request_line + b"\r\n" + header + b"\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in received


def test_what_is_no_http_after_a_request_gets_an_answer_of_its_own(port: int) -> None:
    received = exchange(port, STATUS + b"\x00\x01\x02\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"HTTP/1.1 400 Bad Request\r\n" in received


def test_answers_carry_the_date(port: int) -> None:
    assert call(port, "GET", "/v1/models/m").headers["date"].endswith(" GMT")


def test_requests_behind_a_slow_one_wait_for_it() -> None:
    model = HalfPlusTwo("m", 1)
    with running(MemoryCore(model)) as server, connected(server.port) as connection:
        connection.sendall(predict(b'{"signature_name": "slow", "instances": [1.0]}') + STATUS)
        assert model.entered.wait(TIMEOUT_S)
        connection.sendall(predict(b'{"instances": [3.0]}'))
        assert call(server.port, "GET", "/v1/models/m").status == 200
        model.gate.set()
        received = read_until(connection, b"[3.5\n    ]\n}")
    slow, status, last = (received.index(part) for part in (b"[2.5", b"model_version_status", b"[3.5"))
    assert slow < status < last


def test_a_client_that_does_not_read_holds_up_nobody_and_gets_all_in_the_end(port: int) -> None:
    # Two kilobytes come back for each of these, which the socket's buffers do not take.
    ask = predict(b'{"signature_name": "echo_float32", "instances": [%s]}' % b", ".join([b"0.5"] * 400))
    count = 4000
    with connected(port) as connection, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(connection.sendall, ask * count)
        assert call(port, "GET", "/v1/models/m").status == 200
        received, answers = b"", 0
        while answers < count:
            received += connection.recv(1 << 20)
            found = received.count(b"HTTP/1.1 200 OK")
            answers += found
            if found:
                received = received[received.rindex(b"HTTP/1.1 200 OK") + 1 :]
        sending.result(TIMEOUT_S)


def test_a_client_that_leaves_before_its_answer_harms_nobody() -> None:
    model = HalfPlusTwo("m", 1)
    with running(MemoryCore(model), rest_options()) as server:
        with connected(server.port) as connection:
            connection.sendall(predict(b'{"signature_name": "slow", "instances": [1.0]}'))
            assert model.entered.wait(TIMEOUT_S)
        model.gate.set()
        deadline = time.monotonic() + TIMEOUT_S
        while call(server.port, "POST", "/v1/models/m:predict", b'{"instances": [1.0]}').status != 200:
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n" + b"X: 1234567890\r\n" * 7_000 + b"\r\n", 431),
        (b"GET /v1/models/" + b"m" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /v1/models/" + b"m" * 1_000_000, 414),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000, 431),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n" + b"x" * 1_000_000, 431),
        (
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "
            + b"a" * 1_000_000,
            431,
        ),
    ],
)
def test_a_head_that_is_too_long_is_refused_before_it_ends(port: int, head: bytes, status: int) -> None:
    with connected(port) as connection:
        connection.sendall(head)
        received = read_until(connection, b"bytes.")

        assert received.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nconnection: close\r\n" in received
        assert connection.recv(1) == b""


def test_a_head_as_long_as_is_allowed_is_answered_and_so_is_what_was_asked_before(port: int) -> None:
    padded = STATUS.removesuffix(b"\r\n") + b"X: " + b"a" * 65_000 + b"\r\n\r\n"
    too_long = STATUS.removesuffix(b"\r\n") + b"X: " + b"a" * 66_000 + b"\r\n\r\n"

    received = exchange(port, padded + padded + too_long)

    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert received.count(b"HTTP/1.1 431 ") == 1


def test_a_body_in_small_chunks_is_no_head(port: int) -> None:
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b'{"instances": [1.0' + b" " * 20_000 + b"]}"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    with connected(port) as connection:
        connection.sendall(head + chunks + b"0\r\n\r\n")
        assert read_until(connection, b"[2.5\n    ]\n}").startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_metrics_of_models_that_nobody_serves_are_one_series(port: int) -> None:
    for name in ("%FF", "nobody", "no%22body"):
        assert call(port, "POST", f"/v1/models/{name}:predict", b'{"instances": [1.0]}').status == 404

    page = call(port, "GET", "/monitoring/prometheus/metrics").body.decode("utf-8")

    missing = [line for line in page.splitlines() if "NOT_FOUND" in line]
    assert missing == [':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"} 3']
