"""What of this machine a command elsewhere needs: files are hashed, and those that are lacking there are sent."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployctl.cli.progress import TerminalObserver
from deployctl.cli.remote_connection import Api, ConnectionLostError, RefusalError
from deployctl.errors import ServerUnavailableError, UnreadableExportError, UsageError

_WORKERS = 4
_CHUNK = 1 << 20
# How often a file that makes no progress is tried, with a pause that doubles.
_ATTEMPTS = 8
_FIRST_PAUSE_S = 0.2
# The daemon reads a file that is there already, or has come, before it answers.
_PATIENCE_S = 600.0
# The body came too slowly, the file is being sent by another, or more or less of it is there than was thought.
_PASSING = frozenset({408, 409, 412})


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One file to send.

    Attributes:
        path: where it belongs in what is sent, "" where it is sent by itself.
    """

    path: str
    real: Path
    size: int


@dataclass(frozen=True, slots=True)
class Input:
    """A directory or a file that the command is to read.

    Attributes:
        shown: as it was typed.
        origin: the absolute path.
        files: None where there is nothing at that path, which the command is to say itself.
    """

    shown: str
    origin: str
    files: tuple[LocalFile, ...] | None
    hashes: Mapping[Path, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of its path, as it can be on any machine."""
        return sendable_name(self.origin)

    def hashed(self) -> Input:
        """Returns this with the SHA-256 of each file."""
        reals = list(dict.fromkeys(each.real for each in self.files or ()))
        stopped = threading.Event()
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="hash") as pool:
            futures = [pool.submit(_sha256, real, stopped) for real in reals]
            try:
                hashes = dict(zip(reals, [future.result() for future in futures], strict=True))
            except BaseException:
                # An interrupt does not wait for the end of large files.
                stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return Input(self.shown, self.origin, self.files, hashes)

    def document(self) -> dict[str, Any]:
        """Returns it as the API takes it."""
        return {"name": self.name, "shown": self.shown, "origin": self.origin, "files": self.file_documents()}

    def file_documents(self) -> list[dict[str, Any]] | None:
        """Returns its files as the API takes them."""
        if self.files is None:
            return None
        return [{"path": each.path, "sha256": self.hashes[each.real], "size": each.size} for each in self.files]


def tree_input(text: str) -> Input:
    """Returns a directory, or a file, that was named on the command line.

    Raises:
        InvalidModelError: it holds what cannot be part of a version, or cannot be read.
    """
    from deployctl.repository.tree import scan

    path = Path(text)
    if not path.is_dir():
        return file_input(text)
    tree = scan(path)
    for problem in tree.refused.values():
        raise problem
    found = (LocalFile(each.path, tree.root.joinpath(*each.real), each.stamp.size) for each in tree.files)
    return Input(text, os.path.abspath(text), tuple(found))


def file_input(text: str) -> Input:
    """Returns a file that was named on the command line."""
    try:
        size = os.stat(text).st_size
        found = (LocalFile("", Path(text), size),) if os.path.isfile(text) else None
    except OSError:
        found = None
    return Input(text, os.path.abspath(text), found)


@contextmanager
def standard_input() -> Iterator[Input]:
    """Gives what is written to this process as a file."""
    with tempfile.NamedTemporaryFile(prefix="deployctl-stdin-") as file:
        while data := sys.stdin.buffer.read(_CHUNK):
            file.write(data)
        file.flush()
        size = os.stat(file.name).st_size
        yield Input("-", file.name, (LocalFile("", Path(file.name), size),))


def send(api: Api, inputs: Sequence[Input], *, model: str | None, observer: TerminalObserver) -> None:
    """Sends what the daemon lacks of the inputs; what an earlier try has sent is not sent again.

    Where `model` is given, its versions may spare some of the files.

    Raises:
        ServerUnavailableError: the connection breaks again and again.
    """
    files = {each.hashes[file.real]: file for each in inputs for file in each.files or ()}
    documents = [document for each in inputs for document in each.file_documents() or ()]
    if not documents:
        return
    lacking = api.ask("POST", "/v1/uploads", {"model": model, "files": documents}, timeout_s=_PATIENCE_S)["lacking"]
    total = sum(files[sha256].size for sha256 in lacking)
    sending = _Sending(api, observer, total, sum(lacking.values()))
    # The largest first: the last file to finish should be a small one.
    order = sorted(lacking, key=lambda sha256: -files[sha256].size)
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="send") as pool:
        futures = [pool.submit(sending.send, sha256, files[sha256], lacking[sha256]) for sha256 in order]
        try:
            for future in futures:
                future.result()
        except BaseException:
            sending.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class _Sending:
    """One pass over files that are lacking."""

    def __init__(self, api: Api, observer: TerminalObserver, total: int, done: int) -> None:
        self._api = api
        self._observer = observer
        self._total = total
        self._done = done
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def send(self, sha256: str, file: LocalFile, have: int) -> None:
        """Sends one file from byte `have` on, again where the connection breaks."""
        pause_s, failures = _FIRST_PAUSE_S, 0
        while not self._stopped.is_set():
            try:
                self._put(sha256, file, have)
            except (ConnectionLostError, RefusalError) as error:
                if isinstance(error, RefusalError) and error.status not in _PASSING:
                    raise
                failures += 1
                if failures >= _ATTEMPTS:
                    raise ServerUnavailableError(
                        f"{file.real} could not be sent to {self._api.url.geturl()}: {error}",
                        hint=f"curl -sS {self._api.url.geturl()}/healthz",
                    ) from error
                self._stopped.wait(pause_s)
                pause_s *= 2
                found = self._have(sha256, file)
                if found is None:
                    return
                before, have = have, found
                if have > before:
                    pause_s, failures = _FIRST_PAUSE_S, 0
            else:
                return

    def _put(self, sha256: str, file: LocalFile, have: int) -> None:
        path = f"/v1/uploads/{sha256}?offset={have}&size={file.size}"
        try:
            with file.real.open("rb") as stream:
                stream.seek(have)
                body = self._chunks(stream, file.size - have)
                with self._api.request(
                    "PUT", path, body, kind="application/octet-stream", timeout_s=_PATIENCE_S
                ) as response:
                    response.read()
        except OSError as error:
            raise UnreadableExportError(str(file.real), f"cannot be read: {error.strerror}") from error

    def _chunks(self, stream: Any, left: int) -> Iterator[bytes]:
        while left and not self._stopped.is_set():
            data = stream.read(min(_CHUNK, left))
            if not data:
                return
            left -= len(data)
            yield data
            with self._lock:
                self._done = min(self._done + len(data), self._total)
                self._observer.progress(self._done, self._total)

    def _have(self, sha256: str, file: LocalFile) -> int | None:
        """Returns how much of a file is there; None for all of it, whoever has sent it, or the answer was lost."""
        try:
            document = {"model": None, "files": [{"path": "", "sha256": sha256, "size": file.size}]}
            lacking = self._api.ask("POST", "/v1/uploads", document)["lacking"]
        except (ConnectionLostError, ServerUnavailableError):
            return 0
        return int(lacking[sha256]) if sha256 in lacking else None


class Outputs:
    """Files that the command elsewhere writes, and that are to be here."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._open: dict[int, Any] = {}

    def take(self, index: int, data: bytes) -> None:
        """Writes the next bytes of a file.

        Raises:
            UsageError: it cannot be written.
        """
        path = Path(self._paths[index])
        try:
            if index not in self._open:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._open[index] = tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent, delete=False)  # noqa: SIM115 - closed by `keep` or `discard`
            self._open[index].write(data)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error

    def keep(self) -> None:
        """Puts the files in their places.

        Raises:
            UsageError: one cannot be put there.
        """
        for index, file in tuple(self._open.items()):
            path = Path(self._paths[index])
            try:
                file.close()
                os.chmod(file.name, 0o666 & ~_umask())
                os.replace(file.name, path)
            except OSError as error:
                raise UsageError(f"cannot write {path}: {error.strerror}") from error
            del self._open[index]

    def discard(self) -> None:
        """Removes what was not put in its place."""
        for file in self._open.values():
            file.close()
            Path(file.name).unlink(missing_ok=True)
        self._open.clear()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sha256(path: Path, stopped: threading.Event) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK))
    try:
        with path.open("rb", buffering=0) as file:
            while not stopped.is_set() and (count := file.readinto(buffer)):
                digest.update(buffer[:count])
        return digest.hexdigest()
    except OSError as error:
        raise UnreadableExportError(str(path), f"cannot be read: {error.strerror}") from error


def sendable_name(path: str) -> str:
    """Returns the last part of a path, without what is no text."""
    return os.path.basename(path).encode(errors="replace").decode() or "root"


def safely_shown(text: str) -> str:
    """Returns a path as it can be put into text and into JSON alike."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
