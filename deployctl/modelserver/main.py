"""`deployctl-model-server`: flags → core → gRPC and REST, until a signal ends it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from deployctl.errors import UsageError
from deployctl.modelserver.flags import Flags, parse_flags, usage

if TYPE_CHECKING:
    from deployctl.modelserver.server import ModelServer

logger = logging.getLogger("deployctl.modelserver")

_EXIT_USAGE = 2
# tensorflow_model_server returns -1.
_EXIT_START_FAILED = 255


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the server; the process ends with it."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03d: %(levelname).1s %(name)s: %(message)s",
        # Its own format ends with milliseconds too.
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    if "--help" in words or "-h" in words:
        _exit(0, usage())
    try:
        flags = parse_flags(words)
    except UsageError as error:
        sys.stderr.write(f"{error}\nhint: {error.hint}\n")
        _exit(_EXIT_USAGE)
    if flags.version:
        _exit(0, _versions())
    _exit(_serve(flags))


def _serve(flags: Flags) -> int:
    started = time.perf_counter()
    signals = _Signals()
    server = _started(flags, signals)
    if server is None:
        return _EXIT_START_FAILED
    logger.info("ready %.2f s after main began", time.perf_counter() - started)
    signals.wait()
    server.drain(flags.drain_timeout)
    return 0


class _Signals:
    """SIGTERM and SIGINT, which before `defer` end the process at once: there is nothing to drain yet.

    The kernel hands a signal to any thread, and Python runs handlers in the main one only when it next runs
    Python. So a thread waits for the byte that the C handler writes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deferring = False
        self._ending = threading.Event()
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def defer(self) -> None:
        """Keeps signals from now on for `wait`."""
        with self._lock:
            self._deferring = True

    def wait(self) -> None:
        """Returns after the first signal."""
        self._ending.wait()

    def _watch(self) -> None:
        number = signal.Signals(self._reader.recv(1)[0])
        with self._lock:
            if not self._deferring:
                logger.info("%s before anything was served", number.name)
                _exit(0)
        logger.info("%s: draining", number.name)
        self._ending.set()


def _started(flags: Flags, signals: _Signals) -> ModelServer | None:
    # TensorFlow's libraries take longer to load than everything else here, and without the GIL.
    from deployctl.modelserver.capi import c_api

    loading = threading.Thread(target=_preload, name="load TensorFlow", daemon=True)
    loading.start()
    from deployctl.modelserver.interface import StatusError
    from deployctl.modelserver.server import ModelServer

    loading.join()
    try:
        c_api()
        server = ModelServer(flags)
        signals.defer()
        server.listen()
        _spare_the_collector()
    except StatusError as error:
        sys.stdout.write(f"Failed to start server. Error: {error.code.name}: {error.message}\n")
        return None
    return server


def _spare_the_collector() -> None:
    """Keeps what is there from being looked at again and again; a full collection of it holds requests up for 10 ms."""
    gc.collect()
    gc.freeze()
    # Objects that requests under way hold are many, and go without the collector's help.
    gc.set_threshold(20_000)


def _preload() -> None:
    from deployctl.modelserver.capi import c_api
    from deployctl.modelserver.interface import StatusError

    try:
        c_api()
    except StatusError as error:
        logger.debug("%s", error)


def _versions() -> str:
    from deployctl import __version__
    from deployctl.modelserver.capi import c_api

    return f"TensorFlow ModelServer: deployctl {__version__}\nTensorFlow Library: {c_api().version().decode()}"


def _exit(status: int, text: str = "") -> NoReturn:
    """Ends the process at once: TensorFlow's threads need no farewell, and waiting for them may crash."""
    if text:
        sys.stdout.write(text + "\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
