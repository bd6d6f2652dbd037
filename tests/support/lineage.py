"""Lineage kept in memory, and builders of events."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deployctl.domain.authority import Token
from deployctl.domain.event import GENESIS, Actor, Event, EventKind, NewEvent, chain
from deployctl.domain.hold import Freeze, GateRecord, Quarantine
from deployctl.domain.manifest import FileEntry, Manifest, Provenance, format_time, from_json, to_json
from deployctl.domain.names import Digest, LabelName, ModelName, TargetName, VersionNumber
from deployctl.domain.revision import Desired, Revision, RevisionKind, RevisionState
from deployctl.domain.saved_model import PREDICT_METHOD, Signature, TensorSpec
from deployctl.errors import ConcurrentChangeError, DatabaseBusyError, RevisionNotFoundError
from deployctl.lineage.interface import LineageStore, LineageTransaction, VersionRecord
from deployctl.lineage.mirrored import MirroredLineageStore
from deployctl.lineage.projections import (
    Effect,
    Frozen,
    Noted,
    Quarantined,
    Released,
    Retired,
    RevisionOpened,
    RevisionReviewed,
    RevisionSettled,
    TargetChanged,
    TokenCreated,
    TokenRevoked,
    Unfrozen,
    Validated,
    VersionRecorded,
    effect,
    normalised,
)
from deployctl.lineage.state_copy import StateCopy
from deployctl.system import SystemClock

MODEL = ModelName("digits")
TARGET = TargetName("local")
ACTOR = Actor(user="ada", host="build-1", ci="https://ci.example/7", command="deployctl promote digits@2")
NOW = datetime(2026, 11, 21, 7, 10, 27, 123456, tzinfo=UTC)


@dataclass
class _State:
    events: list[Event] = field(default_factory=list)
    versions: dict[tuple[ModelName, VersionNumber], tuple[VersionRecord, str]] = field(default_factory=dict)
    revisions: dict[tuple[TargetName, ModelName, int], Revision] = field(default_factory=dict)
    freezes: dict[tuple[TargetName, ModelName | None], Freeze] = field(default_factory=dict)
    quarantines: dict[Digest, Quarantine] = field(default_factory=dict)
    verdicts: dict[str, GateRecord] = field(default_factory=dict)
    running: dict[TargetName, bool] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)


class InMemoryLineageStore(LineageStore):
    """Lineage that lives as long as this object."""

    def __init__(self, *, busy_timeout_s: float = 5.0) -> None:
        self._state = _State()
        self._writer = threading.Lock()
        self._busy_timeout_s = busy_timeout_s

    @contextmanager
    def transaction(self) -> Iterator[LineageTransaction]:
        if not self._writer.acquire(timeout=self._busy_timeout_s):
            raise DatabaseBusyError("another transaction is open")
        try:
            state = copy.copy(self._state)
            state.events = list(state.events)
            state.versions = dict(state.versions)
            state.revisions = dict(state.revisions)
            state.freezes = dict(state.freezes)
            state.quarantines = dict(state.quarantines)
            state.verdicts = dict(state.verdicts)
            state.tokens = dict(state.tokens)
            yield _Transaction(state)
            self._state = state
        finally:
            self._writer.release()

    def models(self) -> tuple[ModelName, ...]:
        return tuple(sorted({model for model, _ in self._state.versions}))

    def versions(self, model: ModelName | None = None) -> tuple[VersionRecord, ...]:
        recorded = sorted(self._state.versions.items())
        return tuple(record for (name, _), (record, _) in recorded if model in (None, name))

    def manifest(self, model: ModelName, version: VersionNumber) -> Manifest | None:
        recorded = self._state.versions.get((model, version))
        return None if recorded is None else from_json(recorded[1], where="the recorded manifest")

    def current(self, target: TargetName) -> tuple[Revision, ...]:
        models = sorted({model for name, model, _ in self._state.revisions if name == target})
        found = (_current(self._state, target, model) for model in models)
        return tuple(revision for revision in found if revision is not None)

    def targets(self) -> tuple[TargetName, ...]:
        return tuple(sorted({target for target, _, _ in self._state.revisions}))

    def pending(self, target: TargetName) -> tuple[Revision, ...]:
        # A dictionary keeps the order in which the revisions were opened.
        return tuple(
            revision
            for revision in self._state.revisions.values()
            if revision.target == target and revision.state is RevisionState.PENDING
        )

    def revisions(self, target: TargetName, model: ModelName, *, limit: int) -> tuple[Revision, ...]:
        of_pair = [revision for key, revision in sorted(self._state.revisions.items()) if key[:2] == (target, model)]
        return tuple(reversed(of_pair))[:limit]

    def freezes(self, target: TargetName) -> tuple[Freeze, ...]:
        return tuple(freeze for freeze in self._state.freezes.values() if freeze.target == target)

    def running(self, target: TargetName) -> bool | None:
        return self._state.running.get(target)

    def quarantine(self, digest: Digest) -> Quarantine | None:
        return self._state.quarantines.get(digest)

    def tokens(self) -> tuple[Token, ...]:
        return tuple(self._state.tokens.values())

    def verdict(self, key: str) -> GateRecord | None:
        return self._state.verdicts.get(key)

    def history(
        self, *, model: ModelName | None = None, target: TargetName | None = None, limit: int
    ) -> Sequence[Event]:
        touching = [
            event
            for event in reversed(self._state.events)
            if model in (None, event.content.model) and target in (None, event.content.target)
        ]
        return touching[:limit]

    def events(self) -> Iterator[Event]:
        yield from self._state.events

    def folded_sequence(self) -> int:
        return len(self._state.events)


class _Transaction(LineageTransaction):
    def __init__(self, state: _State) -> None:
        self._state = state

    def append(self, event: NewEvent) -> Event:
        content = normalised(event)
        change = effect(content)
        last = self._state.events[-1] if self._state.events else None
        appended = chain(last.hash if last else GENESIS, last.sequence + 1 if last else 1, content)
        _fold(self._state, change)
        self._state.events.append(appended)
        return appended

    def has_version(self, model: ModelName, version: VersionNumber) -> bool:
        return (model, version) in self._state.versions

    def has_event(self, operation: str, kind: EventKind) -> bool:
        return any((event.content.operation, event.content.kind) == (operation, kind) for event in self._state.events)

    def next_revision(self, target: TargetName, model: ModelName) -> int:
        return max((key[2] for key in self._state.revisions if key[:2] == (target, model)), default=0) + 1

    def current(self, target: TargetName, model: ModelName) -> Revision | None:
        return _current(self._state, target, model)


def _current(state: _State, target: TargetName, model: ModelName) -> Revision | None:
    served = (
        revision
        for key, revision in state.revisions.items()
        if key[:2] == (target, model) and revision.state is RevisionState.SERVING
    )
    return max(served, key=lambda revision: revision.number, default=None)


def _fold(state: _State, change: Effect) -> None:
    match change:
        case VersionRecorded(record, document):
            state.versions[record.model, record.version] = (record, document)
        case TargetChanged():
            state.running[change.target] = change.running
        case RevisionReviewed():
            key = (change.target, change.model, change.number)
            if key in state.revisions:
                state.revisions[key] = replace(state.revisions[key], reviewed_at=change.at)
        case Frozen(freeze):
            state.freezes.pop((freeze.target, freeze.model), None)
            state.freezes[freeze.target, freeze.model] = freeze
        case Unfrozen(target, model):
            state.freezes.pop((target, model), None)
        case Quarantined(quarantine):
            state.quarantines[quarantine.digest] = quarantine
        case Released(digest):
            state.quarantines.pop(digest, None)
        case TokenCreated(token):
            state.tokens.pop(token.id, None)
            state.tokens[token.id] = token
        case TokenRevoked(token_id):
            state.tokens.pop(token_id, None)
        case Retired(model, version):
            state.versions.pop((model, version), None)
        case Noted():
            pass
        case Validated(records):
            state.verdicts |= {record.key: record for record in records}
        case RevisionOpened(revision):
            key = (revision.target, revision.model, revision.number)
            if key in state.revisions:
                raise ConcurrentChangeError(*key)
            state.revisions[key] = revision
        case RevisionSettled():
            key = (change.target, change.model, change.number)
            if key not in state.revisions:
                raise RevisionNotFoundError(f"there is no revision {key}")
            state.revisions[key] = replace(
                state.revisions[key], state=change.state, settled_at=change.at, evidence=change.evidence
            )


def a_manifest(
    version: int = 1, *, model: ModelName = MODEL, provenance: Provenance | None = None, content: str = "0"
) -> Manifest:
    """Returns a manifest; `content` is a hex digit that decides the digest."""
    return Manifest(
        model=model,
        version=VersionNumber(version),
        files=(FileEntry("saved_model.pb", 9, content * 64), FileEntry("variables/variables.index", 90, "b" * 64)),
        signatures={"serving_default": Signature(PREDICT_METHOD, {"x": TensorSpec("float32", (None, 64), "x:0")}, {})},
        frameworks={"tensorflow": "2.21.0"},
        provenance=provenance
        or Provenance(
            source="/exports/digits",
            run="https://runs.example/5",
            code="4f2a-dirty",
            datasets={"digits": "sha256:77"},
            parents=(),
            metrics={"accuracy": 0.97},
            tags={"team": "vision"},
        ),
        published_at=NOW,
        published_by="ada@build-1",
    )


def published(
    manifest: Manifest | None = None, *, kind: EventKind = EventKind.VERSION_PUBLISHED, at: datetime = NOW
) -> NewEvent:
    """Returns the event of a version's publishing."""
    manifest = manifest or a_manifest()
    data = {"version": manifest.version, "digest": manifest.digest, "manifest": json.loads(to_json(manifest))}
    return NewEvent(kind, at, ACTOR, "op-1", model=manifest.model, data=data)


