"""A daemon, as a service manager would run it, and its log."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.support.workspace import COMMAND, Workspace

TIMEOUT_S = 60.0


class RunningDaemon:
    """A daemon of a workspace; its log is kept, one JSON document a line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._texts: list[str] = []
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def lines(self) -> list[dict[str, Any]]:
        """The log so far, without what is not a log line."""
        with self._grown:
            return [json.loads(text) for text in self._texts if text.startswith("{")]

    def errors(self) -> str:
        """What it wrote to stderr so far that is not a log line."""
        with self._grown:
            return "".join(text for text in self._texts if not text.startswith("{"))

    def await_line(self, words: str, *, after: int = 0) -> dict[str, Any]:
        """Returns the first log line, from the one numbered `after` on, whose message has `words`."""

        def found() -> dict[str, Any] | None:
            return next((line for line in self.lines()[after:] if words in line["message"]), None)

        with self._grown:
            self._grown.wait_for(lambda: found() or not self._reader.is_alive(), TIMEOUT_S)
        line = found()
        assert line is not None, f"the daemon did not log {words!r}:\n{''.join(self._texts)}"
        return line

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> int:
        """Ends it as a service manager does, and returns its exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """Kills it."""
        self._process.kill()
        self.ended()

    def ended(self) -> int:
        """Waits for its end and returns its exit code."""
        try:
            code = self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            with self._grown:
                raise AssertionError(f"the daemon does not end:\n{''.join(self._texts)}") from error
        self._reader.join(TIMEOUT_S)
        return code

    def _read(self) -> None:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            with self._grown:
                self._texts.append(text)
                self._grown.notify_all()
        with self._grown:
            self._grown.notify_all()


@contextmanager
def daemon(
    workspace: Workspace, *words: str, program: Sequence[str] = COMMAND, **environment: str
) -> Iterator[RunningDaemon]:
    """Runs a daemon in the workspace while the block runs, its API on a free port; it is killed if it still runs."""
    process = subprocess.Popen(
        [*program, "daemon", "--log-format", "json", *words],
        cwd=workspace.root,
        env={**workspace.child_environment, "DEPLOYCTL_DAEMON_LISTEN": "127.0.0.1:0", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = RunningDaemon(process)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        running.ended()
        assert process.stderr is not None
        process.stderr.close()
