"""What an engine's socket says is taken where it is plain, and left to the SDK where it is not."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from deployctl.serving.docker_reading import read

TIMEOUT_S = 60.0


@contextmanager
def saying(path: Path, *pieces: bytes) -> Iterator[list[bytes]]:
    """An engine's socket that answers one request with `pieces`; yields what it was sent."""
    heard: list[bytes] = []
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            with closing(listener.accept()[0]) as connection:
                connection.settimeout(TIMEOUT_S)
                heard.append(connection.recv(65536))
                for piece in pieces:
                    connection.sendall(piece)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield heard
        finally:
            thread.join(TIMEOUT_S)


def ask(path: Path) -> object:
    return read(str(path), "/containers/json", {"filters": '{"label": ["a=b c"]}'}, timeout_s=TIMEOUT_S)


def test_an_answer_in_pieces_is_read_to_the_end_of_its_connection(tmp_path: Path) -> None:
    body = json.dumps([{"Id": "é" * 100_000}]).encode()

    with saying(tmp_path / "sock", b"HTTP/1.0 200 OK\r\nContent-", b"Type: x\r\n\r\n", body[:50], body[50:]) as heard:
        assert ask(tmp_path / "sock") == [{"Id": "é" * 100_000}]

    assert heard[0].startswith(b"GET /containers/json?filters=%7B%22label%22%3A+%5B%22a%3Db+c%22%5D%7D HTTP/1.0\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.0 404 Not Found\r\n\r\n{"message": "No such container"}',
        b"HTTP/1.0 500 Internal Server Error\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n",
        b'HTTP/1.0 200 OK\r\n\r\n[{"Id": "cut o',
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"\xff\xfe",
        b"",
    ],
)
def test_what_is_no_plain_answer_is_left_to_the_sdk(tmp_path: Path, answer: bytes) -> None:
    with saying(tmp_path / "sock", answer):
        assert ask(tmp_path / "sock") is None


def test_an_engine_that_is_not_there_is_left_to_the_sdk(tmp_path: Path) -> None:
    assert ask(tmp_path / "sock") is None


def test_an_engine_that_says_nothing_is_waited_for_only_so_long(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()

        with pytest.raises(TimeoutError):
            read(str(tmp_path / "sock"), "/info", {}, timeout_s=0.05)
