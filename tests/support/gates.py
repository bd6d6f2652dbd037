"""Versions as gates see them, made from a few words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deployctl.domain.names import Digest
from deployctl.domain.saved_model import PREDICT_METHOD, MetaGraph, SavedModel, Signature, TensorSpec
from deployctl.gates.interface import Candidate, Gate, Version

NOWHERE = Path("/nonexistent/export")


def spec(words: str) -> TensorSpec:
    """Returns the tensor that "float32 ?,4" or "string" (of any shape) means; "float32 ()" is a scalar."""
    dtype, _, shape = words.partition(" ")
    if not shape:
        return TensorSpec(dtype, None)
    sizes = [] if shape == "()" else shape.split(",")
    return TensorSpec(dtype, tuple(None if size == "?" else int(size) for size in sizes))


def signature(
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *,
    method: str = PREDICT_METHOD,
    optional: frozenset[str] = frozenset(),
    defaults: Mapping[str, str] | None = None,
) -> Signature:
    return Signature(
        method,
        {name: spec(words) for name, words in inputs.items()},
        {name: spec(words) for name, words in outputs.items()},
        optional,
        defaults or {},
    )


DOUBLE = signature({"x": "float32 ?"}, {"y": "float32 ?"})


def version(
    signatures: Mapping[str, Signature] | None = None,
    *,
    name: str = "half@1",
    tags: tuple[str, ...] = ("serve",),
    graph_ops: Mapping[str, int] | None = None,
    function_ops: Mapping[str, int] | None = None,
    path: Path = NOWHERE,
    digest: str | None = None,
) -> Version:
    graph = MetaGraph(
        tags=tags,
        signatures={"serving_default": DOUBLE} if signatures is None else signatures,
        graph_ops=graph_ops or {"Placeholder": 1},
        function_ops=function_ops or {},
        variables=(),
        restores_variables=False,
        assets=(),
        tensorflow_version="2.21.0",
    )
    found = None if digest is None else Digest(f"sha256:{digest * 64}"[:71])
    return Version(name, path, SavedModel("pb", 1, (graph,)), digest=found)


def judged(gate: Gate, of: Version, *, serving: Version | None = None, fallback: Version | None = None) -> str:
    """Returns outcome and summary of the gate's verdict."""
    verdict = gate.judge(Candidate(of, None, serving, fallback))
    return f"{verdict.outcome.value}: {verdict.summary}"
