"""Models and versions of the repository."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployctl.domain.comparison import Change
    from deployctl.domain.names import ModelName
    from deployctl.operations.compare import VersionDetail, VersionDiff
    from deployctl.operations.publish import Published
    from deployctl.operations.registry import ListedModel, ListedVersion, Verified
    from deployctl.operations.retire import Retirement


def models_document(models: Iterable[ListedModel]) -> dict[str, Any]:
    """Returns the models with their highest versions."""
    return {"models": [{"model": each.model, "latest": each.latest, "versions": each.count} for each in models]}


def versions_document(model: ModelName, listed: Iterable[ListedVersion]) -> dict[str, Any]:
    """Returns the versions of a model; what is not recorded has its number only."""
    return {"model": model, "versions": [_listed(each) for each in listed]}


def _listed(listed: ListedVersion) -> dict[str, Any]:
    record = listed.record
    document: dict[str, Any] = {"version": listed.version, "recorded": record is not None}
    if record is None:
        return document
    return document | {
        "digest": record.digest,
        "size_bytes": record.size_bytes,
        "published_at": record.published_at,
        "published_by": record.published_by,
        "metrics": dict(record.metrics),
        "tags": dict(record.tags),
    }


def version_document(detail: VersionDetail) -> dict[str, Any]:
    """Returns a version with its manifest, null where it has none."""
    from deployctl.domain.manifest import to_json

    manifest = json.loads(to_json(detail.manifest)) if detail.manifest else None
    return {"model": detail.model, "version": detail.version, "path": detail.path, "manifest": manifest}


def published_document(published: Published) -> dict[str, Any]:
    """Returns what was published."""
    names = ("model", "version", "digest", "created", "file_count", "size_bytes", "duration_s", "dry_run")
    return {name: getattr(published, name) for name in names}


def verified_document(result: Verified) -> dict[str, Any]:
    """Returns where a version's files disagree with its manifest."""
    problems = [{"path": each.path, "problem": each.problem} for each in result.problems]
    return {"model": result.model, "version": result.version, "intact": not problems, "problems": problems}


def diff_document(result: VersionDiff) -> dict[str, Any]:
    """Returns what differs between two versions."""
    both = {"before": result.before, "after": result.after}
    sizes = {name: each.manifest.size_bytes if each.manifest else None for name, each in both.items()}
    return {
        **{name: f"{each.model}@{each.version}" for name, each in both.items()},
        "identical": result.identical,
        "size_bytes": sizes,
        "signatures": _changes(result.signatures),
        "ops": _changes(result.ops),
        "files": _changes(result.files),
    }


def _changes(changes: Iterable[Change]) -> list[dict[str, Any]]:
    # A side that is absent is empty.
    return [{"subject": each.subject, "before": each.before or None, "after": each.after or None} for each in changes]


def retired_document(done: Retirement) -> dict[str, Any]:
    """Returns what was retired, and what something needs still."""
    return {
        "model": done.model,
        "versions": list(done.versions),
        "size_bytes": done.size_bytes,
        "held": [{"version": version, "reason": why} for version, why in done.held.items()],
        "dry_run": done.dry_run,
    }