def retired(manifest: Manifest | None = None) -> NewEvent:
    """Returns the event of a version's end."""
    manifest = manifest or a_manifest()
    data = {"version": manifest.version, "digest": manifest.digest}
    return NewEvent(EventKind.VERSION_RETIRED, NOW, ACTOR, "op-10", model=manifest.model, data=data)


def target_event(kind: EventKind, *, target: TargetName = TARGET) -> NewEvent:
    """Returns the event of a target's start or stop."""
    data = {"runtime": "process", "rest": "http://127.0.0.1:8501", "grpc": "127.0.0.1:8500", "pid": 41}
    return NewEvent(kind, NOW, ACTOR, "op-2", target=target, data=data)


def frozen(
    *, target: TargetName = TARGET, model: ModelName | None = None, expires_at: datetime | None = None
) -> NewEvent:
    """Returns the event of a freeze."""
    data = {"expires_at": None if expires_at is None else format_time(expires_at)}
    return NewEvent(EventKind.TARGET_FROZEN, NOW, ACTOR, "op-4", model, target, "the sale", data)


def unfrozen(*, target: TargetName = TARGET, model: ModelName | None = None) -> NewEvent:
    """Returns the event of a freeze's end."""
    return NewEvent(EventKind.TARGET_UNFROZEN, NOW, ACTOR, "op-5", model, target, "", {})


