"""Progress on stderr: a line for each finished step, and a bar on a terminal for what takes long."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from deployctl.cli.render import style
from deployctl.domain.clock import Observer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Work shorter than this shows no bar.
_PATIENCE_S = 0.7


class TerminalObserver(Observer):
    """Writes steps and warnings to stderr; safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: float | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> TerminalObserver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_bar()

    def step(self, name: str, text: str) -> None:
        """Writes one finished step, its name in a column of its own."""
        self._end_bar()
        with self._lock:
            print(f"{style(f'{name:<8}', 'dim', sys.stderr)} {text}", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Writes a warning."""
        self._end_bar()
        with self._lock:
            print(f"{style('warning:', 'yellow', sys.stderr)} {text}", file=sys.stderr, flush=True)

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Shows a bar once the work has lasted a while and stderr is a terminal."""
        if not sys.stderr.isatty():
            return
        with self._lock:
            now = time.monotonic()
            self._began = self._began or now
            if self._bar is None and now - self._began > _PATIENCE_S and done_bytes < total_bytes:
                self._start_bar(total_bytes)
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, completed=done_bytes)

    def _start_bar(self, total_bytes: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=total_bytes)
        self._bar.start()

    def _end_bar(self) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
            self._bar = self._task = self._began = None
