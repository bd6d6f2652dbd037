"""Gate: the signatures follow TensorFlow Serving's rules for the methods that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deployctl.domain.saved_model import CLASSIFY_METHOD, PREDICT_METHOD, REGRESS_METHOD, Signature
from deployctl.gates.interface import Candidate, Gate, Outcome, Verdict

# tensorflow_serving/util/json_tensor.cc takes and gives these, and answers UNIMPLEMENTED to all others.
REST_DTYPES = frozenset(
    {"float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "bool", "string"}
)


class SignatureGate(Gate):
    """Refuses a version whose signatures a client could not call.

    Args:
        required: signature names that must be there.
        rest_only: whether clients use REST only, so that types it cannot carry are refused.
    """

    name = "signature"

    def __init__(self, *, required: Sequence[str] = (), rest_only: bool = False) -> None:
        self._required = tuple(required)
        self._rest_only = rest_only

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was configured with."""
        return {"required": list(self._required), "rest_only": self._rest_only}

    def judge(self, candidate: Candidate) -> Verdict:
        """Returns FAILED with one problem for each broken rule; unknown ranks are noted, not refused."""
        graph = candidate.version.served
        if graph is None:
            return Verdict(Outcome.FAILED, "no MetaGraph tagged 'serve'", ("no MetaGraph is tagged exactly 'serve'",))
        signatures = graph.callable_signatures
        problems = [f"signature {name!r} is required and absent" for name in self._required if name not in signatures]
        if not signatures:
            problems.append("no signature can be called")
        notes: list[str] = []
        for key, signature in signatures.items():
            problems += _method_problems(key, signature)
            if self._rest_only:
                problems += _rest_problems(key, signature)
            notes += _unknown_ranks(key, signature)
        evidence = {"signatures": sorted(signatures), "unknown_ranks": notes}
        if problems:
            return Verdict(Outcome.FAILED, problems[0], tuple(problems), evidence)
        unknown = f", {len(notes)} tensors of unknown rank" if notes else ""
        return Verdict(Outcome.PASSED, f"ok{unknown}", evidence=evidence)


def _method_problems(key: str, signature: Signature) -> Iterator[str]:
    """Yields what breaks the rules of tensorflow_serving/g3doc/signature_defs.md."""
    match signature.method:
        case method if method == PREDICT_METHOD:
            if not signature.outputs:
                yield f"{key} is a Predict signature without an output"
        case method if method == CLASSIFY_METHOD:
            yield from _classify_problems(key, signature)
        case method if method == REGRESS_METHOD:
            if list(signature.inputs) != ["inputs"]:
                yield f"{key} is a Regress signature whose inputs are {_names(signature.inputs)}, not 'inputs'"
            if list(signature.outputs) != ["outputs"]:
                yield f"{key} is a Regress signature whose outputs are {_names(signature.outputs)}, not 'outputs'"
        case method:
            yield f"{key} has the method {method!r}, which TensorFlow Serving does not know"


def _classify_problems(key: str, signature: Signature) -> Iterator[str]:
    if list(signature.inputs) != ["inputs"]:
        yield f"{key} is a Classify signature whose inputs are {_names(signature.inputs)}, not 'inputs'"
    elif signature.inputs["inputs"].dtype not in {"string", "float32"}:
        yield f"{key} is a Classify signature whose input is {signature.inputs['inputs'].dtype}, not string or float32"
    if not signature.outputs or set(signature.outputs) - {"classes", "scores"}:
        yield f"{key} is a Classify signature whose outputs are {_names(signature.outputs)}, not 'classes' or 'scores'"


def _rest_problems(key: str, signature: Signature) -> Iterator[str]:
    for side, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for name, spec in specs.items():
            if spec.dtype not in REST_DTYPES:
                yield f'{side} "{name}" of {key} is {spec.dtype}, which the REST API cannot carry'


def _unknown_ranks(key: str, signature: Signature) -> Iterator[str]:
    for specs in (signature.inputs, signature.outputs):
        yield from (f"{key}:{name}" for name, spec in specs.items() if spec.shape is None)


def _names(specs: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in specs) or "none"
