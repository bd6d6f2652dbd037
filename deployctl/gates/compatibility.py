"""Gate: today's clients can call the version, and its clients could go back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from deployctl.domain.compatibility import Compatibility, Level, compare
from deployctl.domain.saved_model import Signature
from deployctl.gates.interface import Candidate, Gate, Outcome, Verdict, Version


class CompatibilityGate(Gate):
    """Refuses a version that breaks clients of the one that serves, or of a contract that they pinned.

    Args:
        contract: signatures that clients count on, whatever serves now; None without a contract.
        allow_breaking: the reason for which a breaking change is accepted, "" for none.
    """

    name = "compatibility"
    compares = True

    def __init__(self, *, contract: Mapping[str, Signature] | None = None, allow_breaking: str = "") -> None:
        self._contract = contract
        self._allow_breaking = allow_breaking

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was configured with."""
        contract = None if self._contract is None else {key: str(value) for key, value in self._contract.items()}
        return {"contract": contract, "allow_breaking": self._allow_breaking}

    def judge(self, candidate: Candidate) -> Verdict:
        """Returns FAILED where a client would break; a way back that would break clients is told, not refused."""
        signatures = candidate.version.signatures
        evidence: dict[str, Any] = {}
        problems: list[str] = []
        if self._contract is not None:
            held = compare(self._contract, pinned(self._contract, signatures))
            evidence["contract"] = _document(held)
            problems += [f"contract: {each}" for each in held.breaking]
        words, unread = "nothing serves to compare with", False
        if candidate.serving is not None and candidate.serving.problem is not None:
            words, unread = f"{candidate.serving.name} cannot be read to compare with", True
        elif candidate.serving is not None:
            forward = compare(candidate.serving.signatures, signatures)
            evidence["serving"] = _document(forward)
            problems += [str(each) for each in forward.breaking]
            words = _words(forward, candidate.serving)
        if candidate.fallback is not None:
            back = compare(signatures, candidate.fallback.signatures)
            evidence["fallback"] = _document(back)
            if back.level is Level.BREAKING:
                words += f"; going back to {candidate.fallback.name} would break its clients"
        if problems and not self._allow_breaking:
            return Verdict(Outcome.FAILED, "BREAKING", tuple(problems), evidence)
        if unread:
            return Verdict(Outcome.INCONCLUSIVE, words, tuple(problems), evidence)
        if problems:
            evidence["allowed"] = self._allow_breaking
            return Verdict(Outcome.PASSED, f"BREAKING, allowed: {self._allow_breaking}", tuple(problems), evidence)
        if not evidence:
            return Verdict(Outcome.SKIPPED, words)
        return Verdict(Outcome.PASSED, words, evidence=evidence)


def pinned(contract: Mapping[str, Signature], signatures: Mapping[str, Signature]) -> dict[str, Signature]:
    """Returns what of `signatures` a contract speaks of: its signatures, and of their outputs those it names."""
    found = {}
    for key, wanted in contract.items():
        if key in signatures:
            outputs = {name: spec for name, spec in signatures[key].outputs.items() if name in wanted.outputs}
            found[key] = replace(signatures[key], outputs=outputs)
    return found


def _words(forward: Compatibility, serving: Version) -> str:
    match forward.level:
        case Level.IDENTICAL:
            return f"the same interface as {serving.name}"
        case Level.COMPATIBLE | Level.BREAKING:
            return f"{forward.level.value} with {serving.name}"


def _document(compatibility: Compatibility) -> dict[str, Any]:
    changes = [asdict(each) | {"level": each.level.value} for each in compatibility.changes]
    return {"level": compatibility.level.value, "changes": changes}
