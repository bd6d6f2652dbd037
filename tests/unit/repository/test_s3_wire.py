"""What a store may send, and what is made of it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from deployctl.repository.s3_wire import ProtocolError, Wire

TIMEOUT_S = 20.0


class Peer:
    """Answers the requests on its connections with given bytes, several pieces to an answer; `None` closes."""

    def __init__(self, answers: Sequence[Sequence[bytes] | None], context: ssl.SSLContext | None) -> None:
        self._answers = list(answers)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(TIMEOUT_S)

    def _serve(self) -> None:
        while self._answers:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            accepted.settimeout(TIMEOUT_S)
            speaking = self._context.wrap_socket(accepted, server_side=True) if self._context else accepted
            with closing(speaking) as peer, suppress(OSError):
                self._speak(peer)

    def _speak(self, peer: socket.socket) -> None:
        while self._answers:
            received = b""
            while b"\r\n\r\n" not in received:
                piece = peer.recv(65536)
                if not piece:
                    return
                received += piece
            self.requests.append(received)
            pieces = self._answers.pop(0)
            if pieces is None:
                return
            for piece in pieces:
                peer.sendall(piece)


@contextmanager
def wired(
    *answers: Sequence[bytes] | None, context: ssl.SSLContext | None = None, verify: bool | str = True
) -> Iterator[tuple[Wire, Peer]]:
    from botocore.httpsession import URLLib3Session

    peer = Peer(answers, context)
    session = URLLib3Session(verify=verify, timeout=TIMEOUT_S)
    wire = Wire(session, f"{'https' if context else 'http'}://localhost:{peer.port}", TIMEOUT_S, lambda: None)
    try:
        yield wire, peer
    finally:
        peer.close()
        session.close()


OK = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "x"\r\n\r\nhello'


def test_several_requests_go_over_one_connection() -> None:
    with wired([OK], [OK[:20], OK[20:]], [OK[:-3], OK[-3:]]) as (wire, peer):
        answers = [wire.ask("GET", "/a?b=c", {"host": "x", "range": "bytes=0-4"}, b"") for _ in range(3)]
        assert peer.connections == 1
        assert peer.requests == [b"GET /a?b=c HTTP/1.1\r\nhost: x\r\nrange: bytes=0-4\r\n\r\n"] * 3
    assert [(each.status, each.headers["etag"], each.body) for each in answers] == [(200, '"x"', b"hello")] * 3


def test_an_empty_body_has_its_length_told() -> None:
    with wired([b"HTTP/1.1 204 No Content\r\n\r\n"]) as (wire, peer):
        assert wire.ask("PUT", "/a", {"host": "x"}, b"").body == b""
        assert peer.requests == [b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"]


@pytest.mark.parametrize("cut", [0, 1, 45, 48, 60, 66])
def test_chunks_are_put_together(cut: int) -> None:
    sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nX-Last: 1\r\n\r\n"
    with wired([sent[:cut], sent[cut:]], [OK]) as (wire, peer):
        assert wire.ask("GET", "/", {}, b"").body == b"hello"
        assert wire.ask("GET", "/", {}, b"").body == b"hello"
        assert peer.connections == 1


def test_what_comes_before_the_answer_is_passed_over() -> None:
    with wired([b"HTTP/1.1 100 Continue\r\n\r\n" + OK]) as (wire, _):
        assert wire.ask("PUT", "/", {}, b"body").status == 200


@pytest.mark.parametrize(
    "ending",
    [
        [OK.replace(b"ETag", b"Connection: close\r\nETag")],
        [OK.replace(b"HTTP/1.1", b"HTTP/1.0")],
        # What nobody asked for belongs to no later request.
        [OK + OK],
    ],
)
def test_a_connection_that_is_done_is_not_used_again(ending: Sequence[bytes]) -> None:
    with wired(ending, [OK]) as (wire, peer):
        assert wire.ask("GET", "/", {}, b"").body == b"hello"
        assert wire.ask("GET", "/", {}, b"").body == b"hello"
        assert peer.connections == 2


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nhello",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 100_000,
    ],
)
def test_what_is_no_whole_answer_is_an_error(sent: bytes) -> None:
    with wired([sent]) as (wire, _), pytest.raises(ProtocolError):
        wire.ask("GET", "/", {}, b"")


def test_nothing_goes_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.httpsession import URLLib3Session

    session = URLLib3Session(proxies={"http": "http://proxy.example:3128"})
    assert not Wire(session, "http://store.example", TIMEOUT_S, lambda: None).works()
    assert Wire(session, "https://store.example", TIMEOUT_S, lambda: None).works()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_the_stores_certificate_is_checked(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    with wired([OK], [OK], context=context, verify=str(certificate)) as (wire, peer):
        assert [wire.ask("GET", "/", {}, b"").body for _ in range(2)] == [b"hello"] * 2
        assert peer.connections == 1


def test_a_session_that_has_changed_inside_is_left_to_the_sdk() -> None:
    assert not Wire(object(), "http://127.0.0.1:9", 1.0, lambda: None).works()
