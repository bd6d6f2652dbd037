"""What `inspect` tells of a SavedModel; `show` tells the same of a version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployctl.cli.options import Output
from deployctl.cli.render import write, write_json
from deployctl.cli.tensor_listing import Stored, plural, stored_documents, write_ops, write_signatures, write_stored
from deployctl.domain.manifest import signatures_to_json
from deployctl.domain.saved_model import MetaGraph, SavedModel, TensorSpec

if TYPE_CHECKING:
    from deployctl.savedmodel.source import Source


def tell_saved_model(source: Source, *, ops: bool, variables: bool, output: Output) -> None:
    """Writes what a SavedModel declares and stores."""
    from deployctl.savedmodel.reader import ProtobufSavedModelReader

    model = ProtobufSavedModelReader().read(source.path)
    if output is Output.TABLE:
        write_inspection(source.path, model, ops=ops, variables=variables)
        stored = stored_tensors(source)
        if stored:
            write("")
            write_stored(stored, every=variables)
    elif output is Output.NAME:
        for graph in model.meta_graphs:
            for key in graph.callable_signatures:
                write(key)
    else:
        document = {"path": source.path, "kind": source.kind.value} | inspection_document(model)
        write_json("inspect", document | {"tensors": stored_documents(stored_tensors(source))})


def write_inspection(path: Path, model: SavedModel, *, ops: bool, variables: bool) -> None:
    """Writes what `model` declares; `ops` and `variables` in full where asked for."""
    write(f"{path}   saved_model.{model.format}, {plural(len(model.meta_graphs), 'MetaGraph')}")
    for graph in model.meta_graphs:
        write("")
        tags = ", ".join(graph.tags) or "none"
        write(f"tags        {tags}   written by TensorFlow {graph.tensorflow_version or 'unknown'}")
        write_signatures(graph.signatures)
        write_ops(graph.ops, inside_functions=sum(graph.function_ops.values()), every=ops)
        write(f"variables   {len(graph.variables) or 'none'}")
        if variables:
            for variable in graph.variables:
                write(f"            {variable.name}  {TensorSpec(variable.dtype, variable.shape)}")
        write(f"assets      {', '.join(graph.assets) or 'none'}")


def inspection_document(model: SavedModel) -> dict[str, Any]:
    """Returns what `model` declares as JSON values."""
    return {
        "format": model.format,
        "schema_version": model.schema_version,
        "meta_graphs": [_graph_document(graph) for graph in model.meta_graphs],
    }


def _graph_document(graph: MetaGraph) -> dict[str, Any]:
    from deployctl.savedmodel.frozen import control_flow

    return {
        "tags": list(graph.tags),
        "tensorflow_version": graph.tensorflow_version,
        "signatures": signatures_to_json(graph.signatures),
        "ops": dict(graph.ops),
        "graph_ops": dict(graph.graph_ops),
        "function_ops": dict(graph.function_ops),
        "control_flow": control_flow(graph.ops),
        "variables": [
            {"name": each.name, "dtype": each.dtype, "shape": None if each.shape is None else list(each.shape)}
            for each in graph.variables
        ],
        "assets": list(graph.assets),
    }


def stored_tensors(source: Source) -> list[Stored]:
    """Returns the tensors of a checkpoint or of a SavedModel's variables, largest first."""
    from deployctl.errors import VariablesMissingError
    from deployctl.savedmodel.checkpoint import read_checkpoint
    from deployctl.savedmodel.source import SourceKind

    inside = source.kind is SourceKind.SAVED_MODEL
    prefix = source.path / "variables" / "variables" if inside else source.path
    try:
        tensors = read_checkpoint(prefix).tensors
    except VariablesMissingError:
        if not inside:
            raise
        return []
    rows = [(tensor.key, tensor.name, tensor.spec, tensor.size) for tensor in tensors]
    return sorted(rows, key=lambda row: (-row[3], row[0]))
