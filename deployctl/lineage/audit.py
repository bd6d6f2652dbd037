"""Whether the events are those that were appended: the walk along the hash chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from deployctl.domain.event import GENESIS, Event, first_broken_link
from deployctl.domain.names import ModelName, TargetName
from deployctl.domain.revision import RevisionState
from deployctl.errors import DatabaseCorruptError
from deployctl.lineage.interface import LineageStore
from deployctl.lineage.projections import RevisionSettled, effect


@dataclass(frozen=True, slots=True)
class BrokenLink:
    """The first place where the chain does not hold.

    Attributes:
        sequence: of the first event that was changed, inserted or follows a removed one; or of the first that is
            missing at the end.
        reason: one clause, e.g. "its content is not what was appended".
    """

    sequence: int
    reason: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What a walk along the chain found.

    Attributes:
        verified: how many events from the first on are as they were appended.
        head: the hash of the last of these. Kept somewhere else, it also tells whether the whole chain was replaced
            later, which the chain alone cannot.
        broken: None when the chain is whole.
        disagreement: how the state differs from what the events fold to, where that was looked at; "" where it agrees.
    """

    verified: int
    head: str
    broken: BrokenLink | None
    disagreement: str = ""

    @property
    def is_intact(self) -> bool:
        """Whether every event is as it was appended, and none is missing."""
        return self.broken is None


def examine(store: LineageStore, targets: Sequence[TargetName]) -> Audit:
    """Returns whether the events of `store` are those that were appended, and, if so, what `targets` serve by them.

    Raises:
        DatabaseError: see `verify`.
    """
    found = verify(store)
    return found if found.broken else replace(found, disagreement=disagreement(store, targets))


def verify(store: LineageStore) -> Audit:
    """Returns whether the events of `store` are those that were appended; memory does not grow with their number.

    Events removed from the end are found as far as the state still knows of them.

    Raises:
        DatabaseError: the events cannot be read for a reason other than their content.
    """
    # Asked first: what is appended meanwhile must not look like what was removed.
    folded = store.folded_sequence()
    walk = _Walk(store.events())
    try:
        broken = first_broken_link(walk)
    except DatabaseCorruptError as error:
        if error.sequence is None:
            raise
        return Audit(walk.count, walk.head, BrokenLink(error.sequence, "it cannot be read"))
    if broken is not None:
        before = walk.before_last
        return Audit(walk.count - 1, before.hash if before else GENESIS, _describe(broken, before))
    if walk.count < folded:
        missing = BrokenLink(walk.count + 1, f"events up to {folded} were removed from the end")
        return Audit(walk.count, walk.head, missing)
    return Audit(walk.count, walk.head, None)


def disagreement(store: LineageStore, targets: Sequence[TargetName]) -> str:
    """Returns how the state that the events fold to differs from what `store` says is current, "" where it agrees.

    That is what servers are brought to: the current revision of each model on `targets`.

    Raises:
        DatabaseError: the events cannot be read.
    """
    before = store.folded_sequence()
    serving: dict[tuple[TargetName, ModelName], dict[int, bool]] = {}
    for event in store.events():
        change = effect(event.content)
        if isinstance(change, RevisionSettled):
            is_serving = change.state is RevisionState.SERVING
            serving.setdefault((change.target, change.model), {})[change.number] = is_serving
    folded = {
        key: max((number for number, is_so in found.items() if is_so), default=0) for key, found in serving.items()
    }
    said = {(each.target, each.model): each.number for target in targets for each in store.current(target)}
    if store.folded_sequence() != before:
        # Something was recorded meanwhile, so that the two are of different moments.
        return ""
    for target, model in sorted({*said, *(key for key in folded if key[0] in targets)}):
        wanted, found = folded.get((target, model), 0), said.get((target, model), 0)
        if wanted != found:
            return f"revision {found} of {model} on {target} is current by the state, and {wanted} by the events"
    return ""


class _Walk:
    """Passes events on and remembers the last two."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = events
        self.count = 0
        self.last: Event | None = None
        self.before_last: Event | None = None

    @property
    def head(self) -> str:
        return self.last.hash if self.last else GENESIS

    def __iter__(self) -> Iterator[Event]:
        for event in self._events:
            self.count += 1
            self.before_last, self.last = self.last, event
            yield event


def _describe(event: Event, before: Event | None) -> BrokenLink:
    expected = before.sequence + 1 if before else 1
    if event.sequence != expected:
        return BrokenLink(expected, f"it is missing; the next event is {event.sequence}")
    if event.previous_hash != (before.hash if before else GENESIS):
        return BrokenLink(event.sequence, "it does not follow the event before it")
    return BrokenLink(event.sequence, "its content is not what was appended")
