"""What the API tells beside models and targets: quarantines, the record itself, channels, logs of servers."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

from deployctl.daemon.api import schemas
from deployctl.daemon.api.endpoints import Call, Endpoint, reading
from deployctl.daemon.api.fields import Field, Kind

_PATH_MODEL = Field("model", Kind.MODEL, "a model's name", required=True)
_PATH_TARGET = Field("target", Kind.TARGET, "a target's name", required=True)
_LIMIT = Field("limit", Kind.INTEGER, "how many, 1 to 1000", least=1, most=1000)
_SINCE = Field("since", Kind.DURATION, "only lines of the last, such as 1m")
_CHANNEL = Field("channel", Kind.TEXT, "NAME of [notifications.NAME]")
_LINES = 100


def records() -> tuple[Endpoint, ...]:
    """Returns the rows."""
    return (
        reading("listQuarantines", "/v1/models/{model}/quarantines", "The versions of a model that nobody is served.",
                "quarantines", schemas.QUARANTINES, _quarantines, places=(_PATH_MODEL,)),
        reading("getLogs", "/v1/targets/{target}/logs", "The end of a server's log.", "logs", schemas.LOGS, _logs,
                places=(_PATH_TARGET,), query=(_LIMIT, _SINCE)),
        reading("verifyAudit", "/v1/audit", "Whether the events are as they were appended, and the state is theirs.",
                "audit", schemas.AUDIT, _audit),
        replace(reading("listChannels", "/v1/notifications", "Who is told of events, and what is still to be told.",
                        "notifications", schemas.CHANNELS, _channels), verb="notifications list"),
        replace(reading("listDeadNotifications", "/v1/notifications/dead", "What was given up to be told.",
                        "dead-notifications", schemas.DEAD, _dead, query=(_CHANNEL,)), verb="notifications dead"),
    )  # fmt: skip


def _quarantines(call: Call) -> dict[str, Any]:
    from deployctl.documents.holds import quarantine_document
    from deployctl.operations.registry import list_versions

    model, lineage = call.values["model"], call.deployment.lineage
    recorded = [each.record for each in list_versions(call.deployment.repository, lineage, model) if each.record]
    found = [(each.version, lineage.quarantine(each.digest)) for each in recorded]
    return {"model": model, "versions": [quarantine_document(version, each) for version, each in found if each]}


def _logs(call: Call) -> dict[str, Any]:
    # Its lines are of all models.
    call.authority.check_all_models("a server's log")
    target = call.deployment.target(call.values["target"])
    since_s, limit = call.get("since"), call.get("limit", _LINES)
    lines = target.runtime.logs(lines=None if since_s is not None else limit, since_s=since_s, follow=False)
    return {"target": target.name, "lines": list(islice(lines, limit))}


def _audit(call: Call) -> dict[str, Any]:
    from deployctl.documents.lineage import audit_document
    from deployctl.lineage.audit import examine

    call.authority.check_all_models("the record")
    return audit_document(examine(call.deployment.lineage, tuple(call.deployment.settings.targets)))


def _channels(call: Call) -> dict[str, Any]:
    from deployctl.daemon.notify_call import shown_address
    from deployctl.documents.notifications import channel_document

    channels = call.deployment.settings.notifications
    with call.deployment.deliveries() as deliveries:
        states = deliveries.states()
    found = [channel_document(name, each, states.get(name), shown_address(each)) for name, each in channels.items()]
    return {"channels": found}


def _dead(call: Call) -> dict[str, Any]:
    from deployctl.daemon.notify_words import given_up
    from deployctl.documents.notifications import dead_document

    with call.deployment.deliveries() as deliveries:
        found = given_up(call.deployment.settings, deliveries, call.get("channel"))
    return {"notifications": [dead_document(each, text) for each, text in found]}
