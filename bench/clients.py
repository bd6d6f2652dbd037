"""Clients in a closed loop, in a process of their own: each sends its next REST request when the last is answered.

python -m bench.clients PORT PATH BODY_FILE CLIENTS SECONDS: prints a line when they start, and at the end, which
comes after SECONDS or with SIGTERM, the seconds gone by and [[time of the answer, seconds it took], …] as
JSON. Times are by a clock that all processes of the machine share (CLOCK_MONOTONIC); a failure took null seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from bench.project import CHECKOUT, environment


@dataclass(frozen=True, slots=True)
class Answers:
    """What the clients measured.

    Attributes:
        seconds: of each answered request, in the order of the answers.
        times: of the answers, as time.monotonic().
        failures: requests that were not answered with 200.
        elapsed_s: how long the clients were at it.
    """

    seconds: Sequence[float]
    times: Sequence[float]
    failures: int
    elapsed_s: float

    @property
    def per_request_s(self) -> float:
        """The time for which one request occupied the server: the inverse of the throughput."""
        return self.elapsed_s / max(1, len(self.seconds))

    def between(self, start: float, end: float) -> list[float]:
        """The seconds of the answers that came from `start` to `end`."""
        return [took for took, at in zip(self.seconds, self.times, strict=True) if start <= at <= end]


class Clients:
    """Running clients."""

    def __init__(self, port: int, path: str, body: Path, *, clients: int, seconds: float) -> None:
        """Starts them."""
        command = [sys.executable, "-m", "bench.clients", str(port), path, str(body), str(clients), str(seconds)]
        self._process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env={**environment()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._timeout_s = seconds + 60
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def answers(self) -> Answers:
        """Waits until they have been at it for their seconds.

        Raises:
            RuntimeError: they could not go on.
        """
        printed, errors = self._process.communicate(timeout=self._timeout_s)
        if self._process.returncode:
            raise RuntimeError(f"the clients failed: {errors.strip()[-500:]}")
        elapsed_s, answers = json.loads(printed)
        good = [(at, took) for at, took in answers if took is not None]
        return Answers([took for _, took in good], [at for at, _ in good], len(answers) - len(good), elapsed_s)

    def stop(self) -> Answers:
        """Ends them now."""
        self._process.terminate()
        return self.answers()


class _Client(asyncio.Protocol):
    """Sends on one connection, and sets `closed` when the server closes that."""

    def __init__(self, request: bytes, answers: list[tuple[float, float | None]], started: float) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self._request = request
        self._answers = answers
        self._received = b""
        self._sent = started
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        lowered = head.lower()
        start = lowered.index(b"content-length:") + len(b"content-length:")
        if len(body) < int(lowered[start:].split(b"\r\n", 1)[0]):
            return
        now = time.monotonic()
        self._answers.append((now, now - self._sent if b" 200 " in head[:16] else None))
        self._received = b""
        assert self._transport is not None
        if b"connection: close" in lowered:
            self._transport.close()
            return
        self._sent = now
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


def _same(client: _Client) -> _Client:
    return client


async def _run(port: int, path: str, body: bytes, clients: int, seconds: float) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    request = head.encode() + b"\r\n\r\n" + body
    answers: list[tuple[float, float | None]] = []
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ending.set)

    async def client() -> None:
        while True:
            protocol = _Client(request, answers, time.monotonic())
            await loop.create_connection(partial(_same, protocol), "127.0.0.1", port)
            await protocol.closed

    running = [asyncio.create_task(client()) for _ in range(clients)]
    started = time.monotonic()
    print("started", flush=True)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ending.wait(), seconds)
    elapsed = time.monotonic() - started
    for task in running:
        task.cancel()
    print(json.dumps([elapsed, answers]))


def main() -> None:
    """Runs the clients."""
    import uvloop

    port, path, body, clients, seconds = sys.argv[1:]
    uvloop.run(_run(int(port), path, Path(body).read_bytes(), int(clients), float(seconds)))


if __name__ == "__main__":
    main()
