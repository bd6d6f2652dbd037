"""What the API does: the operations of the command line, each asked of the token where it is done."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployctl.daemon.api import schemas
from deployctl.daemon.api.endpoints import Call, Endpoint, changing
from deployctl.daemon.api.fields import Field, Kind
from deployctl.daemon.api.reads import resolved
from deployctl.domain.names import CANARY, STABLE, ModelName, parse_model_name
from deployctl.errors import DeniedError, UsageError

if TYPE_CHECKING:
    from deployctl.config.settings import Settings
    from deployctl.operations.target import Target

_TARGET = Field("target", Kind.TARGET, "a target's name; default: the settings' default")
_REFERENCE = Field("reference", Kind.REFERENCE, "a version: MODEL@7, MODEL@latest, MODEL@LABEL", required=True)
_MODEL = Field("model", Kind.MODEL, "a model's name")
_REASON = Field("reason", Kind.TEXT, "why; recorded with the change")
_DRY_RUN = Field("dry_run", Kind.BOOLEAN, "whether to say what would be done, and do nothing")
_TIMEOUT = Field("timeout", Kind.DURATION, "the longest wait for loading, such as 90s")
_LOCK_TIMEOUT = Field("lock_timeout", Kind.DURATION, "the longest wait for another operation")
_IF_CURRENT = Field("if_current", Kind.INTEGER, "act only if this revision is current, 0 for none")
_BREAKING = Field("allow_breaking", Kind.TEXT, "the reason for which it is accepted that clients break")
_OPERATION = Field("operation", Kind.OPERATION, "an operation's id", required=True)
_PUBLISH = (
    Field("source", Kind.TEXT, "a directory, an archive or an s3:// URL below what the settings allow", required=True),
    _MODEL,
    Field("run", Kind.TEXT, "the training run's id or URL"),
    Field("code", Kind.TEXT, "commit of the training code"),
    Field("metrics", Kind.NUMBERS, "metrics by name"),
    Field("tags", Kind.PAIRS, "tags by name"),
    Field("datasets", Kind.PAIRS, "digests of data sets by name"),
    Field("new_version", Kind.BOOLEAN, "whether to publish bytes again that a version has"),
    _REASON,
    _DRY_RUN,
)
_PROMOTE = (
    _REFERENCE,
    _TARGET,
    Field("label", Kind.LABEL, "the label that moves; default: stable"),
    Field("canary", Kind.BOOLEAN, "whether only the label canary moves"),
    Field("break_glass", Kind.TEXT, "the ticket under which a freeze and gates are passed; needs an admin"),
    _BREAKING,
    _IF_CURRENT,
    _TIMEOUT,
    _LOCK_TIMEOUT,
    _REASON,
    _DRY_RUN,
)
_ROLLBACK = (
    replace(_MODEL, required=True),
    _TARGET,
    Field("to_revision", Kind.INTEGER, "the revision to return to", least=1),
    Field("to_version", Kind.INTEGER, "the version to return to"),
    _IF_CURRENT,
    _TIMEOUT,
    _LOCK_TIMEOUT,
    _REASON,
    _DRY_RUN,
)
_VALIDATE = (
    _REFERENCE,
    _TARGET,
    Field("gates", Kind.TEXTS, "the gates to run; default: the target's"),
    Field("fresh", Kind.BOOLEAN, "whether to judge again what was judged before"),
    _BREAKING,
)
_FREEZE = (
    _TARGET,
    _MODEL,
    replace(_REASON, required=True),
    Field("for", Kind.DURATION, "how long, such as 2h; default: until it is lifted"),
)


def changes() -> tuple[Endpoint, ...]:
    """Returns the rows of what is done."""
    operation = (_OPERATION,)
    return (
        changing("publish", "/v1/publish", "Publish an export that the daemon can read.", "publish",
                 schemas.PUBLISHED, _publish, _PUBLISH),
        changing("validate", "/v1/validate", "Let the gates judge a version.", "validate", schemas.REPORT, _validate,
                 _VALIDATE),
        changing("promote", "/v1/promote", "Make a version the one that clients reach.", "promote", schemas.PROMOTION,
                 _promote, _PROMOTE),
        changing("rollback", "/v1/rollback", "Return to what served before.", "rollback", schemas.ROLLBACK, _rollback,
                 _ROLLBACK),
        changing("freeze", "/v1/freeze", "Let nothing be promoted to a target.", "freeze", schemas.FROZEN, _freeze,
                 _FREEZE),
        changing("unfreeze", "/v1/unfreeze", "Lift a freeze.", "unfreeze", schemas.UNFROZEN, _unfreeze,
                 (_TARGET, _MODEL, _REASON)),
        replace(changing("resume", "/v1/operations/{operation}/resume", "Begin an operation again that was cut off.",
                         "promote", schemas.PROMOTION, _resume, ()), in_path=operation),
        replace(changing("abort", "/v1/operations/{operation}/abort", "Undo what an operation left that was cut off.",
                         "operation", schemas.OPERATION, _abort, ()), in_path=operation),
    )  # fmt: skip


def _publish(call: Call) -> dict[str, Any]:
    from deployctl.documents.versions import published_document
    from deployctl.domain.manifest import Provenance
    from deployctl.operations.publish import Publish, PublishRequest
    from deployctl.repository.sources import ExportSource

    deployment = call.deployment
    source = ExportSource(allowed_source(deployment.settings, call.values["source"]))
    model = call.get("model") or parse_model_name(source.name)
    deployment.context.permit("publish", model=model)
    provenance = Provenance(
        source=source.location,
        run=call.get("run", ""),
        code=call.get("code", ""),
        datasets=call.get("datasets", {}),
        metrics=call.get("metrics", {}),
        tags=call.get("tags", {}),
    )
    with deployment.export(source) as directory:
        publish = Publish(deployment.repository, deployment.reader, deployment.lineage, deployment.context)
        published = publish(
            PublishRequest(
                export=directory,
                model=model,
                provenance=provenance,
                allow_duplicate=call.get("new_version", False),
                reason=call.get("reason", ""),
                dry_run=call.get("dry_run", False),
            )
        )
    return published_document(published)


def allowed_source(settings: Settings, source: str) -> str:
    """Returns where an export is that clients may have published.

    A link is followed before it is judged; links that leave an export are refused when it is read.

    Raises:
        DeniedError: it is not below an inbox or `daemon.publish_from`; whether it exists is not told.
    """
    roots = [*(inbox.path for inbox in settings.inboxes.values()), *settings.daemon.publish_from]
    for root in filter(None, roots):
        if root.startswith("s3://"):
            below = source.startswith(f"{root.rstrip('/')}/") and not {"..", "."} & set(source.split("/"))
            if below:
                return source
        elif not source.startswith("s3://"):
            path = os.path.realpath(settings.root / source)
            if Path(path).is_relative_to(os.path.realpath(settings.root / root)):
                return path
    raise DeniedError(f"{source[:200]!r} is not below an inbox or daemon.publish_from")


def _place(call: Call) -> Target:
    place = call.deployment.target(call.get("target"))
    lock_timeout_s = call.get("lock_timeout")
    return place if lock_timeout_s is None else replace(place, lock_timeout_s=lock_timeout_s)


def _load_timeout(call: Call, place: Target) -> float:
    said: float | None = call.get("timeout")
    return call.deployment.settings.targets[place.name].load_timeout_s if said is None else said


def _validate(call: Call) -> dict[str, Any]:
    from deployctl.documents.reports import report_document
    from deployctl.operations.validate import Validate, check_passed
    from deployctl.validation import GateMaker, Wishes, candidate_on

    deployment, reference = call.deployment, call.values["reference"]
    name = deployment.target_name(call.get("target"))
    deployment.context.permit("validate", target=name, model=reference.model)
    wishes = Wishes(gates=call.get("gates", ()), allow_breaking=call.get("allow_breaking", ""))
    with ExitStack() as stack:
        candidate = candidate_on(deployment, name, reference.model, resolved(call, reference))
        gates = stack.enter_context(GateMaker(deployment, name, reference.model, wishes))
        fresh = call.get("fresh", False)
        report = Validate(gates, deployment.lineage, deployment.context, target=name, fresh=fresh)(candidate)
    check_passed(report, hint=f"deployctl history {reference.model} --target {name}")
    return report_document(report)


def _promote(call: Call) -> dict[str, Any]:
    from deployctl.documents.rollouts import promotion_document
    from deployctl.operations.promote import Promote, PromoteRequest
    from deployctl.validation import Wishes, golden_prover, promotion_judge

    deployment, place, reference = call.deployment, _place(call), call.values["reference"]
    deployment.context.permit("promote", target=place.name, model=reference.model)
    request = PromoteRequest(
        reference=reference,
        label=CANARY if call.get("canary") else call.get("label", STABLE),
        reason=call.get("reason", ""),
        if_current=call.get("if_current"),
        timeout_s=_load_timeout(call, place),
        dry_run=call.get("dry_run", False),
        break_glass=call.get("break_glass", ""),
    )
    judge = promotion_judge(deployment, place.name, Wishes(allow_breaking=call.get("allow_breaking", "")))
    prove = golden_prover(deployment, place.name, reference.model)
    return promotion_document(Promote(place, deployment.context, judge, prove)(request))


def _rollback(call: Call) -> dict[str, Any]:
    from deployctl.documents.rollouts import rollback_document
    from deployctl.operations.rollback import Rollback, RollbackRequest

    deployment, place = call.deployment, _place(call)
    deployment.context.permit("rollback", target=place.name, model=call.values["model"])
    if call.get("to_revision") is not None and call.get("to_version") is not None:
        raise UsageError("say to_revision or to_version, not both")
    request = RollbackRequest(
        model=call.values["model"],
        to_revision=call.get("to_revision"),
        to_version=call.get("to_version"),
        reason=call.get("reason", ""),
        if_current=call.get("if_current"),
        timeout_s=_load_timeout(call, place),
        dry_run=call.get("dry_run", False),
    )
    result = Rollback(place, deployment.context)(request)
    return rollback_document(result) | {"spooled": deployment.lineage.offline}


def _freeze(call: Call) -> dict[str, Any]:
    from deployctl.documents.holds import frozen_document
    from deployctl.operations.holds import Holds

    deployment = call.deployment
    name = deployment.target_name(call.get("target"))
    for_s: float | None = call.get("for")
    expires_at = None if for_s is None else deployment.context.clock.now() + timedelta(seconds=for_s)
    held = Holds(deployment.lineage, deployment.context).freeze(
        name, _model(call), reason=call.values["reason"], expires_at=expires_at
    )
    return frozen_document(held)


def _unfreeze(call: Call) -> dict[str, Any]:
    from deployctl.documents.holds import unfrozen_document
    from deployctl.operations.holds import Holds

    deployment = call.deployment
    name = deployment.target_name(call.get("target"))
    reason = call.get("reason", "")
    return unfrozen_document(Holds(deployment.lineage, deployment.context).unfreeze(name, _model(call), reason=reason))


def _model(call: Call) -> ModelName | None:
    model: ModelName | None = call.get("model")
    return model


def _resume(call: Call) -> dict[str, Any]:
    from deployctl.documents.rollouts import promotion_document, rollback_document
    from deployctl.operations.promote import Promote, PromoteRequest
    from deployctl.operations.repeat import check_resumable, repeated
    from deployctl.operations.rollback import Rollback
    from deployctl.validation import Wishes, golden_prover, promotion_judge

    deployment = call.deployment
    record = deployment.context.journal.operation(call.values["operation"])
    deployment.context.permit("resume", target=record.request.target, model=record.request.model)
    check_resumable(record)
    request = repeated(record)
    place = deployment.target(record.request.target)
    if isinstance(request, PromoteRequest):
        judge = promotion_judge(deployment, place.name, Wishes())
        prove = golden_prover(deployment, place.name, request.reference.model)
        return promotion_document(Promote(place, deployment.context, judge, prove)(request))
    return rollback_document(Rollback(place, deployment.context)(request)) | {"spooled": deployment.lineage.offline}


def _abort(call: Call) -> dict[str, Any]:
    from deployctl.documents.operations import operation_document
    from deployctl.operations.repeat import Abort, check_abortable

    deployment = call.deployment
    journal = deployment.context.journal
    record = journal.operation(call.values["operation"])
    deployment.context.permit("abort", target=record.request.target, model=record.request.model)
    check_abortable(record)
    if record.request.target is None:
        deployment.repository.discard_leftovers()
        journal.settle(record.id, by=deployment.context.operation)
    else:
        Abort(deployment.target(record.request.target), deployment.context)(record)
    return operation_document(journal.operation(record.id))
