from __future__ import annotations

import base64
import socket
import ssl
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from deployctl.config.daemon_settings import NotificationFormat, NotificationSettings
from deployctl.daemon.notify_call import Call, Webhook, shown_url, webhook
from deployctl.daemon.notify_words import trial
from deployctl.errors import NotificationError, SettingsError
from tests.support.tls import self_signed
from tests.support.webhooks import raw_receiver, receiver

NOTICE = trial("ops", "id-1", "2026-11-21T07:00:00.000000Z")


def hook(url: str, *, key: str = "", timeout_s: float = 30.0) -> Webhook:
    return Webhook("ops", url, key.encode() or None, NotificationFormat.JSON, timeout_s)


def send(to: Webhook) -> None:
    Call(to)(NOTICE, timestamp=1_790_000_000)


def test_a_receiver_gets_the_body_and_what_it_needs_to_believe_it() -> None:
    with receiver() as server:
        send(hook(f"{server.url}/hook?x=1", key="secret"))

    (request,) = server.requests
    assert request.path == "/hook?x=1"
    assert request.document == NOTICE.document
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Deployctl-Id"] == "id-1"
    assert request.headers["Deployctl-Event"] == "test"
    assert request.headers["Deployctl-Timestamp"] == "1790000000"
    assert request.headers["Deployctl-Signature"].startswith("v1=")


def test_without_a_key_nothing_is_signed() -> None:
    with receiver() as server:
        send(hook(server.url))

    assert "Deployctl-Signature" not in server.requests[0].headers


def test_a_user_in_the_url_is_sent_as_basic_authentication() -> None:
    with receiver() as server:
        send(hook(server.url.replace("http://", "http://ada:p%40ss@")))

    assert server.requests[0].headers["Authorization"] == "Basic " + base64.b64encode(b"ada:p@ss").decode()


@pytest.mark.parametrize("status", [300, 400, 404, 500, 503])
def test_any_other_status_than_a_success_is_a_failure(status: int) -> None:
    with receiver(status) as server, pytest.raises(NotificationError, match=f"the receiver answered {status}"):
        send(hook(server.url))


def test_a_redirect_is_not_followed() -> None:
    with receiver() as elsewhere, receiver(307) as server:
        server.headers = {"Location": elsewhere.url}
        with pytest.raises(NotificationError, match="307 .*redirects are not followed"):
            send(hook(server.url))

    assert elsewhere.requests == []


def test_a_receiver_may_say_when_it_wants_to_be_asked_again() -> None:
    with receiver(429) as server:
        server.headers = {"Retry-After": "17"}
        with pytest.raises(NotificationError) as raised:
            send(hook(server.url))

    assert raised.value.retry_after_s == 17.0


def test_a_receiver_that_never_answers_is_given_up_in_time() -> None:
    with receiver() as server:
        server.hold()
        with pytest.raises(NotificationError, match=r"did not answer within 0\.3 s"):
            send(hook(server.url, timeout_s=0.3))


def test_a_receiver_that_answers_letter_by_letter_is_given_up_in_time() -> None:
    # Each letter comes within the time of one read.
    endless = b"HTTP/1.1 200 OK\r\nX-Endless: " + b"x" * 4000
    with raw_receiver(endless, every_s=0.1) as url, pytest.raises(NotificationError, match=r"within 0\.5 s"):
        send(hook(url, timeout_s=0.5))


def test_a_long_answer_is_not_read() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    with raw_receiver(head + b"x" * 10_000_000) as url:
        send(hook(url))


@pytest.mark.parametrize(
    "answer", [b"", b"hello\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200]
)
def test_what_is_no_http_is_a_failure_in_one_sentence(answer: bytes) -> None:
    with raw_receiver(answer or b"\r\n") as url, pytest.raises(NotificationError, match="does not answer as an HTTP"):
        send(hook(url))


def test_a_call_can_be_given_up_from_another_thread() -> None:
    with receiver() as server:
        server.hold()
        call = Call(hook(server.url, timeout_s=50.0))
        raised: list[Exception] = []

        def run() -> None:
            try:
                call(NOTICE, timestamp=1)
            except NotificationError as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        server.await_requests(1)
        call.give_up()
        thread.join(40.0)

    assert len(raised) == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed(tmp_path))
    with receiver() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        with pytest.raises(NotificationError, match="the certificate of localhost:.* is not good"):
            send(hook(server.url.replace("http://127.0.0.1", "https://localhost")))

    assert server.requests == []


def test_a_server_that_never_ends_the_handshake_of_tls_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(NotificationError, match=r"did not answer within 0\.3 s"):
            send(hook(f"https://127.0.0.1:{port}", timeout_s=0.3))


def test_no_error_tells_what_of_the_url_may_be_secret() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    secret = hook(f"http://user:PASS@127.0.0.1:{port}/services/T00/B00/XXSECRET?token=QUERY")

    with pytest.raises(NotificationError) as raised:
        send(secret)

    assert str(raised.value) == f"127.0.0.1:{port} cannot be reached: Connection refused"
    assert str(secret) == f"ops (http://127.0.0.1:{port}/…)"
    assert not {"PASS", "XXSECRET", "QUERY"} & set(repr(secret).replace("/", " ").replace("'", " ").split())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hooks.slack.com/services/T0/B0/secret", "https://hooks.slack.com/…"),
        ("https://u:p@example.com", "https://example.com/…"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
        ("https://example.com:99999/", "no URL"),
    ],
)
def test_a_url_is_shown_by_its_host(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_secrets_come_from_the_environment() -> None:
    settings = NotificationSettings(url_env="HOOK", secret_env="KEY")

    found = webhook("ops", settings, {"HOOK": "https://example.com/secret", "KEY": "k"})

    assert (found.url, found.key) == ("https://example.com/secret", b"k")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, r"notifications\.ops\.url_env names HOOK, which is not set"),
        ({"HOOK": "ftp://example.com/SECRET"}, "HOOK, which .* names, is not an http"),
        ({"HOOK": "https://example.com/SEC RET"}, "has letters that no URL has"),
        ({"HOOK": "https://[SECRET"}, "is not a URL"),
        ({"HOOK": "https://example.com/"}, r"notifications\.ops\.secret_env names KEY, which is not set"),
    ],
)
def test_a_variable_that_cannot_be_used_is_told_without_its_value(environment: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as raised:
        webhook("ops", NotificationSettings(url_env="HOOK", secret_env="KEY"), environment)

    assert "SEC" not in str(raised.value)


def test_two_attempts_differ_in_their_signature() -> None:
    with receiver() as server:
        to = replace(hook(server.url), key=b"k")
        Call(to)(NOTICE, timestamp=1)
        Call(to)(NOTICE, timestamp=2)

    first, second = server.requests
    assert first.body == second.body
    assert first.headers["Deployctl-Signature"] != second.headers["Deployctl-Signature"]
