"""A SavedModel as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployctl.cli.render import write
from deployctl.domain.manifest import signatures_to_json
from deployctl.domain.saved_model import MetaGraph, SavedModel, Signature, TensorSpec

_OPS_SHOWN = 8


def write_inspection(path: Path, model: SavedModel, *, ops: bool, variables: bool) -> None:
    """Writes what `model` declares; `ops` and `variables` in full where asked for."""
    write(f"{path}   saved_model.{model.format}, {_plural(len(model.meta_graphs), 'MetaGraph')}")
    for graph in model.meta_graphs:
        write("")
        tags = ", ".join(graph.tags) or "none"
        write(f"tags        {tags}   written by TensorFlow {graph.tensorflow_version or 'unknown'}")
        write_signatures(graph.signatures)
        total, kinds = sum(graph.ops.values()), len(graph.ops)
        library = f", {sum(graph.function_ops.values())} of them in functions" if graph.function_ops else ""
        write(f"ops         {total} of {_plural(kinds, 'kind')}{library}{_most_frequent(graph) if not ops else ''}")
        if ops:
            for op, count in graph.ops.items():
                write(f"            {op} {count}")
        write(f"variables   {len(graph.variables) or 'none'}")
        if variables:
            for variable in graph.variables:
                write(f"            {variable.name}  {TensorSpec(variable.dtype, variable.shape)}")
        write(f"assets      {', '.join(graph.assets) or 'none'}")


def write_signatures(signatures: Mapping[str, Signature]) -> None:
    """Writes signatures with one line for each tensor."""
    for key, signature in signatures.items():
        write(f"signature   {key}   {signature.method or 'no method'}")
        rows = [("in", name, spec, name in signature.optional_inputs) for name, spec in signature.inputs.items()]
        rows += [("out", name, spec, False) for name, spec in signature.outputs.items()]
        width = max((len(row[1]) for row in rows), default=0)
        for side, name, spec, optional in rows:
            write(f"  {side:<4} {name:<{width}}  {spec}{'  optional' if optional else ''}  {spec.tensor}".rstrip())


def inspection_document(model: SavedModel) -> dict[str, Any]:
    """Returns what `model` declares as JSON values."""
    return {
        "format": model.format,
        "schema_version": model.schema_version,
        "meta_graphs": [_graph_document(graph) for graph in model.meta_graphs],
    }


def _graph_document(graph: MetaGraph) -> dict[str, Any]:
    return {
        "tags": list(graph.tags),
        "tensorflow_version": graph.tensorflow_version,
        "signatures": signatures_to_json(graph.signatures),
        "ops": dict(graph.ops),
        "graph_ops": dict(graph.graph_ops),
        "function_ops": dict(graph.function_ops),
        "variables": [
            {"name": each.name, "dtype": each.dtype, "shape": None if each.shape is None else list(each.shape)}
            for each in graph.variables
        ],
        "assets": list(graph.assets),
    }


def _most_frequent(graph: MetaGraph) -> str:
    frequent = sorted(graph.ops, key=lambda op: (-graph.ops[op], op))[:_OPS_SHOWN]
    more = ", …" if len(graph.ops) > _OPS_SHOWN else ""
    return f": {', '.join(frequent)}{more}" if frequent else ""


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
