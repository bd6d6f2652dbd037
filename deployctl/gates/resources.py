"""Gate: the target has the memory to load the version beside what it serves; or says what would fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployctl.gates.interface import Candidate, Gate, Outcome, Reuse, Verdict
from deployctl.gates.scratch import Load

# What TensorFlow Serving reserves for a version by its files (servables/tensorflow/bundle_factory_util.cc,
# kResourceEstimateRAMMultiplier).
_MULTIPLIER = 1.2


@dataclass(frozen=True, slots=True)
class Headroom:
    """What a target's server may still use.

    Attributes:
        free_bytes: None where that cannot be told.
        source: where that is from, e.g. "memory available on this machine".
        live: estimated bytes of the version of this model that clients reach, 0 without one; so `standby`, of those
            that none reaches unless it names them.
    """

    free_bytes: int | None
    source: str
    live: int = 0
    standby: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)


class ResourcesGate(Gate):
    """Refuses a version that does not fit beside what is loaded.

    Args:
        headroom: asks the target.
        measured: gives how the scratch server loaded the version, None where it did not.
    """

    name = "resources"
    reuse = Reuse.NEVER

    def __init__(self, headroom: Callable[[], Headroom], measured: Callable[[Candidate], Load | None]) -> None:
        self._headroom = headroom
        self._measured = measured

    def judge(self, candidate: Candidate) -> Verdict:
        """Returns FAILED with the strategy that would fit, if any; INCONCLUSIVE where the target cannot tell."""
        size = directory_bytes(candidate.version.path)
        load, room = self._measured(candidate), self._headroom()
        measured = load.peak_bytes - load.before_bytes if load and load.peak_bytes and load.before_bytes else None
        estimated = int(size * _MULTIPLIER)
        needed = max(measured, 0) if measured is not None else estimated
        how = "measured" if measured is not None else "estimated"
        evidence: dict[str, Any] = {"size_bytes": size, "estimated_bytes": estimated, "measured_bytes": measured}
        evidence |= {"free_bytes": room.free_bytes, "source": room.source, "live": room.live, "standby": room.standby}
        words = f"{_shown(size)} on disk, {_shown(needed)} of memory ({how})"
        if room.free_bytes is None:
            return Verdict(Outcome.INCONCLUSIVE, f"{words}; what is free is unknown: {room.source}", evidence=evidence)
        words += f"; {_shown(room.free_bytes)} {room.source}"
        strategy = fitting_strategy(needed, room)
        evidence["strategy"] = strategy
        if needed <= room.free_bytes:
            return Verdict(Outcome.PASSED, f"{words}: {strategy}", evidence=evidence)
        return Verdict(Outcome.FAILED, f"{words}: {strategy}", (f"{words}: {strategy}",), evidence)


def fitting_strategy(needed: int, room: Headroom) -> str:
    """Returns how a version that needs that much memory could be loaded."""
    free = room.free_bytes or 0
    if needed <= free:
        return "fits beside what is loaded"
    if needed <= free + room.standby:
        return "fits once the standby versions are let go (warm_standby = 0)"
    if needed <= free + room.standby + room.live:
        return "fits only in place of the live version (unload first, with a gap)"
    return "fits in no way"


def directory_bytes(path: Path) -> int:
    """Returns the bytes of all files below a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _shown(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count >= 10_000_000 else f"{count / 1e6:.2g} MB"
