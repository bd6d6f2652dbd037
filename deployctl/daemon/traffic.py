"""What servers counted lately, and how a new version does beside what was before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from deployctl.operations.soak import regression
from deployctl.serving.interface import RequestCounts

# What was counted longer ago is no measure of what is usual now.
_USUAL_S = 600.0
_LATELY_S = 60.0
_KEPT = 240
# So often in a row something must be seen to be believed.
_SURE = 2


class Traffic:
    """The requests to one model on one server; the last ten minutes of them, by when they were counted."""

    def __init__(self) -> None:
        self._seen: RequestCounts | None = None
        self._parts: deque[tuple[float, RequestCounts]] = deque(maxlen=_KEPT)

    @property
    def total(self) -> RequestCounts:
        """Everything since the server started."""
        return self._seen or RequestCounts()

    def count(self, now: float, counts: RequestCounts) -> RequestCounts:
        """Takes what the server has counted until `now` and returns what is new in it, nothing the first time."""
        new = RequestCounts() if self._seen is None else counts.since(self._seen)
        self._seen = counts
        if new.total:
            self._parts.append((now, new))
        while self._parts and self._parts[0][0] < now - _USUAL_S:
            self._parts.popleft()
        return new

    def lately(self, now: float) -> RequestCounts:
        """Returns what was counted within the last minute."""
        return _sum(part for at, part in self._parts if at > now - _LATELY_S)

    def usual(self) -> RequestCounts:
        """Returns what was counted within the last ten minutes."""
        return _sum(part for _, part in self._parts)


@dataclass(slots=True)
class Watch:
    """One revision that was promoted lately.

    Attributes:
        before: what was counted before it served.
        starts: how often the server had been started then.
        seen: what was counted since.
    """

    revision: int
    before: RequestCounts
    starts: int
    seen: RequestCounts = RequestCounts()
    _times: int = 0

    def judge(self, new: RequestCounts, wrong: str, starts: int) -> str | None:
        """Returns what is surely wrong with the revision, None where nothing is.

        Args:
            new: what was counted since it was judged last.
            wrong: why it does not answer its golden requests rightly, "" where it does or was not asked.
            starts: how often the server has been started until now.
        """
        self.seen = _sum((self.seen, new))
        if starts - self.starts >= _SURE:
            return f"let the server end {starts - self.starts} times"
        found = f"answers otherwise than is recorded: {wrong}" if wrong else regression(self.before, self.seen)
        # What is counted means more only with more requests.
        if wrong or new.total or not found:
            self._times = self._times + 1 if found else 0
        return found if self._times >= _SURE else None


def _sum(parts: Iterable[RequestCounts]) -> RequestCounts:
    total = RequestCounts()
    for part in parts:
        total = RequestCounts(
            total.total + part.total,
            total.failed + part.failed,
            total.latency_s + part.latency_s,
            total.timed + part.timed,
        )
    return total
