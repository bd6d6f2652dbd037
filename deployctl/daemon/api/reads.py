"""What the API tells: all that the command line reads, cut to what the token is for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from deployctl.daemon.api import schemas
from deployctl.daemon.api.endpoints import Call, Endpoint, reading
from deployctl.daemon.api.fields import Field, Kind
from deployctl.domain.event import Event, EventKind
from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.domain.reference import ByLabel, Reference
from deployctl.errors import ModelNotFoundError
from deployctl.operations.compare import VersionDetail

_TARGET = Field("target", Kind.TARGET, "a target's name")
_MODEL = Field("model", Kind.MODEL, "a model's name")
_PATH_MODEL = replace(_MODEL, required=True)
_PATH_TARGET = replace(_TARGET, required=True)
_REFERENCE = Field("reference", Kind.REFERENCE, "a version: MODEL@7, MODEL@latest, MODEL@LABEL", required=True)
_LIMIT = Field("limit", Kind.INTEGER, "how many, 1 to 1000", least=1, most=1000)
_OPERATION = Field("operation", Kind.OPERATION, "an operation's id", required=True)
# Of a token for some models or targets, so many events are looked through for those that it may see.
_LOOK_BACK = 5000
_OF_TOKENS = frozenset({EventKind.TOKEN_CREATED, EventKind.TOKEN_REVOKED})


def reads() -> tuple[Endpoint, ...]:
    """Returns the rows of what is read."""
    return (
        reading("getStatus", "/v1/status", "What each target serves now.", "status", schemas.STATUS, _status,
                query=(_TARGET, _MODEL)),
        reading("getHistory", "/v1/history", "Who changed what, when and why; newest first.", "history",
                schemas.HISTORY, _history, query=(_TARGET, _MODEL, _LIMIT)),
        reading("listModels", "/v1/models", "The models of the repository.", "models", schemas.MODELS, _models),
        reading("listVersions", "/v1/models/{model}/versions", "The versions of a model.", "versions",
                schemas.VERSIONS, _versions, places=(_PATH_MODEL,)),
        reading("getVersion", "/v1/versions/{reference}", "A version with its manifest and where it came from.",
                "version", schemas.VERSION, _version, places=(_REFERENCE,), query=(_TARGET,)),
        reading("verifyVersion", "/v1/versions/{reference}/verification",
                "A version's files held against its manifest.", "verify", schemas.VERIFIED, _verified,
                places=(_REFERENCE,), query=(_TARGET,)),
        reading("listValidations", "/v1/models/{model}/validations", "What gates said of a model's versions.",
                "history", schemas.HISTORY, _validations, places=(_PATH_MODEL,), query=(_LIMIT,)),
        reading("diffVersions", "/v1/diff", "What differs between two versions.", "diff", schemas.DIFF, _diff,
                query=(replace(_REFERENCE, name="before"), replace(_REFERENCE, name="after"), _TARGET)),
        reading("listOperations", "/v1/operations", "Operations, newest first.", "operations", schemas.OPERATIONS,
                _operations, query=(_LIMIT,)),
        reading("listFreezes", "/v1/targets/{target}/freezes", "What keeps a target from being promoted to.", "freezes",
                schemas.FREEZES, _freezes, places=(_PATH_TARGET,)),
        reading("listLocks", "/v1/locks", "Who holds which lock.", "locks", schemas.LOCKS, _locks, query=(_TARGET,)),
        replace(reading("listTokens", "/v1/tokens", "The tokens, without what opens anything.", "tokens",
                        schemas.TOKENS, _tokens), verb="token list"),
    )  # fmt: skip


def _seen_targets(call: Call) -> list[TargetName]:
    wanted = call.get("target")
    if wanted is not None:
        return [call.deployment.target_name(wanted)]
    return [name for name in call.deployment.settings.targets if call.authority.sees(name)]


def _status(call: Call) -> dict[str, Any]:
    from deployctl.documents.status import target_document
    from deployctl.operations.status import target_status

    deployment, wanted = call.deployment, call.get("model")
    found = [
        target_status(deployment.target(name), deployment.context, model=wanted, verify=False)
        for name in _seen_targets(call)
    ]
    if wanted and not any(each.models for each in found) and not deployment.repository.versions(wanted):
        raise ModelNotFoundError(wanted)
    documents = [target_document(each) for each in found]
    for document in documents:
        for part, key in (("models", "name"), ("freezes", "model")):
            document[part] = [each for each in document[part] if call.authority.sees(model=each[key])]
    return {"targets": documents}


def _history(call: Call) -> dict[str, Any]:
    target = call.deployment.target_name(call.get("target")) if call.get("target") else None
    return {"events": _events(call, call.get("model"), target)}


def _validations(call: Call) -> dict[str, Any]:
    return {"events": _events(call, call.get("model"), None, only=EventKind.VERSION_VALIDATED)}


def _events(
    call: Call, model: ModelName | None, target: TargetName | None, *, only: EventKind | None = None
) -> list[dict[str, Any]]:
    from deployctl.documents.rollouts import event_document

    authority, limit = call.authority, call.get("limit", 20)
    all_seen = only is None and authority.allows("token list")
    found = call.deployment.lineage.history(model=model, target=target, limit=limit if all_seen else _LOOK_BACK)

    def seen(event: Event) -> bool:
        content = event.content
        if content.kind in _OF_TOKENS and not authority.allows("token list"):
            return False
        return only in (None, content.kind) and authority.sees(content.target, content.model)

    return [event_document(event) for event in found if seen(event)][:limit]


def _models(call: Call) -> dict[str, Any]:
    from deployctl.documents.versions import models_document
    from deployctl.operations.registry import list_models

    found = list_models(call.deployment.repository)
    return models_document(each for each in found if call.authority.sees(model=each.model))


def _versions(call: Call) -> dict[str, Any]:
    from deployctl.documents.versions import versions_document
    from deployctl.operations.registry import list_versions

    model = call.values["model"]
    return versions_document(model, list_versions(call.deployment.repository, call.deployment.lineage, model))


def resolved(call: Call, reference: Reference) -> VersionNumber:
    """Returns the version that a reference names; labels are those of the target that is meant."""
    from deployctl.operations.resolve import resolve

    deployment = call.deployment
    labels: Any = {}
    name = deployment.target_name(call.get("target")) if isinstance(reference.selector, ByLabel) else None
    if name is not None:
        for revision in deployment.lineage.current(name):
            if revision.model == reference.model:
                labels = revision.desired.labels
    return resolve(reference, deployment.repository, labels=labels, target=name or TargetName("-"))


def _detail(call: Call, reference: Reference) -> VersionDetail:
    from deployctl.operations.compare import show

    deployment = call.deployment
    return show(deployment.repository, deployment.reader, reference.model, resolved(call, reference))


def _version(call: Call) -> dict[str, Any]:
    from deployctl.documents.versions import version_document

    return version_document(_detail(call, call.values["reference"]))


def _verified(call: Call) -> dict[str, Any]:
    from deployctl.documents.versions import verified_document
    from deployctl.operations.registry import verify

    reference: Reference = call.values["reference"]
    deployment = call.deployment
    version = resolved(call, reference)
    return verified_document(verify(deployment.repository, deployment.context, reference.model, version))


def _diff(call: Call) -> dict[str, Any]:
    from deployctl.documents.versions import diff_document
    from deployctl.operations.compare import diff

    return diff_document(diff(_detail(call, call.values["before"]), _detail(call, call.values["after"])))


def _operations(call: Call) -> dict[str, Any]:
    from deployctl.documents.operations import operation_document

    found = call.deployment.context.journal.operations()
    return {"operations": [operation_document(record) for record in found[: call.get("limit", 20)]]}


def _freezes(call: Call) -> dict[str, Any]:
    from deployctl.documents.holds import freeze_document

    target = call.deployment.target_name(call.values["target"])
    found = call.deployment.lineage.freezes(target)
    seen = [freeze_document(freeze) for freeze in found if call.authority.sees(model=freeze.model)]
    return {"target": target, "freezes": seen}


def _locks(call: Call) -> dict[str, Any]:
    from deployctl.documents.operations import lease_document

    leases = [lease for name in _seen_targets(call) for lease in call.deployment.target(name).lock.leases()]
    return {"locks": [lease_document(lease) for lease in leases if call.authority.sees(model=lease.model)]}


def _tokens(call: Call) -> dict[str, Any]:
    from deployctl.documents.tokens import token_document

    return {"tokens": [token_document(each) for each in call.deployment.lineage.tokens()]}
