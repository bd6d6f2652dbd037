"""Finds what is ready in an inbox: all of it from time to time, and in between what hints and patience point at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from deployctl.daemon.inbox.hints import Taken, Watch
from deployctl.daemon.inbox.judge import Arrival, Judge
from deployctl.daemon.inbox.memory import Memory
from deployctl.daemon.inbox.place import Found, Place
from deployctl.domain.clock import Clock
from deployctl.domain.names import ModelName

# Exports that one look collects; the next look finds the others.
_MOST_AT_ONCE = 5_000
# A look is made again after so many times its own duration, so that a full inbox costs no core.
_REST = 250


@dataclass(frozen=True, slots=True)
class Ready:
    """An export to be handled."""

    found: Found
    arrival: Arrival


class Scan:
    """Looks into one inbox.

    Args:
        watch: what tells of changes, None where nothing does.
        poll_interval_s: how often everything is looked at.
    """

    def __init__(
        self, place: Place, watch: Watch | None, memory: Memory, judge: Judge, clock: Clock, *, poll_interval_s: float
    ) -> None:
        self._place = place
        self._watch = watch
        self._memory = memory
        self._judge = judge
        self._clock = clock
        self._poll_interval_s = poll_interval_s
        self._next_look = clock.monotonic()

    def ready(self) -> list[Ready]:
        """Returns the exports to be handled now, the oldest first.

        Raises:
            StorageError: the inbox cannot be looked into.
        """
        taken = self._watch.hints.take() if self._watch else Taken()
        entered = self._newly_watched(taken)
        if self._clock.monotonic() >= self._next_look:
            ready = self._look(taken, entered)
        else:
            ready = self._look_where_told(taken, entered)
        return sorted(ready, key=lambda each: (each.found.changed_at, each.found.key))

    def next_at(self) -> float:
        """Returns when there is something to look at again if nothing happens, on the clock's monotonic scale."""
        return min(self._next_look, self._judge.next_due())

    def _look(self, taken: Taken, entered: frozenset[ModelName]) -> list[Ready]:
        """Looks through the whole inbox."""
        began = self._clock.monotonic()
        seen: set[str] = set()
        ready: list[Ready] = []
        for found in self._place.look():
            seen.add(found.key)
            ready += self._judged(found, taken, entered)
            if len(ready) >= _MOST_AT_ONCE:
                return ready
        self._memory.forget_all_but(seen)
        self._judge.forget_all_but(seen)
        ended = self._clock.monotonic()
        self._next_look = ended + max(self._poll_interval_s, (ended - began) * _REST)
        return ready

    def _look_where_told(self, taken: Taken, entered: frozenset[ModelName]) -> list[Ready]:
        keys = taken.touched | set(self._judge.due(self._clock.monotonic()))
        keys |= {f"{model}/{name}" for model in entered for name in self._place.names(model)}
        ready: list[Ready] = []
        for found in self._looked_at(keys):
            ready += self._judged(found, taken, entered)
        return ready

    def _looked_at(self, keys: Iterable[str]) -> Iterator[Found]:
        for key in keys:
            model, _, name = key.partition("/")
            found = self._place.look_at(ModelName(model), name)
            if found is None:
                self._judge.forget(key)
            else:
                yield found

    def _judged(self, found: Found, taken: Taken, entered: frozenset[ModelName]) -> list[Ready]:
        known = self._memory.of(found.key)
        as_known = known if known is not None and known.fingerprint == found.fingerprint else None
        if as_known is not None and as_known.is_over:
            return []
        resumed = Arrival(as_known.arrival) if as_known is not None else None
        renamed = found.key in taken.renamed or (found.model in entered and self._place.was_renamed(found))
        arrival = self._judge.ready(found, self._clock.monotonic(), renamed=renamed, resumed=resumed)
        return [Ready(found, arrival)] if arrival else []

    def _newly_watched(self, taken: Taken) -> frozenset[ModelName]:
        """Watches the directories of models that came; what is in them may have come before we watched."""
        is_time = taken.models_changed or self._clock.monotonic() >= self._next_look
        return frozenset(self._watch.keep(self._place.models())) if self._watch and is_time else frozenset()
