"""From one desired state to the next: what a promotion or a rollback makes of what is served now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from deployctl.domain.names import CANARY, STABLE, LabelName, VersionNumber
from deployctl.domain.revision import Desired, Revision, RevisionKind, Routing
from deployctl.errors import UsageError


@dataclass(frozen=True, slots=True)
class LabelChange:
    """What becomes of a label other than `stable`.

    Attributes:
        before: the version that it pointed to, None if to nothing.
        after: the version that it points to now, None if to nothing.
        reason: why it is not where the revision that was restored has it, or goes though that has it nowhere; "" where
            it follows the revision.
    """

    label: LabelName
    before: VersionNumber | None
    after: VersionNumber | None
    reason: str = ""

    def __str__(self) -> str:
        if self.before == self.after:
            return f"{self.label} not restored" if self.after is None else f"{self.label} stays @{self.after}"
        if self.after is None:
            return f"{self.label} @{self.before} undone"
        return f"{self.label} {'nothing' if self.before is None else f'@{self.before}'} -> @{self.after}"


def promoted(
    before: Desired,
    version: VersionNumber,
    label: LabelName,
    *,
    routing: Routing,
    warm_standby: int,
    unusable: Collection[VersionNumber] = (),
) -> Desired:
    """Returns the state in which `label` points to `version`, with up to `warm_standby` earlier versions loaded.

    A canary that becomes stable is a canary no longer. `unusable` versions do not stand by.

    Raises:
        UsageError: routing is `latest` and a label other than `stable` would be at a version that takes all
            unlabelled traffic, either because it goes there or because `stable` goes below it.
    """
    labels = {**before.labels, label: version}
    if label == STABLE and labels.get(CANARY) == version:
        # It has become what it was tried out for.
        del labels[CANARY]
    live = version if label == STABLE else before.live(routing)
    above = sorted(each for each in labels if live is not None and labels[each] > live)
    if routing is Routing.LATEST and above:
        raise UsageError(
            f'label {above[0]!r} cannot be at version {labels[above[0]]}: with routing = "latest" it would take '
            f"all traffic from version {live} as long as it is loaded"
        )
    return _with_standby(before, labels, unusable, routing=routing, warm_standby=warm_standby)


def restored(
    before: Desired,
    target: Desired,
    *,
    routing: Routing,
    warm_standby: int,
    unusable: Collection[VersionNumber] = (),
) -> Desired:
    """Returns the state with the labels of `target`, keeping what is loaded now as standby where that is safe.

    Clients call labels by name: one that `target` does not know stays where it is, but for a canary, which is undone.
    A label that `target` has at an `unusable` version stays where it is too, or goes where that is unusable as well.

    With routing `latest`, labels above the live version are dropped: they would take its traffic.
    """
    own = {label: version for label, version in before.labels.items() if label not in (STABLE, CANARY)}
    labels = _usable(own, unusable) | _usable(target.labels, unusable)
    if routing is Routing.LATEST and target.versions:
        live = labels.setdefault(STABLE, max(target.versions))
        labels = {label: version for label, version in labels.items() if version <= live}
    return _with_standby(before, labels, unusable, routing=routing, warm_standby=warm_standby)


def relabelled(
    before: Desired,
    label: LabelName,
    version: VersionNumber | None,
    *,
    routing: Routing,
    warm_standby: int,
    unusable: Collection[VersionNumber] = (),
) -> Desired:
    """Returns the state with every label where it is but `label`, which goes to `version`, or away where that is None.

    Labels at `unusable` versions go.
    """
    labels = {**before.labels, label: version}
    kept = {each: number for each, number in labels.items() if number is not None}
    return _with_standby(before, _usable(kept, unusable), unusable, routing=routing, warm_standby=warm_standby)


def label_changes(
    before: Desired, wanted: Mapping[LabelName, VersionNumber], after: Desired, unusable: Mapping[VersionNumber, str]
) -> tuple[LabelChange, ...]:
    """Returns what becomes of each label but `stable` that moves, goes, or is not where it is `wanted`.

    `unusable` says why, by version.
    """
    found = []
    for label in sorted({*before.labels, *wanted, *after.labels} - {STABLE}):
        old, new = before.labels.get(label), after.labels.get(label)
        meant = wanted.get(label, old if label != CANARY else None)
        reason = ""
        if meant is not None and meant != new:
            reason = f"@{meant}: {unusable.get(meant, 'it would take all traffic from the live version')}"
        if old != new or reason:
            found.append(LabelChange(label, old, new, reason))
    return tuple(found)


def together(before: Desired, after: Desired) -> Desired:
    """Returns the state in between: the versions of both loaded, labels as they were.

    A label may be given only to a version that is already AVAILABLE, so versions come first
    (tensorflow_serving/g3doc/serving_config.md, "Please note that labels…").
    """
    return Desired(tuple(sorted({*before.versions, *after.versions})), before.labels)


def rollback_version(desired: Desired, routing: Routing) -> VersionNumber | None:
    """Returns the version that a rollback to `desired` makes live, None where that would leave nothing live."""
    return desired.labels.get(STABLE, desired.live(routing))


def last_known_good(
    revisions: Sequence[Revision],
    routing: Routing,
    refused: Callable[[Revision, VersionNumber], bool] | None = None,
    *,
    whole: bool = True,
) -> Revision | None:
    """Returns the revision that a rollback without argument returns to, or None.

    `revisions` are those that served, newest first; where they are not the `whole` history, None also says that older
    ones are to be asked. A rollback undoes what came after the revision that it
    restored, so a second rollback goes further back and never forward to what was just left. A revision that
    had no live version, such as the promotion of a first canary, is none to return to, nor is one that is
    `refused` with its live version.

    While there is a canary, it alone is undone: what was live before it came stays live. What became live after it
    was a canary is not made one again.
    """
    if not revisions:
        return None
    left = rollback_version(revisions[0].desired, routing)
    in_force = _in_force(revisions)
    if CANARY in revisions[0].desired.labels:
        for each in reversed(in_force):
            if CANARY not in each.desired.labels and rollback_version(each.desired, routing) == left is not None:
                return each
        if not whole:
            return None
    for each in reversed(in_force):
        version = rollback_version(each.desired, routing)
        tried_out = each.desired.labels.get(CANARY) == left
        if version is not None and version != left and not tried_out and not (refused and refused(each, version)):
            return each
    return None


def served_seconds(revisions: Sequence[Revision], now: datetime) -> dict[int, float]:
    """Returns for how long each of `revisions`, those that served, newest first, was the current one, by number."""
    found, until = {}, now
    for revision in revisions:
        since = revision.settled_at or revision.recorded_at
        found[revision.number] = (until - since).total_seconds()
        until = since
    return found


def _in_force(revisions: Sequence[Revision]) -> list[Revision]:
    """Returns the revisions that no rollback has undone, oldest first.

    Of those that are older than `revisions` none is known; a rollback to one of them stands for it.
    """
    by_number = {revision.number: revision for revision in revisions}
    stack: list[Revision] = []
    for revision in reversed(revisions):
        origin = _origin(revision, by_number)
        kept_below = origin.restores if origin.kind is RevisionKind.ROLLBACK and origin.restores else origin.number
        while stack and stack[-1].number >= kept_below:
            stack.pop()
        stack.append(origin)
    return stack


def _origin(revision: Revision, by_number: dict[int, Revision]) -> Revision:
    while revision.kind is RevisionKind.ROLLBACK and revision.restores in by_number:
        revision = by_number[revision.restores]
    return revision


def _usable(
    labels: Mapping[LabelName, VersionNumber], unusable: Collection[VersionNumber]
) -> dict[LabelName, VersionNumber]:
    return {label: version for label, version in labels.items() if version not in unusable}


def _with_standby(
    before: Desired,
    labels: dict[LabelName, VersionNumber],
    unusable: Collection[VersionNumber],
    *,
    routing: Routing,
    warm_standby: int,
) -> Desired:
    live = labels[STABLE] if STABLE in labels else before.live(routing)
    needed = {*labels.values(), *(() if live is None else (live,))}
    useless = needed.union(unusable)
    standby = [version for version in _standby_order(before, routing) if version not in useless]
    if routing is Routing.LATEST and live is not None:
        # The highest loaded version takes the traffic of clients that name none.
        standby = [version for version in standby if version < live]
    return Desired(tuple(sorted(needed | set(standby[: max(warm_standby, 0)]))), labels)


def _standby_order(before: Desired, routing: Routing) -> Iterable[VersionNumber]:
    """Yields what is loaded: what was live, then what stands by for it, then what only lost its label."""
    live, standby = before.live(routing), before.standby(routing)
    if live is not None:
        yield live
    yield from standby
    yield from sorted((version for version in before.versions if version not in (live, *standby)), reverse=True)