def noted(kind: EventKind) -> NewEvent:
    """Something that is only history."""
    return NewEvent(kind, NOW, ACTOR, "op-noted", MODEL, TARGET, "seen", {})


def token_created(key: str = "0123456789ab", *, expires_at: datetime | None = None) -> NewEvent:
    """Returns the event of a token's making."""
    data = {
        "id": key,
        "name": f"ci-{key}",
        "role": "deployer",
        "targets": [TARGET],
        "models": [],
        "digest": "5" * 64,
        "expires_at": None if expires_at is None else format_time(expires_at),
    }
    return NewEvent(EventKind.TOKEN_CREATED, NOW, ACTOR, "op-9", data=data)


def token_revoked(key: str = "0123456789ab") -> NewEvent:
    """Returns the event of a token's end."""
    return NewEvent(EventKind.TOKEN_REVOKED, NOW, ACTOR, "op-9", data={"id": key})


def lock_released(*, target: TargetName = TARGET, model: ModelName | None = MODEL) -> NewEvent:
    """Returns the event of a lock that was taken from its holder."""
    data = {"owner": "grace@laptop", "purpose": "promote half@2", "operation": "op-3", "token": 7}
    return NewEvent(EventKind.LOCK_RELEASED, NOW, ACTOR, "op-6", model, target, "stuck", data)


