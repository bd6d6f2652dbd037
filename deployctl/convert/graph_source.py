"""Loads checkpoints, frozen graphs and SavedModels of TensorFlow 1 into sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deployctl.convert.keras_source import import_object
from deployctl.convert.lifting import lifted
from deployctl.convert.part import Arrays, Part
from deployctl.convert.worker import told
from deployctl.errors import ConversionError
from deployctl.savedmodel.bundle import read_bundle
from deployctl.savedmodel.checkpoint import Checkpoint, read_checkpoint
from deployctl.savedmodel.frozen import candidates
from deployctl.savedmodel.meta_file import read_meta_file

v1 = tf.compat.v1
_TABLE_INITIALIZERS = ("InitializeTableV2", "InitializeTableFromTextFileV2", "LookupTableImportV2")
_LISTED = 12


@dataclass(frozen=True)
class LoadedGraph:
    """A graph in a session, with the tensors that clients name."""

    session: Any
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    def run(self, arrays: Arrays) -> dict[str, Any]:
        """Returns the outputs for these inputs, by the graph as it was loaded."""
        feeds = {self.inputs[name]: value for name, value in arrays.items()}
        names = list(self.outputs)
        values = self.session.run([self.outputs[name] for name in names], feeds)
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    def part(self, name: str, source_bytes: int) -> Part:
        """Returns what of the graph the outputs need, with its variables and tables as those of TensorFlow 2."""
        return lifted(self, name, source_bytes)


def load_checkpoint(
    prefix: Path, *, inputs: Mapping[str, str], outputs: Mapping[str, str], builder: str | None
) -> LoadedGraph:
    """Restores the checkpoint `prefix` into the graph of its `.meta` file, or into the one that `builder` makes.

    Args:
        prefix: of the checkpoint.
        inputs: tensor by the name that clients shall use; {} takes the placeholders that the outputs need.
        outputs: likewise; {} takes the only tensor that nothing but training takes.
        builder: "package.module:function", called without arguments in an empty graph; it may return a pair of
            dictionaries, inputs and outputs by name.

    Raises:
        ConversionError: there is no graph, it is another than the checkpoint's, or the outputs are not clear.
        InvalidModelError: a file of the checkpoint is not whole.
    """
    meta = prefix.with_name(f"{prefix.name}.meta")
    stored = read_checkpoint(prefix)
    if stored.format == "v2":
        read_bundle(prefix).check_shards()
    graph = tf.Graph()
    with graph.as_default():
        if builder is not None:
            built = _built(builder)
            if built is not None and not inputs and not outputs:
                inputs, outputs = ({key: value.name for key, value in side.items()} for side in built)
            saver = _saver_of(graph, builder, prefix)
        elif meta.is_file():
            # TensorFlow has no words for one that is not whole.
            read_meta_file(meta)
            saver = v1.train.import_meta_graph(str(meta), clear_devices=True)
        else:
            raise ConversionError(
                f"{prefix} has no .meta file, so that nothing says what its graph is",
                kind="unsupported",
                hint=f"deployctl convert checkpoint {prefix} --builder PACKAGE.MODULE:FUNCTION --out DIR",
            )
        session = v1.Session(graph=graph)
        if saver is not None:
            _restore(saver, session, stored)
        _initialize_rest(session, graph)
        return LoadedGraph(session, *_named(graph, inputs, outputs, str(prefix), command="checkpoint"))


def _built(builder: str) -> Any:
    """What the builder returned, having made its graph in the current one: inputs and outputs by name, or None."""
    make = import_object(builder)
    try:
        built = make()
    # It is the user's own code, which raises whatever it raises.
    except Exception as error:
        raise ConversionError(f"{builder} fails: {type(error).__name__}: {told(error)}", kind="usage") from error
    pair = isinstance(built, tuple) and len(built) == 2 and all(isinstance(side, Mapping) for side in built)
    if built is not None and not pair:
        raise ConversionError(
            f"{builder} returns {built!r:.100}, and neither None nor two dictionaries of tensors, inputs and outputs",
            kind="usage",
        )
    return built


def _saver_of(graph: Any, builder: str, prefix: Path) -> Any:
    if not graph.get_collection(v1.GraphKeys.GLOBAL_VARIABLES):
        raise ConversionError(
            f"{builder} makes a graph without variables, for which {prefix} holds values",
            kind="usage",
            hint=f"deployctl inspect {prefix} --variables",
        )
    return v1.train.Saver()


def _restore(saver: Any, session: Any, stored: Checkpoint) -> None:
    try:
        saver.restore(session, str(stored.prefix))
    except (ValueError, tf.errors.OpError) as error:
        raise ConversionError(
            f"{stored.prefix} does not fit its graph: {_mismatch(session.graph, stored) or told(error)}",
            kind="malformed",
            hint=f"deployctl inspect {stored.prefix} --variables",
        ) from error


def _mismatch(graph: Any, stored: Checkpoint) -> str:
    """The first variable that the checkpoint has no value for, "" where it has one for each."""
    shapes = {tensor.key: tensor.spec.shape for tensor in stored.tensors}
    for variable in graph.get_collection(v1.GraphKeys.GLOBAL_VARIABLES):
        name, shape = variable.op.name, variable.shape
        if getattr(variable, "_save_slice_info", None) is not None:
            continue  # a part of a tensor that is stored under another name
        if name not in shapes:
            return f"it holds no value for the variable {name}"
        if not shape.is_compatible_with(shapes[name]):
            return f"the variable {name} has shape {shape}, and its value {tf.TensorShape(shapes[name])}"
    return ""


def load_frozen(path: Path, *, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> LoadedGraph:
    """Imports the frozen graph at `path`; `inputs` and `outputs` as in `load_checkpoint`.

    Raises:
        ConversionError: it does not parse, needs variables, or its outputs are not clear.
    """
    definition = v1.GraphDef()
    try:
        definition.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf has several implementations, each with its own class
        raise ConversionError(f"{path} is not a whole GraphDef: {error}", kind="malformed") from error
    variables = [node.name for node in definition.node if node.op in ("VariableV2", "VarHandleOp", "Variable")]
    if variables:
        raise ConversionError(
            f"{path} has the variable {variables[0]} and no values for it: freeze it first",
            kind="unsupported",
            hint="deployctl convert freeze CHECKPOINT --out GRAPH.pb",
        )
    graph = tf.Graph()
    with graph.as_default():
        try:
            tf.import_graph_def(definition, name="")
        except ValueError as error:
            raise ConversionError(f"{path} cannot be imported: {error}", kind="malformed") from error
        session = v1.Session(graph=graph)
        initializer = _initializer(graph)
        if initializer is not None:
            session.run(initializer)
        return LoadedGraph(session, *_named(graph, inputs, outputs, str(path), command="frozen"))


def load_session(path: Path, tags: Sequence[str], key: str) -> LoadedGraph:
    """Loads the MetaGraph `tags` of a SavedModel of TensorFlow 1, for its signature `key`.

    Raises:
        ConversionError: there is no such MetaGraph or signature, or it cannot be loaded.
    """
    graph = tf.Graph()
    with graph.as_default():
        session = v1.Session(graph=graph)
        try:
            signature = v1.saved_model.load(session, list(tags), str(path)).signature_def[key]
            sides = [
                {name: graph.get_tensor_by_name(info.name) for name, info in sorted(side.items())}
                for side in (signature.inputs, signature.outputs)
            ]
        except (OSError, ValueError, RuntimeError, KeyError, tf.errors.OpError) as error:
            words = " ".join(str(error).split())[:400]
            raise ConversionError(f"{path} cannot be loaded: {words}", kind="malformed") from error
        return LoadedGraph(session, *sides)


def _initializer(graph: Any) -> Any:
    """One operation that fills every table; frozen graphs have lost the collection that lists how."""
    found = [operation for operation in graph.get_operations() if operation.type in _TABLE_INITIALIZERS]
    with graph.as_default():
        return tf.group(*found) if found else None


def _initialize_rest(session: Any, graph: Any) -> None:
    """Tables, and local variables, which no checkpoint holds."""
    session.run([v1.local_variables_initializer(), v1.tables_initializer()])
    initializer = _initializer(graph)
    if initializer is not None:
        session.run(initializer)


def _named(
    graph: Any, inputs: Mapping[str, str], outputs: Mapping[str, str], where: str, *, command: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    serialized = graph.as_graph_def().SerializeToString()
    _, sinks = candidates(memoryview(serialized), 0, len(serialized))
    if outputs:
        chosen = {name: _tensor(graph, tensor, where) for name, tensor in outputs.items()}
    else:
        chosen = _only_output(graph, list(sinks), where, command)
    if inputs:
        return {name: _tensor(graph, tensor, where) for name, tensor in inputs.items()}, chosen
    needed = _placeholders(chosen.values())
    return {_alias(tensor.name): tensor for tensor in needed}, chosen


def _only_output(graph: Any, sinks: Sequence[str], where: str, command: str) -> dict[str, Any]:
    trains = any(operation.type.startswith(("Apply", "ResourceApply")) for operation in graph.get_operations())
    found = [tensor for tensor in map(graph.get_tensor_by_name, sinks) if _placeholders([tensor])]
    # What training minimizes is a scalar that nothing else takes.
    losses = [tensor for tensor in found if trains and tensor.shape.rank == 0]
    serving = [tensor for tensor in found if not any(tensor is loss for loss in losses)]
    if len(serving) == 1:
        return {_alias(serving[0].name): serving[0]}
    shown = serving or _on_the_way(losses)
    names = ", ".join(tensor.name for tensor in shown[:_LISTED]) or "none"
    raise ConversionError(
        f"the outputs of {where} have to be named; candidates are {names}",
        kind="usage",
        hint=f"deployctl convert {command} {where} --outputs NAME=TENSOR",
    )


def _on_the_way(losses: Sequence[Any]) -> list[Any]:
    """The tensors from inputs to losses with a row for each input, nearest to the losses first."""
    waiting, seen, found = [tensor.op for tensor in losses], set(), []
    while waiting:
        operation = waiting.pop(0)
        if operation.name in seen:
            continue
        seen.add(operation.name)
        outputs = [tensor for tensor in operation.outputs if tensor.shape.rank and tensor.shape[0] is None]
        if operation.type != "Placeholder" and _placeholders(outputs):
            found += outputs
        waiting += [tensor.op for tensor in operation.inputs]
    return found


def _tensor(graph: Any, name: str, where: str) -> Any:
    try:
        return graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
    except (KeyError, ValueError) as error:
        raise ConversionError(
            f"{where} has no tensor {name!r}", kind="usage", hint=f"deployctl inspect {where} --pbtxt -"
        ) from error


def _placeholders(tensors: Any) -> list[Any]:
    """The placeholders that the tensors depend on, in graph order."""
    waiting, seen, found = [tensor.op for tensor in tensors], set(), []
    while waiting:
        operation = waiting.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        if operation.type == "Placeholder":
            found.append(operation.outputs[0])
        waiting += [tensor.op for tensor in operation.inputs]
    return sorted(found, key=lambda tensor: tensor.name)


def _alias(tensor: str) -> str:
    return tensor.partition(":")[0].replace("/", "_")
