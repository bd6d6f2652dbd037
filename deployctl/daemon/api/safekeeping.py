"""What the API does for who looks after versions and locks: quarantine, review, retire, gc, releasing a lock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from deployctl.daemon.api import schemas
from deployctl.daemon.api.endpoints import Call, Endpoint, changing
from deployctl.daemon.api.fields import Field, Kind
from deployctl.daemon.api.reads import resolved
from deployctl.errors import UsageError

_TARGET = Field("target", Kind.TARGET, "a target's name; default: the settings' default")
_REFERENCE = Field("reference", Kind.REFERENCE, "a version: MODEL@7, MODEL@latest, MODEL@LABEL")
_MODEL = Field("model", Kind.MODEL, "a model's name")
_REASON = Field("reason", Kind.TEXT, "why; recorded with the change")
_DRY_RUN = Field("dry_run", Kind.BOOLEAN, "whether to say what would be done, and do nothing")
_QUARANTINE = (
    replace(_REFERENCE, required=True),
    replace(_REASON, required=True),
    Field("release", Kind.BOOLEAN, "whether to let the bytes be served again"),
    replace(_TARGET, doc="the target whose label is meant; default: the settings' default"),
)
_RETIRE = (
    replace(_MODEL, required=True),
    Field("version", Kind.INTEGER, "the version to retire", least=1),
    Field("keep", Kind.INTEGER, "instead: all but so many of the newest, and but those that a target holds", least=1),
    _REASON,
    _DRY_RUN,
)
_RELEASE = (_TARGET, replace(_MODEL, doc="a model's name; default: the whole target's lock"),
            replace(_REASON, required=True))  # fmt: skip


def safekeeping() -> tuple[Endpoint, ...]:
    """Returns the rows."""
    return (
        changing("quarantine", "/v1/quarantine", "Keep a version's bytes from ever being served, or let them go.",
                 "quarantine", schemas.QUARANTINED, _quarantine, _QUARANTINE),
        changing("review", "/v1/review", "Say that a change made with break_glass was looked at.", "review",
                 schemas.REVIEWED, _review, (replace(_MODEL, required=True), _TARGET, _REASON)),
        changing("retire", "/v1/retire", "Take versions that nothing needs out of the repository.", "retire",
                 schemas.RETIRED, _retire, _RETIRE),
        changing("gc", "/v1/gc", "Remove what killed publishers and interrupted fetches left.", "gc", schemas.GC, _gc,
                 (_DRY_RUN,)),
        replace(changing("releaseLock", "/v1/locks/release", "Take a lock from its holder.", "lock", schemas.LOCK,
                         _release, _RELEASE), verb="lock release"),
    )  # fmt: skip


def _quarantine(call: Call) -> dict[str, Any]:
    from deployctl.documents.holds import quarantined_document
    from deployctl.operations.holds import Holds, manifest_of

    deployment, reference, release = call.deployment, call.values["reference"], call.get("release", False)
    version = resolved(call, reference)
    manifest = manifest_of(deployment.repository, reference.model, version)
    holds = Holds(deployment.lineage, deployment.context)
    found = (holds.release if release else holds.quarantine)(manifest, reason=call.values["reason"])
    return quarantined_document(reference.model, version, found, quarantined=not release)


def _review(call: Call) -> dict[str, Any]:
    from deployctl.documents.holds import reviewed_document
    from deployctl.operations.holds import Holds

    deployment, model = call.deployment, call.values["model"]
    target = deployment.target_name(call.get("target"))
    holds = Holds(deployment.lineage, deployment.context)
    return reviewed_document(model, target, holds.review(target, model, reason=call.get("reason", "")))


def _retire(call: Call) -> dict[str, Any]:
    from deployctl.documents.versions import retired_document
    from deployctl.operations.retire import Retire, RetireRequest

    deployment, model, version = call.deployment, call.values["model"], call.get("version")
    deployment.context.permit("retire", model=model)
    if (version is None) is (call.get("keep") is None):
        raise UsageError("say version or keep, and not both")
    request = RetireRequest(
        model,
        () if version is None else (version,),
        keep=call.get("keep"),
        reason=call.get("reason", ""),
        dry_run=call.get("dry_run", False),
    )
    targets = [deployment.target(each) for each in deployment.settings.targets]
    return retired_document(Retire(deployment.repository, deployment.lineage, targets, deployment.context)(request))


def _gc(call: Call) -> dict[str, Any]:
    deployment, dry_run = call.deployment, call.get("dry_run", False)
    deployment.context.permit("gc")
    repository = deployment.repository
    return {"dry_run": dry_run, "leftovers": repository.leftovers() if dry_run else repository.discard_leftovers()}


def _release(call: Call) -> dict[str, Any]:
    from deployctl.documents.operations import lease_document
    from deployctl.operations.holds import release_lock

    deployment = call.deployment
    place, reason = deployment.target(call.get("target")), call.values["reason"]
    return lease_document(release_lock(place, deployment.context, call.get("model"), reason=reason))
