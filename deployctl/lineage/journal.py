"""The journal of operations, in files of the state directory: `operations/<operation>.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deployctl.domain.clock import Clock
from deployctl.domain.manifest import format_time, parse_time
from deployctl.domain.operation import OperationRecord, OperationRequest, OperationState, Phase
from deployctl.errors import DeployctlError, OperationNotFoundError
from deployctl.files import replace_text, sweep_directory
from deployctl.lineage.interface import OperationJournal, RunningOperation
from deployctl.processes import ProcessIdentity, this_process

# Operations that have ended and are still shown.
_KEPT = 100
_INTERRUPTED_EXIT_CODE = 130


class FileOperationJournal(OperationJournal):
    """One file for each operation, written before each phase, so that a killed operation tells where it was.

    It is not forced to the disk: a machine that stops takes the server with it, and what must not be lost then, the
    pending revision, is in the lineage database.

    Args:
        warn: told once, in one sentence, that the journal cannot be written.
    """

    def __init__(self, directory: Path, clock: Clock, warn: Callable[[str], None]) -> None:
        self._directory = directory
        self._clock = clock
        self._warn = warn
        self._ended: dict[tuple[Path, tuple[int, int]], OperationRecord] = {}

    @contextmanager
    def open(
        self, operation: str, request: OperationRequest, actor: str, *, first: Phase = Phase.LOCK
    ) -> Iterator[RunningOperation]:
        """Journals an operation while the block runs; see OperationJournal."""
        running = _FileOperation(self._directory / f"{operation}.json", request, actor, self._clock, self._warn)
        running.enter(first)
        try:
            yield running
        except DeployctlError as error:
            running.close(error.exit_code, str(error))
            raise
        except KeyboardInterrupt:
            running.close(_INTERRUPTED_EXIT_CODE, "interrupted")
            raise
        except Exception as error:
            running.close(1, f"{type(error).__name__}: {error}")
            raise
        # Whatever else ends the block, such as SystemExit of a killed thread, leaves it as a kill would.
        else:
            running.close(0, running.outcome)
            self._prune()

    def operations(self) -> tuple[OperationRecord, ...]:
        """Returns the operations that are known, newest first."""
        paths = sorted(self._directory.glob("*.json"), reverse=True)
        # Of those that have ended, only what was written since is read again: a daemon asks every few seconds.
        found, ended = [], {}
        for path in paths:
            written = _written(path)
            record = self._ended.get((path, written)) or _read(path)
            if record is None:
                continue
            found.append(record)
            if record.state not in {OperationState.RUNNING, OperationState.INTERRUPTED}:
                ended[path, written] = record
        self._ended = ended
        return tuple(found)

    def operation(self, operation: str) -> OperationRecord:
        """Returns one operation; see OperationJournal."""
        # The id is a word of the command line: it must not lead out of the directory.
        known = {path.stem: path for path in self._directory.glob("*.json")}
        record = _read(known[operation]) if operation in known else None
        if record is None:
            raise OperationNotFoundError(operation)
        return record

    def settle(self, operation: str, *, by: str) -> None:
        """Writes that what an interrupted operation left was put right by another."""
        path = self._directory / f"{operation}.json"
        with suppress(OSError, ValueError):
            document = json.loads(path.read_text(encoding="utf-8"))
            replace_text(path, json.dumps(document | {"settled_by": by}) + "\n")

    def _prune(self) -> None:
        sweep_directory(self._directory)
        for path in sorted(self._directory.glob("*.json"), reverse=True)[_KEPT:]:
            record = _read(path)
            if record is None or record.state in {OperationState.RUNNING, OperationState.INTERRUPTED}:
                continue
            with suppress(OSError):
                path.unlink(missing_ok=True)
                path.with_suffix(".log").unlink(missing_ok=True)


class _FileOperation(RunningOperation):
    def __init__(
        self, path: Path, request: OperationRequest, actor: str, clock: Clock, warn: Callable[[str], None]
    ) -> None:
        self._path = path
        self._clock = clock
        self._warn = warn
        self._failed = False
        self.outcome = ""
        self._document: dict[str, Any] = {
            "request": asdict(request),
            "actor": actor,
            "process": asdict(this_process()),
            "phases": [],
        }

    def enter(self, phase: Phase) -> None:
        """Writes that `phase` is about to begin."""
        self._document["phases"].append([phase.value, format_time(self._clock.now())])
        self._write()

    def end(self, outcome: str) -> None:
        """Says with which words the operation ends."""
        self.outcome = outcome

    def close(self, exit_code: int, outcome: str) -> None:
        """Writes how the operation has ended."""
        ended = {"ended_at": format_time(self._clock.now()), "exit_code": exit_code, "outcome": outcome}
        self._document |= ended
        self._write()

    def _write(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self._path, json.dumps(self._document) + "\n")
        except OSError as error:
            if not self._failed:
                self._warn(f"this operation is not journalled: cannot write {self._path}: {error.strerror}")
            self._failed = True


def _written(path: Path) -> tuple[int, int]:
    """Returns what is another when a file was replaced."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_ino, found.st_mtime_ns)


def _read(path: Path) -> OperationRecord | None:
    """Returns what a file says, None where it is gone or does not read."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        process = ProcessIdentity(**document["process"])
        return OperationRecord(
            id=path.stem,
            request=OperationRequest(**document["request"]),
            actor=document["actor"],
            host=process.host,
            pid=process.pid,
            state=_state(document, process),
            phases=tuple((Phase(name), parse_time(at)) for name, at in document["phases"]),
            ended_at=parse_time(document["ended_at"]) if "ended_at" in document else None,
            exit_code=document.get("exit_code"),
            outcome=document.get("outcome", ""),
            settled_by=document.get("settled_by", ""),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _state(document: dict[str, Any], process: ProcessIdentity) -> OperationState:
    if document.get("settled_by"):
        return OperationState.SETTLED
    exit_code = document.get("exit_code")
    if exit_code is not None:
        return OperationState.FAILED if exit_code else OperationState.DONE
    return OperationState.INTERRUPTED if process.is_known_dead() else OperationState.RUNNING
