"""Gate: the server knows every op of the graph and of its functions, and none is one that models must not run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from deployctl.domain.saved_model import MetaGraph
from deployctl.gates.denied_ops import DENIED
from deployctl.gates.interface import Candidate, Gate, Outcome, Verdict

# How many new ops the report for people names.
_NAMED = 8
# Stateful by their registration, and yet the same answer to the same request: variables, tables, resources, calls.
_SAME_ANSWER_PREFIXES = (
    *("Var", "ReadVariable", "Assign", "ResourceGather", "TensorArray", "Stack"),
    *("HashTable", "LookupTable", "InitializeTable", "MutableHash", "MutableDenseHash"),
)
_SAME_ANSWER = frozenset(
    {"Placeholder", "StatefulPartitionedCall", "PartitionedCall", "If", "While", "Case", "Assert", "SaveV2", "Save"}
    | {"CheckNumerics", "CheckNumericsV2", "GuaranteeConst", "StatelessRandomGetAlg", "BoostedTreesPredict"}
    | {"BoostedTreesEnsembleResourceHandleOp", "BoostedTreesDeserializeEnsemble"}
    | {"XlaCallModule", "XlaLaunch", "XlaIf", "XlaWhile", "AnonymousHashTable"}
    | {"RestoreV2", "MergeV2Checkpoints", "NoOp", "DisableCopyOnRead", "AnonymousMutableHashTable", "DestroyResourceOp"}
)


class OpsGate(Gate):
    """Refuses a version with an op that the server does not know or that is denied.

    Args:
        tensorflow: the server's TensorFlow version, e.g. "2.21" or "2.19.1"; "" for the newest one that is listed.
        allowed: ops that are accepted though denied or unknown, e.g. custom ops that the server was given.
        denied: ops that are refused beside DENIED.
    """

    name = "ops"
    # Which ops are new is told, and that depends on what serves.
    compares = True

    def __init__(self, *, tensorflow: str = "", allowed: Sequence[str] = (), denied: Sequence[str] = ()) -> None:
        self._tensorflow = nearest_listed(tensorflow)
        self._allowed = frozenset(allowed)
        self._denied = (DENIED | set(denied)) - self._allowed

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was configured with."""
        return {
            "tensorflow": self._tensorflow,
            "allowed": sorted(self._allowed),
            "denied": sorted(self._denied),
        }

    def judge(self, candidate: Candidate) -> Verdict:
        """Returns FAILED with one problem for each op; ops that are new since the serving version are evidence."""
        graph = candidate.version.served
        if graph is None:
            return Verdict(Outcome.FAILED, "no MetaGraph tagged 'serve'", ("no MetaGraph is tagged exactly 'serve'",))
        known = registered_ops(self._tensorflow)
        unknown = sorted(op for op in graph.ops if op not in known and op not in self._allowed)
        denied = sorted(set(graph.ops) & self._denied)
        problems = [f"op {op} {_place(graph, op)} is not to be run by a served model" for op in denied]
        problems += [f"op {op} {_place(graph, op)} is unknown to TensorFlow {self._tensorflow}" for op in unknown]
        varying = varying_ops(graph, self._tensorflow)
        evidence = {
            "tensorflow": self._tensorflow,
            "kinds": len(graph.ops),
            "denied": denied,
            "unknown": unknown,
            "varying": varying,
            "new": _new_ops(graph, candidate),
        }
        if problems:
            return Verdict(Outcome.FAILED, problems[0], tuple(problems), evidence)
        return Verdict(Outcome.PASSED, f"ok{_notes(candidate, evidence)}", evidence=evidence)


def varying_ops(graph: MetaGraph, tensorflow: str = "") -> list[str]:
    """Returns the ops by which a version may answer the same request otherwise each time, in name order."""
    known = registered_ops(nearest_listed(tensorflow))
    return sorted(op for op in graph.ops if known.get(op) and not _same_answer(op))


def listed_versions() -> tuple[str, ...]:
    """Returns the TensorFlow minor versions whose ops are listed, oldest first."""
    names = [entry.name.removesuffix(".txt") for entry in _lists().iterdir() if entry.name.endswith(".txt")]
    return tuple(sorted(names, key=_numbers))


def nearest_listed(tensorflow: str) -> str:
    """Returns the listed minor version that knows least beyond `tensorflow`: itself, else the next older, else any."""
    listed = listed_versions()
    if not tensorflow:
        return listed[-1]
    wanted = _numbers(tensorflow)
    older = [version for version in listed if _numbers(version) <= wanted]
    return older[-1] if older else listed[0]


def _numbers(version: str) -> tuple[int, ...]:
    """Returns (2, 19) for "2.19.1"; what is no number counts as the newest."""
    parts = version.split(".")[:2]
    return tuple(int(part) if part.isdecimal() else sys.maxsize for part in parts)


def registered_ops(tensorflow: str) -> dict[str, bool]:
    """Returns whether each op of a TensorFlow minor version is stateful, by name.

    Raises:
        FileNotFoundError: that version is not listed; `make ops` writes the list of the installed one.
    """
    lines = (_lists() / f"{tensorflow}.txt").read_text(encoding="utf-8").splitlines()
    return {line.partition(" ")[0]: line.endswith(" stateful") for line in lines}


def _lists() -> Any:
    return resources.files("deployctl.gates") / "tensorflow_ops"


def _place(graph: MetaGraph, op: str) -> str:
    return "in a function" if op in graph.function_ops and op not in graph.graph_ops else "in the graph"


def _same_answer(op: str) -> bool:
    return op in _SAME_ANSWER or op.startswith(_SAME_ANSWER_PREFIXES)


def _notes(candidate: Candidate, evidence: Mapping[str, Any]) -> str:
    notes = ""
    if evidence["varying"]:
        notes += f", answers may vary ({', '.join(evidence['varying'])})"
    if evidence["new"] and candidate.serving:
        notes += f", new since {candidate.serving.name}: {_few(evidence['new'])}"
    return notes


def _few(ops: Sequence[str]) -> str:
    """Returns the first ops by name and how many follow; all of them are evidence."""
    more = f" and {len(ops) - _NAMED} more" if len(ops) > _NAMED else ""
    return ", ".join(ops[:_NAMED]) + more


def _new_ops(graph: MetaGraph, candidate: Candidate) -> list[str]:
    serving = candidate.serving.served if candidate.serving else None
    return sorted(set(graph.ops) - set(serving.ops)) if serving else []
