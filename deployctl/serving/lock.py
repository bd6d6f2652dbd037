"""Leases on the models of a target, in files beside its server.

Layout below the target's state directory: `leases/<model>.model.json`, `leases/all.target.json`, `leases/token`;
`leases/guard.lock` is held while these change, `apply.lock` while the server is told what to serve.

They are not kept in the lineage database, because a rollback must be kept apart from a promotion while the database
is away, and two places to lock are none.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from deployctl.domain.clock import Clock
from deployctl.domain.event import Actor
from deployctl.domain.lease import LeaseRecord
from deployctl.domain.manifest import format_time, parse_time
from deployctl.domain.names import ModelName, TargetName
from deployctl.domain.revision import Desired, desired_from_json
from deployctl.errors import LeaseLostError, LockedError, NotFoundError, StorageError
from deployctl.files import file_lock, replace_text, sweep_directory
from deployctl.processes import ProcessIdentity, this_process
from deployctl.serving.interface import Lease, TargetLock, Turn

# A holder on another machine that has not renewed its lease for so long is taken for dead.
EXPIRY_S = 30.0
_RENEWAL_S = EXPIRY_S / 3
_GUARD_TIMEOUT_S = 5.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class _Entry:
    """A lease file: the lease, the process that holds it, and what that process has applied."""

    record: LeaseRecord
    process: ProcessIdentity
    applied: Desired | None = None


class FileTargetLock(TargetLock):
    """Leases of one target in `directory`, for one operation of one actor.

    A holder on this machine holds its lease as long as it lives, one on another machine until the lease runs out.
    """

    def __init__(
        self, directory: Path, actor: Actor, operation: str, clock: Clock, *, renewal_s: float = _RENEWAL_S
    ) -> None:
        self._directory = directory
        self._leases = directory / "leases"
        self._target = TargetName(directory.name)
        self._actor = actor
        self._operation = operation
        self._clock = clock
        self._renewal_s = renewal_s

    @contextmanager
    def hold(self, *, model: ModelName | None, purpose: str, timeout_s: float) -> Iterator[Lease]:
        """Holds a lease while the block runs; see TargetLock."""
        entry = self._acquire(model, purpose, timeout_s)
        ended = threading.Event()
        heart = threading.Thread(target=self._renew, args=(entry.record, ended), daemon=True, name="lease")
        heart.start()
        try:
            yield _FileLease(self, entry.record)
        finally:
            ended.set()
            heart.join()
            with self._guarded():
                if self._is_held(entry.record):
                    self._path(model).unlink(missing_ok=True)

    def leases(self) -> tuple[LeaseRecord, ...]:
        """Returns the leases that are held; see TargetLock."""
        records = [entry.record for entry in self._entries()]
        return tuple(sorted(records, key=lambda record: record.model or ""))

    def clear(self) -> tuple[LeaseRecord, ...]:
        """Removes what dead holders left; see TargetLock."""
        if not any(self._leases.glob("*.json")):
            return ()
        cleared = []
        with self._guarded():
            now = self._clock.now()
            for path in sorted(self._leases.glob("*.json")):
                entry = _read(path)
                if entry is not None and not _may_live(entry, now):
                    path.unlink(missing_ok=True)
                    cleared.append(entry.record)
        return tuple(cleared)

    def release(self, model: ModelName | None) -> LeaseRecord:
        """Takes a lease from its holder; see TargetLock."""
        with self._guarded():
            found = next((entry.record for entry in self._entries() if entry.record.model == model), None)
            if found is None:
                what = f"{model} on {self._target}" if model else f"target {self._target}"
                raise NotFoundError(f"{what} is not locked", hint=f"deployctl lock list {self._target}")
            self._path(model).unlink(missing_ok=True)
        return found

    @contextmanager
    def applying(self, record: LeaseRecord, *, timeout_s: float) -> Iterator[Turn]:
        """Takes the target's turn for the holder of `record`; see Lease.turn."""
        what = f"the server of {self._target}"
        with self._locked(self._directory / "apply.lock", what, str(record), timeout_s):
            entries = self._entries()
            if not any(entry.record.token == record.token for entry in entries):
                raise LeaseLostError(
                    f"the lock on {_name(record)} was taken from {record.owner} ({record.purpose}); nothing more was "
                    f"changed",
                    hint=f"deployctl status {self._target}",
                )
            turn = Turn(
                {
                    entry.record.model: entry.applied
                    for entry in entries
                    if entry.record.model and entry.applied and entry.record.token != record.token
                }
            )
            yield turn
            if turn.applied is not None:
                self._keep(record, turn.applied)

    def _acquire(self, model: ModelName | None, purpose: str, timeout_s: float) -> _Entry:
        deadline = self._clock.monotonic() + timeout_s
        while True:
            with self._guarded():
                held = [entry for entry in self._entries() if entry.record.conflicts(model)]
                if not held:
                    return self._new(model, purpose)
            if self._clock.monotonic() >= deadline:
                first = held[0].record
                raise LockedError(
                    f"{_name(first)} is in use by {first}, still after {timeout_s:g} s",
                    hint=f"deployctl op wait {first.operation}",
                )
            self._clock.pause(_POLL_S)

    def _new(self, model: ModelName | None, purpose: str) -> _Entry:
        process, now = this_process(), self._clock.now()
        sweep_directory(self._leases)
        record = LeaseRecord(
            target=self._target,
            model=model,
            token=self._next_token(),
            owner=str(self._actor),
            host=process.host,
            pid=process.pid,
            operation=self._operation,
            purpose=purpose,
            acquired_at=now,
            expires_at=now + timedelta(seconds=EXPIRY_S),
        )
        entry = _Entry(record, process)
        self._write(entry)
        return entry

    def _next_token(self) -> int:
        path = self._leases / "token"
        last = 0
        with suppress(OSError, ValueError):
            last = int(path.read_text(encoding="utf-8"))
        highest = max([last, *(entry.record.token for entry in self._entries())])
        self._replace(path, f"{highest + 1}\n")
        return highest + 1

    def _renew(self, record: LeaseRecord, ended: threading.Event) -> None:
        while not ended.wait(self._renewal_s):
            # A renewal that fails is tried again; a lease that is gone is noticed at the next change.
            with suppress(StorageError, LockedError), self._guarded():
                for entry in self._entries():
                    if entry.record.token == record.token:
                        self._write(entry)

    def _keep(self, record: LeaseRecord, applied: Desired) -> None:
        with self._guarded():
            for entry in self._entries():
                if entry.record.token == record.token:
                    self._write(_Entry(entry.record, entry.process, applied))

    def _is_held(self, record: LeaseRecord) -> bool:
        return any(entry.record.token == record.token for entry in self._entries())

    def _entries(self) -> list[_Entry]:
        """Returns the leases whose holders may be alive."""
        found = [_read(path) for path in sorted(self._leases.glob("*.json"))]
        now = self._clock.now()
        return [entry for entry in found if entry is not None and _may_live(entry, now)]

    def _write(self, entry: _Entry) -> None:
        document = asdict(entry.record) | {
            "acquired_at": format_time(entry.record.acquired_at),
            "expires_at": format_time(self._clock.now() + timedelta(seconds=EXPIRY_S)),
            "process": asdict(entry.process),
            "applied": None if entry.applied is None else entry.applied.to_json(),
        }
        self._replace(self._path(entry.record.model), json.dumps(document) + "\n")

    def _replace(self, path: Path, text: str) -> None:
        try:
            replace_text(path, text)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        what = f"the leases of {self._target}"
        with self._locked(self._leases / "guard.lock", what, str(self._actor), _GUARD_TIMEOUT_S):
            yield

    @contextmanager
    def _locked(self, path: Path, what: str, holder: str, timeout_s: float) -> Iterator[None]:
        with ExitStack() as held:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(file_lock(path, what=what, holder=holder, timeout_s=timeout_s))
            except OSError as error:
                raise StorageError(f"cannot lock {path}: {error.strerror}") from error
            yield

    def _path(self, model: ModelName | None) -> Path:
        return self._leases / (f"{model}.model.json" if model else "all.target.json")


class _FileLease(Lease):
    def __init__(self, lock: FileTargetLock, record: LeaseRecord) -> None:
        self._lock = lock
        self._record = record

    @contextmanager
    def turn(self, *, timeout_s: float) -> Iterator[Turn]:
        """Takes the target's turn; see Lease."""
        with self._lock.applying(self._record, timeout_s=timeout_s) as turn:
            yield turn


def _name(record: LeaseRecord) -> str:
    return f"{record.model} on {record.target}" if record.model else f"target {record.target}"


def _may_live(entry: _Entry, now: datetime) -> bool:
    if entry.process.is_this_machines():
        return not entry.process.is_known_dead()
    return entry.record.expires_at > now


def _read(path: Path) -> _Entry | None:
    """Returns what a lease file says, None for one that is gone or does not read, which nobody holds."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        process = ProcessIdentity(**document.pop("process"))
        applied = document.pop("applied")
        document |= {name: parse_time(document[name]) for name in ("acquired_at", "expires_at")}
        return _Entry(LeaseRecord(**document), process, None if applied is None else desired_from_json(applied))
    except (OSError, ValueError, KeyError, TypeError):
        return None
