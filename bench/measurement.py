"""A measured budget, and how the two sides of one are timed fairly."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


class UnavailableError(Exception):
    """What is to be measured is not on this machine."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One budget.

    Attributes:
        name: what was done.
        ours_s: the median time of ours.
        budget: the largest ratio allowed, or seconds where there is nothing to compare with.
        other: what it is compared with, "" for nothing.
        other_s: the other's median time.
        ratio: median of the ratios of runs that followed each other, None where there is no other.
        unit: of `ours_s` and `other_s` when that is not seconds.
        failures: things that went wrong while it was measured; any puts it over its budget.
    """

    name: str
    ours_s: float
    budget: float
    other: str = ""
    other_s: float | None = None
    ratio: float | None = None
    failures: int = 0
    note: str = ""
    unit: str = "s"

    @property
    def within_budget(self) -> bool:
        """Whether the promise was kept in this run."""
        measured = self.ours_s if self.ratio is None else self.ratio
        return measured <= self.budget and not self.failures


def seconds(action: Callable[[], object]) -> float:
    """Returns how long `action` took."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def compare(
    name: str,
    ours: Callable[[], float],
    other: Callable[[], float],
    *,
    than: str,
    budget: float,
    pairs: int,
    note: str = "",
) -> Measurement:
    """Measures `ours` and `other` (each returns its seconds) in turns, so that what else the machine does hits both."""
    timed: list[tuple[float, float]] = []
    for index in range(pairs):
        # The order changes from pair to pair: what the first leaves in caches helps each as often.
        if index % 2:
            later = other()
            timed.append((ours(), later))
        else:
            earlier = ours()
            timed.append((earlier, other()))
    return Measurement(
        name,
        ours_s=median(mine for mine, _ in timed),
        budget=budget,
        other=than,
        other_s=median(theirs for _, theirs in timed),
        ratio=median(mine / theirs for mine, theirs in timed),
        note=note,
    )


def run_command(
    command: Sequence[str], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> float:
    """Returns how long the command took from start to exit.

    Raises:
        RuntimeError: it failed.
    """
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    took = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return took
