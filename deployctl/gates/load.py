"""Gate: a server of the target's kind can load the version, in time and within its memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployctl.domain.duration import format_duration
from deployctl.gates.interface import Candidate, Gate, Outcome, Reuse, Verdict
from deployctl.gates.scratch import ScratchServer, load_evidence


class LoadGate(Gate):
    """Refuses a version that does not become AVAILABLE alone in a scratch server.

    A refusal is not taken over from an earlier run: a machine may have been busy, or short of memory.

    Args:
        scratch: the server.
        server: what the server is, for the record and for reuse, e.g. an image's digest.
        timeout_s: how long loading may take.
        max_memory: the most bytes that the server may have held, 0 for any.
        image: the image that it tries, which may be one of several, beside each other.
    """

    name = "load"
    runs = True
    reuse = Reuse.PASSED

    def __init__(
        self, scratch: ScratchServer, *, server: str, timeout_s: float, max_memory: int = 0, image: str = ""
    ) -> None:
        if image:
            self.name = f"load[{image}]"
            self.beside_others = True
        self._image = image
        self._scratch = scratch
        self._server = server
        self._timeout_s = timeout_s
        self._max_memory = max_memory

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was configured with."""
        return {"server": self._server, "timeout_s": self._timeout_s, "max_memory": self._max_memory}

    def judge(self, candidate: Candidate) -> Verdict:
        """Returns FAILED with the server's own words and where its log is kept, or the time and memory of the load."""
        load = self._scratch.load(candidate.version, timeout_s=self._timeout_s)
        evidence = load_evidence(load) | {"server": self._server} | ({"image": self._image} if self._image else {})
        if load.error:
            log = f"; the server's log is {load.log_file}" if load.log_file else ""
            return Verdict(Outcome.FAILED, load.error, (f"{load.error}{log}",), evidence | {"log": list(load.log)})
        if self._max_memory and load.peak_bytes is not None and load.peak_bytes > self._max_memory:
            words = (
                f"the server held up to {_megabytes(load.peak_bytes)}, and {_megabytes(self._max_memory)} are allowed"
            )
            return Verdict(Outcome.FAILED, words, (words,), evidence)
        memory = f", server up to {_megabytes(load.peak_bytes)}" if load.peak_bytes else ""
        return Verdict(Outcome.PASSED, f"AVAILABLE after {format_duration(load.load_s)}{memory}", evidence=evidence)

    def take_over(self, candidate: Candidate, verdict: Verdict) -> None:
        """Keeps what was measured then: the gate `resources` judges by it."""
        self._scratch.remember(candidate.version, verdict.evidence)

    def give_up(self) -> None:
        """Ends the wait for the server."""
        self._scratch.give_up()


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
