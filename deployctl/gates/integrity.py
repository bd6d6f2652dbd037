"""Gate: the files are the ones that were published, and a server can load them whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from deployctl.domain.manifest import Manifest
from deployctl.gates.interface import Candidate, Gate, Outcome, Reuse, Verdict
from deployctl.repository.interface import FileProblem
from deployctl.repository.tree import scan

_SHOWN = 20


class IntegrityGate(Gate):
    """Refuses a version whose bytes disagree with its manifest, and an export with something missing or unsafe.

    Its verdict is never taken over from an earlier run: files can change though what they should be does not.

    Args:
        verify: gives the files that disagree; () when every byte is right.
        signature_problem: says why the signature of the files does not count, "" where it does; None where none is
            required. An export is signed when it is published, so it is asked for published versions only.
    """

    name = "integrity"
    needs_whole = False
    reuse = Reuse.NEVER

    def __init__(
        self,
        verify: Callable[[Manifest], Sequence[FileProblem]],
        signature_problem: Callable[[Manifest], str] | None = None,
    ) -> None:
        self._verify = verify
        self._signature_problem = signature_problem

    def judge(self, candidate: Candidate) -> Verdict:
        """Returns FAILED with one problem for each file; an export without manifest is only looked through."""
        version = candidate.version
        problems = list(self._of_the_bytes(candidate))
        if version.problem is not None:
            problems.insert(0, str(version.problem))
        if problems:
            shown = tuple(problems[:_SHOWN])
            more = {"more_problems": len(problems) - _SHOWN} if len(problems) > _SHOWN else {}
            return Verdict(Outcome.FAILED, problems[0], shown, more)
        evidence = _amount(candidate)
        if self._signature_problem is not None and version.published:
            return Verdict(Outcome.PASSED, "ok, signed", evidence=evidence | {"signature": "trusted"})
        return Verdict(Outcome.PASSED, "ok" if version.manifest else "whole; no manifest", evidence=evidence)

    def _of_the_bytes(self, candidate: Candidate) -> Iterator[str]:
        version = candidate.version
        if version.manifest is not None:
            for each in self._verify(version.manifest):
                yield f"{each.path} is {each.problem}"
        else:
            yield from (str(refused) for _, refused in sorted(scan(version.path).refused.items()))
        if self._signature_problem is not None and version.published:
            manifest = version.manifest
            problem = self._signature_problem(manifest) if manifest else "the version has no manifest, so no signature"
            if problem:
                yield problem


def _amount(candidate: Candidate) -> dict[str, Any]:
    manifest = candidate.version.manifest
    if manifest is not None:
        return {"files": len(manifest.files), "bytes": manifest.size_bytes}
    tree = scan(candidate.version.path)
    return {"files": len(tree.files), "bytes": tree.size_bytes}
