"""The receiver of the documentation believes the daemon's calls, and no others."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from deployctl.config.daemon_settings import NotificationFormat
from deployctl.daemon.notify_call import Call, Webhook, signature
from deployctl.daemon.notify_words import Notice, trial
from examples.webhook_receiver import MAX_BODY_BYTES, WINDOW_S, Receiver, Verifier

KEY = b"the key of this test"
NOW = 1_790_000_000
NOTICE = trial("ops", "id-1", "2026-11-21T07:00:00.000000Z")


def signed(notice: Notice, timestamp: int = NOW, key: bytes = KEY) -> tuple[dict[str, str], bytes]:
    """Returns a request as the daemon makes it."""
    body = notice.body(NotificationFormat.JSON)
    stamp = str(timestamp)
    return {"Deployctl-Timestamp": stamp, "Deployctl-Signature": signature(key, stamp, body)}, body


def check(verifier: Verifier, request: tuple[dict[str, str], bytes], now: float = NOW) -> int:
    headers, body = request
    return verifier.check(headers, body, now=now)[0]


@pytest.fixture
def verifier() -> Verifier:
    return Verifier(KEY)


def test_a_request_is_believed_once_and_refused_when_it_is_replayed(verifier: Verifier) -> None:
    request = signed(NOTICE)

    assert check(verifier, request) == 200
    assert check(verifier, request) == 409
    assert check(verifier, request, NOW + WINDOW_S) == 409
    assert check(verifier, request, NOW + WINDOW_S + 1) == 401


def test_a_further_attempt_of_the_daemon_is_taken_and_not_acted_upon(verifier: Verifier) -> None:
    assert check(verifier, signed(NOTICE)) == 200
    assert check(verifier, signed(NOTICE, NOW + 2), NOW + 2) == 208


def test_a_request_from_ahead_of_its_time_cannot_be_replayed_later(verifier: Verifier) -> None:
    ahead = signed(NOTICE, NOW + WINDOW_S)

    assert check(verifier, ahead, NOW) == 200
    assert check(verifier, ahead, NOW + 2 * WINDOW_S) == 409


@pytest.mark.parametrize("timestamp", [NOW - WINDOW_S - 1, NOW + WINDOW_S + 1])
def test_an_old_request_is_refused_and_one_from_the_future(verifier: Verifier, timestamp: int) -> None:
    assert check(verifier, signed(NOTICE, timestamp)) == 401


def test_a_request_with_another_key_body_or_time_is_refused(verifier: Verifier) -> None:
    headers, body = signed(NOTICE)

    assert check(verifier, signed(NOTICE, key=b"another")) == 401
    assert check(verifier, (headers, body.replace(b"test", b"tost"))) == 401
    assert check(verifier, (headers | {"Deployctl-Timestamp": str(NOW + 1)}, body)) == 401
    assert check(verifier, (headers | {"Deployctl-Timestamp": "²"}, body)) == 401
    assert check(verifier, ({"Deployctl-Timestamp": str(NOW)}, body)) == 401
    assert check(verifier, (headers | {"Deployctl-Signature": "v1=é"}, body)) == 401
    assert check(verifier, ({}, body)) == 401


def test_what_the_verifier_remembers_is_bounded(verifier: Verifier) -> None:
    for number in range(0, 50 * WINDOW_S, WINDOW_S):
        assert check(verifier, signed(replace(NOTICE, id=str(number)), NOW + number), NOW + number) in {200, 208}

    assert len(verifier._signatures) <= 4


class Recording(Receiver):
    def __init__(self) -> None:
        super().__init__(0, KEY)
        self.accepted: list[dict[str, Any]] = []

    def accept(self, document: dict[str, Any]) -> None:
        self.accepted.append(document)


@pytest.fixture
def receiver() -> Iterator[Recording]:
    with Recording() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(60)


def test_the_receiver_takes_what_the_daemon_sends(receiver: Recording) -> None:
    hook = Webhook("ops", f"http://127.0.0.1:{receiver.server_port}", KEY, NotificationFormat.JSON, 30.0)
    now = int(time.time())

    Call(hook)(NOTICE, timestamp=now)
    Call(hook)(NOTICE, timestamp=now + 1)

    assert receiver.accepted == [NOTICE.document]


def test_the_receiver_refuses_a_replay_and_what_is_too_long(receiver: Recording) -> None:
    request = signed(NOTICE, int(time.time()))

    assert [post(receiver, *request), post(receiver, *request)] == [200, 409]
    assert post(receiver, {"Content-Length": str(MAX_BODY_BYTES + 1)}, b"") == 413
    assert len(receiver.accepted) == 1


def post(receiver: Receiver, headers: dict[str, str], body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.server_port, timeout=60)
    connection.request("POST", "/", body, headers)
    status = connection.getresponse().status
    connection.close()
    return status
