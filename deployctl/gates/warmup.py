"""Gate: the warm-up file is one that a server can replay; one bad record makes it refuse the version."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from deployctl.domain.saved_model import (
    CLASSIFY_METHOD,
    DEFAULT_SIGNATURE,
    REGRESS_METHOD,
    Signature,
    TensorSpec,
)
from deployctl.domain.warmup import MAX_WARMUP_RECORDS, WARMUP_PATH, WarmupCall, WarmupFile
from deployctl.gates.interface import Candidate, Gate, Outcome, Verdict

_SHOWN = 10
_METHODS = {"classify": CLASSIFY_METHOD, "regress": REGRESS_METHOD}


class WarmupGate(Gate):
    """Refuses a version whose warm-up requests would keep a server from loading it.

    Args:
        read: gives the warm-up file of a version directory, None where it has none.
    """

    name = "warmup"

    def __init__(self, read: Callable[[Path], WarmupFile | None]) -> None:
        self._read = read

    def judge(self, candidate: Candidate) -> Verdict:
        """Returns FAILED with one problem for each bad record, the first ones only."""
        file = self._read(candidate.version.path)
        if file is None:
            return Verdict(Outcome.SKIPPED, "there is no warm-up file")
        problems = list(_file_problems(file))
        for number, calls in enumerate(file.records, start=1):
            for call in calls:
                problem = _call_problem(call, candidate.version.signatures)
                if problem and len(problems) < _SHOWN:
                    problems.append(f"warm-up record {number} {problem}")
        evidence = {"records": len(file.records)}
        if problems:
            return Verdict(Outcome.FAILED, problems[0], tuple(problems), evidence)
        return Verdict(Outcome.PASSED, f"ok, {len(file.records)} records", evidence=evidence)


def _file_problems(file: WarmupFile) -> Iterator[str]:
    if file.problem:
        yield f"{WARMUP_PATH}: {file.problem}"
    if len(file.records) > MAX_WARMUP_RECORDS:
        yield f"{WARMUP_PATH} holds more than {MAX_WARMUP_RECORDS} records, the most that a server takes"


def _call_problem(call: WarmupCall, signatures: Mapping[str, Signature]) -> str:
    if call.kind == "session_run":
        return "is a SessionRun, which servers without batching do not warm up with"
    name = call.signature or DEFAULT_SIGNATURE
    signature = signatures.get(name)
    if signature is None:
        return f"calls the signature {name!r}, which is not there"
    if call.kind in _METHODS and signature.method != _METHODS[call.kind]:
        return f"calls {name!r} by {call.kind}, and its method is {signature.method}"
    return _input_problem(call, name, signature) if call.kind == "predict" else ""


def _input_problem(call: WarmupCall, name: str, signature: Signature) -> str:
    missing = signature.inputs.keys() - call.inputs.keys() - signature.optional_inputs
    if missing:
        return f'gives no "{min(missing)}", which {name} needs'
    for key, sent in call.inputs.items():
        taken = signature.inputs.get(key)
        if taken is None:
            return f'gives "{key}", which {name} does not take'
        if sent.dtype != taken.dtype or not _fits(sent.shape, taken):
            return f'gives "{key}" as {sent}, and {name} takes {taken}'
    return ""


def _fits(sent: tuple[int | None, ...] | None, taken: TensorSpec) -> bool:
    if sent is None or taken.shape is None:
        return True
    return len(sent) == len(taken.shape) and all(
        wanted is None or size == wanted for size, wanted in zip(sent, taken.shape, strict=True)
    )
