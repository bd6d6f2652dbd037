"""JSON schemas of the API's answers; the documents are those of `-o json`."""

from __future__ import annotations

from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
INTEGER: dict[str, Any] = {"type": "integer"}
BOOLEAN: dict[str, Any] = {"type": "boolean"}
TIME: dict[str, Any] = {"type": "string", "format": "date-time"}
ANYTHING: dict[str, Any] = {"type": "object"}


def optional(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a schema that takes null too."""
    return schema | {"type": [schema["type"], "null"]}


def listed(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a list."""
    return {"type": "array", "items": schema}


def mapped(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of an object with values of one kind."""
    return {"type": "object", "additionalProperties": schema}


def record(maybe: tuple[str, ...] = (), /, **properties: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of an object that has these properties and no others, all but those in `maybe`."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in maybe],
        "additionalProperties": False,
    }


def document(noun: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a whole answer."""
    return schema | {
        "properties": {"schema": {"const": f"deployctl.{noun}/1"}, **schema["properties"]},
        "required": ["schema", *schema["required"]],
    }


ERROR = record(error=TEXT, hint=optional(TEXT), exit_code=INTEGER, kind=TEXT, retryable=BOOLEAN)
_ACTOR = record(user=TEXT, host=TEXT, ci=TEXT, command=TEXT)
_FREEZE = record(model=optional(TEXT), reason=TEXT, actor=_ACTOR, at=TIME, expires_at=optional(TIME))
_LOADED = record(version=INTEGER, state=TEXT, error=TEXT)
_READY = record(**{"version": INTEGER, "class": TEXT, "estimate_s": optional(NUMBER)})
_SERVED = record(
    name=TEXT,
    revision=optional(INTEGER),
    labels=mapped(INTEGER),
    live=optional(INTEGER),
    standby=listed(INTEGER),
    versions=listed(_LOADED),
    since=TIME,
    actor=_ACTOR,
    reason=TEXT,
    rollback=optional(_READY),
    drift=listed(TEXT),
    interrupted=BOOLEAN,
    operation=optional(TEXT),
    unreviewed=listed(record(revision=INTEGER, ticket=TEXT)),
)
_TARGET = record(
    name=TEXT,
    runtime=TEXT,
    state=TEXT,
    healthy=BOOLEAN,
    endpoints=record(rest=TEXT, grpc=TEXT),
    detail=ANYTHING,
    drift=listed(TEXT),
    error=TEXT,
    freezes=listed(_FREEZE),
    models=listed(_SERVED),
)
STATUS = record(targets=listed(_TARGET))
_EVENT = record(
    sequence=INTEGER,
    kind=TEXT,
    at=TIME,
    actor=_ACTOR,
    operation=TEXT,
    model=optional(TEXT),
    target=optional(TEXT),
    reason=TEXT,
    data=ANYTHING,
    hash=TEXT,
)
HISTORY = record(events=listed(_EVENT))
MODELS = record(models=listed(record(model=TEXT, latest=optional(INTEGER), versions=INTEGER)))
_VERSION = record(
    ("digest", "size_bytes", "published_at", "published_by", "metrics", "tags"),
    version=INTEGER,
    recorded=BOOLEAN,
    digest=TEXT,
    size_bytes=INTEGER,
    published_at=TIME,
    published_by=TEXT,
    metrics=mapped(NUMBER),
    tags=mapped(TEXT),
)
VERSIONS = record(model=TEXT, versions=listed(_VERSION))
VERSION = record(model=TEXT, version=INTEGER, path=TEXT, manifest=optional(ANYTHING))
VERIFIED = record(model=TEXT, version=INTEGER, intact=BOOLEAN, problems=listed(record(path=TEXT, problem=TEXT)))
_CHANGE = record(subject=TEXT, before=optional(TEXT), after=optional(TEXT))
DIFF = record(
    before=TEXT,
    after=TEXT,
    identical=BOOLEAN,
    size_bytes=record(before=optional(INTEGER), after=optional(INTEGER)),
    signatures=listed(_CHANGE),
    ops=listed(_CHANGE),
    files=listed(_CHANGE),
)
OPERATION = record(
    id=TEXT,
    verb=TEXT,
    subject=TEXT,
    target=optional(TEXT),
    model=optional(TEXT),
    actor=TEXT,
    host=TEXT,
    pid=INTEGER,
    state={"type": "string", "enum": ["running", "interrupted", "settled", "done", "failed"]},
    phases=listed(record(phase=TEXT, at=TIME)),
    started_at=TIME,
    ended_at=optional(TIME),
    exit_code=optional(INTEGER),
    outcome=TEXT,
    settled_by=TEXT,
)
OPERATIONS = record(operations=listed(OPERATION))
FREEZES = record(target=TEXT, freezes=listed(_FREEZE))
LOCK = record(
    target=TEXT,
    model=optional(TEXT),
    token=INTEGER,
    owner=TEXT,
    host=TEXT,
    pid=INTEGER,
    operation=TEXT,
    purpose=TEXT,
    acquired_at=TIME,
    expires_at=TIME,
)
LOCKS = record(locks=listed(LOCK))
_TOKEN = record(
    id=TEXT,
    name=TEXT,
    role={"type": "string", "enum": ["viewer", "deployer", "admin"]},
    targets=listed(TEXT),
    models=listed(TEXT),
    created_at=TIME,
    created_by=TEXT,
    expires_at=optional(TIME),
)
TOKENS = record(tokens=listed(_TOKEN))
PUBLISHED = record(
    model=TEXT,
    version=optional(INTEGER),
    digest=optional(TEXT),
    created=BOOLEAN,
    file_count=INTEGER,
    size_bytes=INTEGER,
    duration_s=NUMBER,
    dry_run=BOOLEAN,
)
PROMOTION = record(
    model=TEXT,
    target=TEXT,
    label=TEXT,
    version=INTEGER,
    previous_version=optional(INTEGER),
    revision=optional(INTEGER),
    outcome=TEXT,
    standby=listed(INTEGER),
    duration_s=NUMBER,
)
ROLLBACK = record(
    **{
        "model": TEXT,
        "target": TEXT,
        "version": INTEGER,
        "previous_version": optional(INTEGER),
        "revision": optional(INTEGER),
        "restores": INTEGER,
        "outcome": TEXT,
        "class": TEXT,
        "estimate_s": optional(NUMBER),
        "undone_canary": optional(INTEGER),
        "duration_s": NUMBER,
        "spooled": BOOLEAN,
    }
)
_JUDGED = record(
    gate=TEXT,
    outcome=TEXT,
    summary=TEXT,
    problems=listed(TEXT),
    duration_s=NUMBER,
    reused=BOOLEAN,
    evidence=ANYTHING,
)
REPORT = record(
    subject=TEXT,
    target=optional(TEXT),
    serving=TEXT,
    passed=BOOLEAN,
    reason=TEXT,
    duration_s=NUMBER,
    gates=listed(_JUDGED),
)
FROZEN = record(target=TEXT, model=optional(TEXT), reason=TEXT, expires_at=optional(TIME))
UNFROZEN = record(target=TEXT, model=optional(TEXT))
QUARANTINES = record(
    model=TEXT, versions=listed(record(version=INTEGER, digest=TEXT, reason=TEXT, actor=_ACTOR, at=TIME))
)
QUARANTINED = record(model=TEXT, version=INTEGER, digest=TEXT, quarantined=BOOLEAN)
REVIEWED = record(model=TEXT, target=TEXT, revisions=listed(INTEGER))
RETIRED = record(
    model=TEXT,
    versions=listed(INTEGER),
    size_bytes=INTEGER,
    held=listed(record(version=INTEGER, reason=TEXT)),
    dry_run=BOOLEAN,
)
GC = record(dry_run=BOOLEAN, leftovers=listed(TEXT))
LOGS = record(target=TEXT, lines=listed(TEXT))
AUDIT = record(
    intact=BOOLEAN,
    verified=INTEGER,
    broken={"type": ["object", "null"], "properties": {"sequence": INTEGER, "reason": TEXT}},
    disagreement=TEXT,
)
CHANNELS = record(
    channels=listed(
        record(
            name=TEXT,
            format=TEXT,
            url=TEXT,
            signed=BOOLEAN,
            events=listed(TEXT),
            sequence=optional(INTEGER),
            behind=optional(INTEGER),
            outstanding=optional(INTEGER),
            failing=optional(INTEGER),
            dead=optional(INTEGER),
            due_at=optional(TIME),
            error=TEXT,
        )
    )
)
DEAD = record(
    notifications=listed(
        record(channel=TEXT, event=INTEGER, attempts=INTEGER, given_up_at=TIME, error=TEXT, summary=TEXT)
    )
)
