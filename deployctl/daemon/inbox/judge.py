"""When an export is complete."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from deployctl.daemon.inbox.place import Found

_LONGEST_PAUSE_S = 60.0


def pause_after(attempts: int) -> float:
    """Returns how many seconds to wait after one more attempt than `attempts` that failed for what may pass."""
    # However often: 2.0**1024 is no number any more.
    return min(0.5 * 2.0 ** min(attempts, 10), _LONGEST_PAUSE_S)


class Arrival(StrEnum):
    """How an export became complete."""

    MARKED = "marked"
    RENAMED = "renamed"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class Waiting:
    """An export that is not ready yet.

    Attributes:
        fingerprint: what it was like when it was looked at last.
        since: since when it has been like that.
        due: when it is worth another look; all on the clock's monotonic scale.
        renamed: whether it was renamed into place as it is.
        problem: why it could not be published as it is, though it has settled.
        attempts: how often publishing it as it is failed for something that may pass.
    """

    fingerprint: str
    since: float
    due: float
    renamed: bool = False
    problem: str = ""
    attempts: int = 0


class Judge:
    """Tells when exports are ready; knows of those that are not yet, as long as they are there.

    Args:
        marked: whether the inbox has a marker.
        settle_s: how long an export that was not renamed must have stayed as it is.
        stalled_s: how long one that is not whole may.
        most: how many may wait at a time; the others wait to be looked at.
    """

    def __init__(self, *, marked: bool, settle_s: float, stalled_s: float, most: int = 20_000) -> None:
        self._marked = marked
        self._settle_s = settle_s
        self._stalled_s = stalled_s
        self._most = most
        self._waiting: dict[str, Waiting] = {}

    def ready(self, found: Found, now: float, *, renamed: bool, resumed: Arrival | None = None) -> Arrival | None:
        """Returns how the export became complete, None where it is not known to be.

        Args:
            found: the export as it is.
            now: the time on the clock's monotonic scale.
            renamed: whether it was renamed into place since the last time.
            resumed: how it had become complete when its handling was cut off.
        """
        known = self._waiting.get(found.key)
        if known is None or known.fingerprint != found.fingerprint:
            if known is None and len(self._waiting) >= self._most and not renamed:
                return None
            # What was renamed and is written to before we look has come in two ways, so it must settle.
            settled = 0.0 if resumed else self._settle_s
            known = Waiting(found.fingerprint, now, now + settled, renamed=renamed or resumed is Arrival.RENAMED)
        elif renamed:
            known = replace(known, renamed=True, problem="", due=now)
        self._waiting[found.key] = known
        if self._marked:
            fit = found.marked and (known.attempts == 0 or now >= known.due)
            if not found.marked:
                self._waiting[found.key] = replace(known, due=math.inf)
            return Arrival.MARKED if fit else None
        if known.renamed and (known.attempts == 0 or now >= known.due):
            return Arrival.RENAMED
        return Arrival.SETTLED if not known.renamed and now >= known.due else None

    def is_stalled(self, found: Found, now: float) -> bool:
        """Whether an export that is not whole has stayed as it is for too long."""
        known = self._waiting.get(found.key)
        return known is not None and now - known.since >= self._stalled_s

    def not_whole(self, found: Found, problem: str) -> bool:
        """Lets an export that has settled but is not whole wait; returns whether that is new."""
        known = self._waiting[found.key]
        self._waiting[found.key] = replace(known, problem=problem, due=known.since + self._stalled_s)
        return not known.problem

    def not_now(self, found: Found, now: float) -> float:
        """Lets an export wait that could not be published for now; returns the seconds until it is tried again."""
        known = self._waiting[found.key]
        pause_s = pause_after(known.attempts)
        self._waiting[found.key] = replace(known, attempts=known.attempts + 1, due=now + pause_s)
        return pause_s

    def forget(self, key: str) -> None:
        """Forgets an export that was handled, or is gone."""
        self._waiting.pop(key, None)

    def forget_all_but(self, keys: set[str]) -> None:
        """Forgets the exports that are none of these."""
        self._waiting = {key: each for key, each in self._waiting.items() if key in keys}

    def due(self, now: float) -> list[str]:
        """Returns which exports are worth another look."""
        return [key for key, each in self._waiting.items() if each.due <= now]

    def next_due(self) -> float:
        """Returns when the next one is."""
        return min((each.due for each in self._waiting.values()), default=math.inf)
