"""From one desired state to the next: what a promotion or a rollback makes of what is served now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deployctl.domain.names import STABLE, LabelName, VersionNumber
from deployctl.domain.revision import Desired, Revision, RevisionKind, Routing
from deployctl.errors import UsageError


def promoted(
    before: Desired, version: VersionNumber, label: LabelName, *, routing: Routing, warm_standby: int
) -> Desired:
    """Returns the state in which `label` points to `version`, with up to `warm_standby` earlier versions loaded.

    Raises:
        UsageError: routing is `latest` and another label would go to a version that takes all unlabelled traffic.
    """
    live = before.live(routing)
    if routing is Routing.LATEST and label != STABLE and live is not None and version > live:
        raise UsageError(
            f'label {label!r} cannot go to version {version}: with routing = "latest" it would take '
            f"all traffic from version {live} as soon as it is loaded"
        )
    labels = {**before.labels, label: version}
    return _with_standby(before, labels, routing=routing, warm_standby=warm_standby)


def restored(before: Desired, target: Desired, *, routing: Routing, warm_standby: int) -> Desired:
    """Returns the state with the labels of `target`, keeping what is loaded now as standby where that is safe."""
    labels = dict(target.labels)
    if routing is Routing.LATEST and STABLE not in labels and target.versions:
        labels[STABLE] = max(target.versions)
    return _with_standby(before, labels, routing=routing, warm_standby=warm_standby)


def together(before: Desired, after: Desired) -> Desired:
    """Returns the state in between: the versions of both loaded, labels as they were.

    A label may be given only to a version that is already AVAILABLE, so versions come first
    (tensorflow_serving/g3doc/serving_config.md, "Please note that labels…").
    """
    return Desired(tuple(sorted({*before.versions, *after.versions})), before.labels)


def last_known_good(revisions: Sequence[Revision]) -> Revision | None:
    """Returns the revision that a rollback without argument returns to, or None.

    `revisions` are those that served, newest first. A rollback undoes what came after the revision that it
    restored, so a second rollback goes further back and never forward to what was just left.
    """
    if not revisions:
        return None
    live = revisions[0].desired.labels.get(STABLE)
    return next((each for each in reversed(_in_force(revisions)) if each.desired.labels.get(STABLE) != live), None)


def _in_force(revisions: Sequence[Revision]) -> list[Revision]:
    """Returns the revisions that no rollback has undone, oldest first."""
    by_number = {revision.number: revision for revision in revisions}
    stack: list[Revision] = []
    for revision in reversed(revisions):
        origin = _origin(revision, by_number)
        while stack and origin is not revision and stack[-1].number >= origin.number:
            stack.pop()
        stack.append(origin)
    return stack


def _origin(revision: Revision, by_number: dict[int, Revision]) -> Revision:
    while revision.kind is RevisionKind.ROLLBACK and revision.restores in by_number:
        revision = by_number[revision.restores]
    return revision


def _with_standby(
    before: Desired, labels: dict[LabelName, VersionNumber], *, routing: Routing, warm_standby: int
) -> Desired:
    live = labels[STABLE] if STABLE in labels else before.live(routing)
    needed = {*labels.values(), *(() if live is None else (live,))}
    standby = [version for version in _standby_order(before, routing) if version not in needed]
    if routing is Routing.LATEST and live is not None:
        # The highest loaded version takes the traffic of clients that name none.
        standby = [version for version in standby if version < live]
    return Desired(tuple(sorted(needed | set(standby[: max(warm_standby, 0)]))), labels)


def _standby_order(before: Desired, routing: Routing) -> Iterable[VersionNumber]:
    live = before.live(routing)
    if live is not None:
        yield live
    yield from sorted((version for version in before.versions if version != live), reverse=True)
