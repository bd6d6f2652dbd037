"""Runs one command for a client elsewhere, and keeps what it writes in a file from which it is sent.

The daemon starts `python -m deployctl.cli.remote_runner DIRECTORY`. The runner outlives the daemon, so that neither a
restart of the daemon nor a lost connection cuts an operation off. Each line of DIRECTORY/frames is a JSON object with
one key: "began", "stdout", "stderr" (text, bytes that are no UTF-8 as lone surrogates), "file" or "exit".
"""

from __future__ import annotations

import base64
import codecs
import fcntl
import json
import os
import selectors
import shutil
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deployctl.processes import start_of

# What a command may write in all; a log that is followed for ever ends here.
MAX_BYTES = 256 << 20
_CHUNK = 64 << 10
_FILE_CHUNK = 192 << 10
# How long after the end of the command what it left running may still write.
_LAST_WORDS_S = 1.0
# How long a command that changes nothing goes on when nobody listens: longer than a client tries to come back.
UNHEARD_S = 90.0
_LOOK_S = 5.0


def main() -> None:
    """Leaves the command running in the background, and returns."""
    directory = Path(sys.argv[1])
    request = json.loads((directory / "request.json").read_text(encoding="utf-8"))
    # An interrupt waits until whoever it is for can take it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    runner = os.fork()
    if runner:
        identity = {"pid": runner, "started": start_of(runner)}
        written = directory / "process.json.new"
        written.write_text(json.dumps(identity), encoding="utf-8")
        written.rename(directory / "process.json")
        return
    os.setsid()
    streams = {name: _channel(request["terminal"].get(name)) for name in ("stdout", "stderr")}
    command = os.fork()
    if command == 0:
        _become(request, *(each[1] for each in streams.values()))
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        except KeyboardInterrupt:
            sys.exit(130)
        from deployctl.cli.__main__ import main as run

        run()
        return
    for _, ours in streams.values():
        os.close(ours)
    _Runner(directory, request, command).follow({name: each[0] for name, each in streams.items()})


def _channel(size: list[int] | None) -> tuple[int, int]:
    """Returns where to read and where to write a stream; a terminal of this many lines and columns, or a pipe."""
    if size is None:
        return os.pipe()
    ours, theirs = os.openpty()
    attributes = termios.tcgetattr(theirs)
    # Lines end at the client's terminal, as that has it.
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    return ours, theirs


