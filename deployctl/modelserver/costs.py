"""How long each kind of call has lately taken, to choose where the next one runs."""

from __future__ import annotations

QUICK_SECONDS = 0.0005
# A call in the caller's own thread that takes longer keeps the next ones of its kind away from there, unless it was
# the thread that got no processor meanwhile: that tells of the machine, not of the call.
_HELD_UP_SECONDS = 0.005
_BUSY_SECONDS = 0.001
_BANNED_CALLS = 64
_MOST_BANNED_CALLS = 1 << 20
_MOST_KINDS = 4096


class RecentCosts:
    """The times of calls by kind; any hashable value names a kind. Safe to use from several threads."""

    def __init__(self, *, quick_seconds: float = QUICK_SECONDS) -> None:
        """Makes calls below `quick_seconds` quick."""
        self._quick_seconds = quick_seconds
        self._lowest: dict[object, float] = {}
        self._banned: dict[object, int] = {}
        self._next_ban: dict[object, int] = {}

    def quick(self, key: object) -> bool:
        """Whether handing the next call to another thread would cost more than the call itself."""
        banned = self._banned.get(key, 0)
        if banned:
            self._banned[key] = banned - 1
            return False
        return self._lowest.get(key, 1.0) < self._quick_seconds

    def record(self, key: object, seconds: float, *, inline_busy: float | None) -> None:
        """Takes note of a call of `seconds`, and of the processor time of the caller's thread if it ran there.

        Follows the lowest recent time: in another thread most of the time of a quick call is waiting for its turn.

        A call that held up its caller's thread sends the next ones elsewhere, however quick they have been, and twice
        as many each time it happens.
        """
        previous = self._lowest.get(key)
        if previous is None:
            if len(self._lowest) >= _MOST_KINDS:
                self._lowest.clear()
                self._banned.clear()
                self._next_ban.clear()
            previous = seconds
        self._lowest[key] = min(seconds, previous * 1.1)
        if inline_busy is not None and seconds > _HELD_UP_SECONDS and inline_busy > _BUSY_SECONDS:
            ban = self._next_ban.get(key, _BANNED_CALLS)
            self._banned[key] = ban
            self._next_ban[key] = min(2 * ban, _MOST_BANNED_CALLS)
