"""Gate: the files are the ones that were published."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deployctl.domain.manifest import Manifest
from deployctl.gates.interface import Candidate, Gate, Outcome, Verdict
from deployctl.repository.interface import FileProblem


class IntegrityGate(Gate):
    """Refuses a version whose bytes disagree with its manifest.

    Args:
        verify: gives the files that disagree; () when every byte is right.
    """

    name = "integrity"

    def __init__(self, verify: Callable[[Manifest], Sequence[FileProblem]]) -> None:
        self._verify = verify

    def judge(self, candidate: Candidate) -> Verdict:
        """Returns FAILED with one problem for each file; SKIPPED where there is no manifest to hold it against."""
        manifest = candidate.version.manifest
        if manifest is None:
            return Verdict(Outcome.SKIPPED, "there is no manifest")
        problems = tuple(f"{each.path} is {each.problem}" for each in self._verify(manifest))
        if problems:
            return Verdict(Outcome.FAILED, f"{len(problems)} files differ from the manifest", problems)
        evidence = {"files": len(manifest.files), "bytes": manifest.size_bytes}
        return Verdict(Outcome.PASSED, "ok", evidence=evidence)