def _become(request: Mapping[str, Any], stdout: int, stderr: int) -> None:
    """Makes this process the one that runs the command."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for source, descriptor in ((os.open(os.devnull, os.O_RDONLY), 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, descriptor)
    os.closerange(3, 256)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        line_by_line = os.isatty(descriptor) or descriptor == 2
        stream = open(descriptor, "w", encoding="utf-8", buffering=1 if line_by_line else -1, closefd=False)  # noqa: SIM115 - for as long as the process lives
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.environ.update(request["environment"])
    sys.argv = ["deployctl", *request["words"]]


class _Runner:
    """Follows one command to its end."""

    def __init__(self, directory: Path, request: Mapping[str, Any], command: int) -> None:
        self._directory = directory
        self._command = command
        self._outputs = request["outputs"]
        files = (*request["inputs"], *self._outputs)
        names = {each["path"].encode(): each["shown"].encode(errors="backslashreplace") for each in files}
        self._streams = {name: _Text(names) for name in ("stdout", "stderr")}
        self._frames = os.open(directory / "frames", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._written = 0
        self._reads = self._ended_unheard = False
        signal.signal(signal.SIGINT, lambda *_: self._interrupt())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def follow(self, streams: Mapping[str, int]) -> None:
        """Returns when the command has ended and everything is written."""
        ended = os.pidfd_open(self._command)
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ, "end")
            for name, descriptor in streams.items():
                selector.register(descriptor, selectors.EVENT_READ, name)
            runs = True
            while selector.get_map():
                ready = selector.select(_LOOK_S if runs else _LAST_WORDS_S)
                if not ready and not runs:
                    break
                self._end_if_unheard()
                for key, _ in ready:
                    if key.data == "end":
                        runs = False
                        selector.unregister(key.fd)
                    elif not self._pass_on(key.data, key.fd):
                        selector.unregister(key.fd)
        # What comes too late must not reach another process, which may have the command's number then.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._end(os.waitstatus_to_exitcode(os.waitpid(self._command, 0)[1]))

    def _pass_on(self, name: str, descriptor: int) -> bool:
        """Writes what has come of a stream; returns whether more may come."""
        try:
            data = os.read(descriptor, _CHUNK)
        except OSError:  # the other end of a terminal is closed
            data = b""
        text = self._streams[name].feed(data, last=not data)
        if text and self._written < MAX_BYTES:
            self._write({name: text})
            if self._written >= MAX_BYTES:
                self._write({"stderr": f"error: the command wrote more than {MAX_BYTES >> 20} MiB and was ended\n"})
                self._interrupt()
        return bool(data)

    def _end(self, code: int) -> None:
        for name, stream in self._streams.items():
            text = stream.feed(b"", last=True)
            if text:
                self._write({name: text})
        for index, each in enumerate(self._outputs):
            for frame in _file_frames(index, Path(each["path"])):
                self._write(frame)
        for name in ("in", "out"):
            shutil.rmtree(self._directory / name, ignore_errors=True)
        # A command that a signal ended exits as a shell tells it.
        self._write({"exit": code if code >= 0 else 128 - code})

    def _write(self, frame: Mapping[str, Any]) -> None:
        line = json.dumps(frame).encode() + b"\n"
        self._written += len(line)
        view = memoryview(line)
        # An operation goes on where there is no room to tell of it.
        with suppress(OSError):
            while view:
                view = view[os.write(self._frames, view) :]

    def _end_if_unheard(self) -> None:
        """Ends what is only to be shown, and is shown to nobody any more; the daemon may be gone as well as the client.

        A daemon notes in the time of the request's file that somebody listens; the command, that it only reads.
        """
        self._reads = self._reads or (self._directory / "reads").exists()
        if self._ended_unheard or not self._reads:
            return
        try:
            heard_at = (self._directory / "request.json").stat().st_mtime
        except OSError:  # removed, with all that it could be shown from
            heard_at = 0.0
        if time.time() - heard_at > UNHEARD_S:
            self._ended_unheard = True
            self._interrupt()

    def _interrupt(self) -> None:
        # A terminal tells the processes that the command has started too.
        try:
            os.killpg(self._command, signal.SIGINT)
        except ProcessLookupError:
            # It is not the first of its group yet, or has ended.
            with suppress(ProcessLookupError):
                os.kill(self._command, signal.SIGINT)


class _Text:
    """One stream as text, with paths of this machine as whoever typed them knows them."""

    def __init__(self, names: Mapping[bytes, bytes]) -> None:
        self._names = names
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._held = b""

    def feed(self, data: bytes, *, last: bool) -> str:
        """Returns what can be passed on after `data` has come."""
        data = self._held + data
        for path, shown in self._names.items():
            data = data.replace(path, shown)
        kept = 0 if last else max((_begun(data, path) for path in self._names), default=0)
        self._held = data[len(data) - kept :]
        return self._decoder.decode(data[: len(data) - kept], final=last)


def _begun(data: bytes, path: bytes) -> int:
    """Returns how many bytes at the end of `data` are the beginning of `path`."""
    longest = min(len(data), len(path) - 1)
    return next((count for count in range(longest, 0, -1) if data.endswith(path[:count])), 0)


def _file_frames(index: int, path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        first = True
        while (data := file.read(_FILE_CHUNK)) or first:
            yield {"file": {"index": index, "data": base64.b64encode(data).decode()}}
            first = False


if __name__ == "__main__":
    main()
