"""What a notification says: one sentence, and the facts as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from deployctl.config.daemon_settings import NotificationFormat
from deployctl.config.settings import Settings
from deployctl.domain.duration import format_duration
from deployctl.domain.event import NewEvent
from deployctl.domain.manifest import format_time
from deployctl.domain.names import STABLE, VersionNumber
from deployctl.domain.occasion import Occasion, occasion, refusals
from deployctl.domain.revision import Revision
from deployctl.lineage.deliveries import Deliveries, Delivery, Happening

SCHEMA = "deployctl.notification/1"
# What an event carries may be long; a receiver wants to know what it is about.
_MAX_DETAILS = 20
_MAX_WORDS = 500


@dataclass(frozen=True, slots=True)
class Notice:
    """What a channel is told.

    Attributes:
        id: the same at each attempt, and no other notice's.
        event: the short name of what happened.
        text: one sentence.
        document: the facts, as JSON values, `text` among them.
    """

    id: str
    event: str
    text: str
    document: Mapping[str, Any]

    def body(self, form: NotificationFormat) -> bytes:
        """Returns what is sent."""
        document = self.document if form is NotificationFormat.JSON else {"text": _for_slack(self.text)}
        return json.dumps(document, ensure_ascii=False).encode(errors="backslashreplace")


def wanted(settings: Settings, names: Collection[str], happening: Happening) -> bool:
    """Whether a channel that asks for `names`, all of them if there are none, is told of what happened."""
    found = _occasion(settings, happening)
    return found is not None and (not names or found.value in names)


def notice(settings: Settings, happening: Happening) -> Notice | None:
    """Returns what is told of an event, None where nothing is."""
    found = _occasion(settings, happening)
    if found is None:
        return None
    event, revision = happening.event, happening.revision
    content = event.content
    advisory = _advisory(settings, content)
    details = [_short(words) for words in _details(content, advisory)[:_MAX_DETAILS]]
    version, previous = _versions(revision, content)
    text = _sentence(found, content, revision, details)
    document = {
        "schema": SCHEMA,
        "id": event.hash,
        "sequence": event.sequence,
        "event": found.value,
        "kind": content.kind.value,
        "at": format_time(content.at),
        "actor": {"user": content.actor.user, "host": content.actor.host, "ci": content.actor.ci},
        "operation": content.operation,
        "model": content.model,
        "target": content.target,
        "version": version,
        "previous_version": previous,
        "revision": revision.number if revision else None,
        "reason": _short(content.reason),
        "summary": text,
        "details": details,
    }
    return Notice(event.hash, found.value, text, document)


def given_up(settings: Settings, deliveries: Deliveries, channel: str | None) -> list[tuple[Delivery, str]]:
    """Returns what a channel, or any, will not be told any more, each with its sentence, "-" where nothing is said."""
    found = []
    for each in deliveries.dead(channel):
        happening = deliveries.happening(each.sequence)
        told = notice(settings, happening) if happening else None
        found.append((each, told.text if told else "-"))
    return found


def trial(settings_name: str, identity: str, at: str) -> Notice:
    """Returns what `deployctl notifications test` sends."""
    text = f"deployctl can reach {settings_name}: this is a test"
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "id": identity,
        "sequence": None,
        "event": "test",
        "kind": None,
        "at": at,
        "actor": None,
        "operation": None,
        "model": None,
        "target": None,
        "version": None,
        "previous_version": None,
        "revision": None,
        "reason": "",
        "summary": text,
        "details": [],
    }
    return Notice(identity, "test", text, document)


def _occasion(settings: Settings, happening: Happening) -> Occasion | None:
    content, revision = happening.event.content, happening.revision
    change = revision.kind if revision else None
    return occasion(content, change, advisory=_advisory(settings, content))


def _advisory(settings: Settings, content: NewEvent) -> Collection[str]:
    target = settings.targets.get(content.target) if content.target else None
    return target.advisory_gates if target else ()


def _versions(revision: Revision | None, content: NewEvent) -> tuple[VersionNumber | None, VersionNumber | None]:
    """Returns the version that it is about, and the one that it took the place of."""
    if revision is None:
        return content.data.get("version"), None
    label = _moved(revision)
    return revision.desired.labels.get(label), revision.before.labels.get(label)


def _moved(revision: Revision) -> Any:
    """Returns the label that a change moved; `stable` where that is one of several."""
    after, before = revision.desired.labels, revision.before.labels
    moved = [label for label in {**before, **after} if after.get(label) != before.get(label)]
    return STABLE if STABLE in moved or not moved else moved[0]


def _details(content: NewEvent, advisory: Collection[str]) -> list[str]:
    """Returns what is known beyond who, what and where, one sentence each."""
    data = content.data
    evidence = data.get("evidence", {})
    refused = [f"{each['gate']}: {problem}" for each in refusals(content, advisory) for problem in _problems(each)]
    found = [evidence.get("error"), evidence.get("restore"), data.get("error"), data.get("problem")]
    return [*refused, *(str(each) for each in found if each), *(str(each) for each in data.get("differences", ()))]


def _problems(gate: Mapping[str, Any]) -> list[str]:
    return list(gate["problems"]) or [gate["summary"]]


def _sentence(found: Occasion, content: NewEvent, revision: Revision | None, details: list[str]) -> str:
    what = _change(found, revision) if revision else _fact(found, content)
    by = f" by {content.actor}" if found not in _BY_NOBODY else ""
    because = "; ".join(words for words in (*details[:3], content.reason) if words)
    return _short(f"{what}{by}{': ' + because if because else ''}")


# The actor of these is the daemon or whoever asked a gate, who has not done what is told.
_BY_NOBODY = frozenset(
    {Occasion.GATE_REFUSED, Occasion.EXPORT_REFUSED, Occasion.DRIFT, Occasion.DEGRADED, Occasion.RECOVERED}
)


def _change(found: Occasion, revision: Revision) -> str:
    label = _moved(revision)
    after, before = revision.desired.labels.get(label), revision.before.labels.get(label)
    was, now = (f"@{version}" if version is not None else "nothing" for version in (before, after))
    where = f"{revision.model} on {revision.target}"
    move = f"{where}: {label} {was} -> {now}"
    match found:
        case Occasion.RESTORED:
            return f"{revision.kind} failed, and {was} serves as before: {move}"
        case Occasion.FAILED:
            return f"{revision.kind} failed, and what served before is not known to serve: {move}"
        case Occasion.ROLLED_BACK:
            return f"rolled back {move}"
        case _:
            return f"promoted {move}"


def _fact(found: Occasion, content: NewEvent) -> str:
    data = content.data
    version = f"{content.model}@{data['version']}" if "version" in data else str(content.model)
    place = f"{content.model} on {content.target}" if content.model else str(content.target)
    export = data.get("export", "an export")
    repaired = ", which is repaired" if data.get("repaired") else ""
    after = f" after {format_duration(data['after_s'])}" if "after_s" in data else ""
    words: Mapping[Occasion, str] = {
        Occasion.EXPORT_REFUSED: f"the export {export} of {content.model} was refused",
        Occasion.GATE_REFUSED: f"gates refused {version}{f' for {content.target}' if content.target else ''}",
        Occasion.DRIFT: f"{place} serves something else than is recorded{repaired}",
        Occasion.DEGRADED: f"{place} is degraded",
        Occasion.RECOVERED: f"{place} has recovered{after}",
        Occasion.LOCK_RELEASED: f"the lock of {place} was released",
        Occasion.TOKEN_CREATED: f"a token of the API was created for {data.get('name')}",
        Occasion.TOKEN_REVOKED: f"the token {data.get('id')} of the API was revoked",
        Occasion.RELEASED: f"{version} was released from quarantine",
    }
    subject = version if content.kind.value.startswith("version.") else place
    return words.get(found) or f"{subject} was {found.value}"


def _short(words: str) -> str:
    return words if len(words) <= _MAX_WORDS else f"{words[: _MAX_WORDS - 1]}…"


def _for_slack(text: str) -> str:
    # https://api.slack.com/reference/surfaces/formatting#escaping
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
