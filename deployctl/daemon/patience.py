"""How long to wait before trying again what did not last."""

from __future__ import annotations

from deployctl.domain.clock import Clock

_FIRST_S = 1.0
# A minute at most, and forgotten after ten seconds that went well, as an engine's restart policy has it
# (moby, restartmanager/restartmanager.go): nobody is answered meanwhile.
_LONGEST_S = 60.0
_STEADY_S = 10.0


class Patience:
    """A pause that doubles with each attempt, and is forgotten after a steady time without one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pause_s = 0.0
        self._used_at = float("-inf")

    def allows(self) -> bool:
        """Whether the pause after the last attempt is over."""
        return self._clock.monotonic() >= self._used_at + self._pause_s

    def used(self) -> None:
        """Counts an attempt, which begins now."""
        now = self._clock.monotonic()
        steady = now - self._used_at > self._pause_s + _STEADY_S
        self._pause_s = _FIRST_S if steady else min(max(self._pause_s * 2, _FIRST_S), _LONGEST_S)
        self._used_at = now

    def forgiven(self) -> None:
        """Takes the last attempt for none: something was in the way."""
        self._pause_s = self._pause_s / 2 if self._pause_s > _FIRST_S else 0.0
