from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deployctl.config.daemon_settings import NotificationFormat
from deployctl.config.settings import Settings, TargetSettings
from deployctl.daemon.notify_words import notice, wanted
from deployctl.domain.event import EventKind, NewEvent, chain
from deployctl.domain.names import LabelName, VersionNumber
from deployctl.domain.revision import Desired, Revision, RevisionKind, RevisionState, desired_from_json
from deployctl.lineage.deliveries import Happening
from tests.support.lineage import (
    ACTOR,
    MODEL,
    NOW,
    TARGET,
    desired,
    frozen,
    noted,
    pending,
    published,
    quarantined,
    settled,
    target_event,
    validated,
)

SETTINGS = Settings(Path("/etc/deployctl"), targets={TARGET: TargetSettings(advisory_gates=("ops",))})


def happening(event: NewEvent, opened: NewEvent | None = None) -> Happening:
    return Happening(chain("0" * 64, 7, event), None if opened is None else revision(opened))


def revision(opened: NewEvent) -> Revision:
    data = opened.data
    return Revision(
        TARGET,
        MODEL,
        data["revision"],
        RevisionKind(data["kind"]),
        desired_from_json(data["desired"]),
        desired_from_json(data["before"]),
        RevisionState.PENDING,
        ACTOR,
        opened.operation,
        opened.reason,
        NOW,
        restores=data["restores"],
    )


def text(event: NewEvent, opened: NewEvent | None = None) -> str:
    found = notice(SETTINGS, happening(event, opened))
    assert found is not None
    return found.text


def promotion() -> NewEvent:
    return pending(2, before=desired(1, stable=1), after=desired(1, 2, stable=2))


def test_a_promotion_is_told_with_its_versions_its_actor_and_the_reason() -> None:
    event = replace(settled(2), reason="better on the long tail")

    found = notice(SETTINGS, happening(event, promotion()))

    assert found is not None
    assert found.text == "promoted digits on local: stable @1 -> @2 by ada@ci: better on the long tail"
    assert {**found.document, "summary": ""} == {
        "schema": "deployctl.notification/1",
        "id": happening(event).event.hash,
        "sequence": 7,
        "event": "promoted",
        "kind": "revision.serving",
        "at": "2026-11-21T07:10:27.123456Z",
        "actor": {"user": "ada", "host": "build-1", "ci": "https://ci.example/7"},
        "operation": "op-3",
        "model": "digits",
        "target": "local",
        "version": 2,
        "previous_version": 1,
        "revision": 2,
        "reason": "better on the long tail",
        "summary": "",
        "details": [],
    }


def test_a_canary_is_told_by_its_label() -> None:
    labels = {LabelName("stable"): VersionNumber(1)}
    after = Desired((VersionNumber(1), VersionNumber(2)), labels | {LabelName("canary"): VersionNumber(2)})
    opened = pending(2, before=desired(1, stable=1), after=after)

    assert text(settled(2), opened) == "promoted digits on local: canary nothing -> @2 by ada@ci"


@pytest.mark.parametrize(
    ("event", "opened", "words"),
    [
        (published(), None, "digits@1 was published by ada@ci"),
        (
            settled(3),
            pending(3, before=desired(1, 2, stable=2), after=desired(1, stable=1), restores=1),
            "rolled back digits on local: stable @2 -> @1 by ada@ci",
        ),
        (
            settled(2, serving=False, evidence={"error": "it does not load", "restored": True}),
            promotion(),
            "promote failed, and @1 serves as before: digits on local: stable @1 -> @2 by ada@ci: it does not load",
        ),
        (
            settled(2, serving=False, evidence={"error": "it does not load", "restore": "no answer"}),
            promotion(),
            "promote failed, and what served before is not known to serve: digits on local: stable @1 -> @2 by ada@ci: "
            "it does not load; no answer",
        ),
        (frozen(), None, "local was frozen by ada@ci: the sale"),
        (quarantined(), None, "digits@1 was quarantined by ada@ci: it is wrong"),
        (quarantined(released=True), None, "digits@1 was released from quarantine by ada@ci: it is wrong"),
        (target_event(EventKind.TARGET_STOPPED), None, "local was stopped by ada@ci"),
        (
            replace(noted(EventKind.TARGET_DRIFTED), data={"differences": ["@2 is END"], "repaired": True}, reason=""),
            None,
            "digits on local serves something else than is recorded, which is repaired: @2 is END",
        ),
        (
            replace(noted(EventKind.TARGET_DEGRADED), data={"problem": "3 of 10 calls fail"}, reason=""),
            None,
            "digits on local is degraded: 3 of 10 calls fail",
        ),
        (
            replace(noted(EventKind.TARGET_RECOVERED), data={"after_s": 12.0}, reason=""),
            None,
            "digits on local has recovered after 12 s",
        ),
        (
            replace(
                noted(EventKind.VERSION_REFUSED), target=None, data={"export": "digits/7", "error": "cut"}, reason=""
            ),
            None,
            "the export digits/7 of digits was refused: cut",
        ),
    ],
)
def test_what_happened_is_one_sentence(event: NewEvent, opened: NewEvent | None, words: str) -> None:
    assert text(event, opened) == words


def test_a_refusal_by_gates_tells_which_and_why_but_not_what_was_only_advice() -> None:
    event = validated("a", "b")
    one, other = event.data["gates"]
    gates = [
        {**one, "gate": "ops", "outcome": "failed", "problems": ["unknown op"]},
        {**other, "outcome": "failed", "problems": ["the input x is gone"]},
    ]
    found = text(replace(event, data={**event.data, "gates": gates}))

    assert found == "gates refused digits@1 for local: signature: the input x is gone"


def test_a_channel_hears_of_what_it_asks_for_and_without_names_of_all() -> None:
    assert wanted(SETTINGS, (), happening(published()))
    assert wanted(SETTINGS, ("published", "drift"), happening(published()))
    assert not wanted(SETTINGS, ("drift",), happening(published()))
    assert not wanted(SETTINGS, (), happening(pending(), pending()))


def test_slack_gets_the_sentence_with_nothing_that_it_would_take_for_markup() -> None:
    found = notice(SETTINGS, happening(replace(frozen(), reason="<!channel> & co")))

    assert found is not None
    assert json.loads(found.body(NotificationFormat.SLACK)) == {
        "text": "local was frozen by ada@ci: &lt;!channel&gt; &amp; co"
    }


def test_what_is_long_is_cut() -> None:
    found = notice(SETTINGS, happening(replace(frozen(), reason="x" * 100_000)))

    assert found is not None
    assert len(found.body(NotificationFormat.JSON)) < 2500