def quarantined(manifest: Manifest | None = None, *, released: bool = False) -> NewEvent:
    """Returns the event that puts a version's bytes into quarantine, or lets them out."""
    manifest = manifest or a_manifest()
    kind = EventKind.VERSION_RELEASED if released else EventKind.VERSION_QUARANTINED
    data = {"version": manifest.version, "digest": manifest.digest}
    return NewEvent(kind, NOW, ACTOR, "op-6", manifest.model, None, "it is wrong", data)


def validated(*keys: str, model: ModelName = MODEL, target: TargetName | None = TARGET) -> NewEvent:
    """Returns the event of gates' verdicts, one for each key."""
    gates = [
        {
            "key": key,
            "gate": "signature",
            "outcome": "passed",
            "summary": "ok",
            "problems": [],
            "duration_s": 0.25,
            "evidence": {"signatures": ["serving_default"]},
        }
        for key in keys
    ]
    data = {"version": 1, "digest": "sha256:" + "0" * 64, "gates": gates}
    return NewEvent(EventKind.VERSION_VALIDATED, NOW, ACTOR, "op-7", model, target, "", data)


def reviewed(number: int = 1, *, model: ModelName = MODEL, target: TargetName = TARGET) -> NewEvent:
    """Returns the event that somebody looked at a revision."""
    return NewEvent(EventKind.REVISION_REVIEWED, NOW, ACTOR, "op-8", model, target, "", {"revision": number})


def desired(*versions: int, stable: int | None = None) -> Desired:
    """Returns what is to be loaded and, if given, where `stable` points."""
    labels = {} if stable is None else {LabelName("stable"): VersionNumber(stable)}
    return Desired(tuple(VersionNumber(version) for version in versions), labels)


def pending(
    number: int = 1,
    *,
    model: ModelName = MODEL,
    target: TargetName = TARGET,
    after: Desired | None = None,
    before: Desired | None = None,
    restores: int | None = None,
    reason: str = "",
    at: datetime = NOW,
) -> NewEvent:
    """Returns the event that opens a revision: a rollback where it restores one, else a promotion."""
    kind = RevisionKind.PROMOTE if restores is None else RevisionKind.ROLLBACK
    data = {
        "revision": number,
        "kind": kind.value,
        "desired": (after or desired(1, stable=1)).to_json(),
        "before": (before or desired()).to_json(),
        "restores": restores,
    }
    return NewEvent(EventKind.REVISION_PENDING, at, ACTOR, "op-3", model, target, reason, data)


def settled(
    number: int = 1,
    *,
    model: ModelName = MODEL,
    target: TargetName = TARGET,
    serving: bool = True,
    evidence: Mapping[str, Any] | None = None,
    at: datetime = NOW,
) -> NewEvent:
    """Returns the event that says whether a revision serves."""
    kind = EventKind.REVISION_SERVING if serving else EventKind.REVISION_FAILED
    data = {"revision": number, "evidence": dict(evidence or {"probe": "ok"})}
    return NewEvent(kind, at, ACTOR, "op-3", model, target, "", data)


def mirrored(
    primary: LineageStore, state: Path, *, failover: bool = False, warnings: list[str] | None = None
) -> MirroredLineageStore:
    """Returns `primary` with its revisions copied below `state`; what it warns of is added to `warnings`."""
    told = [] if warnings is None else warnings
    return MirroredLineageStore(primary, StateCopy(state), SystemClock(), failover=failover, warn=told.append)
