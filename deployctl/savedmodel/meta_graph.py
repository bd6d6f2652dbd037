"""Reads one MetaGraphDef out of a SavedModel's bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from deployctl.domain.saved_model import MetaGraph, Signature, TensorSpec, Variable
from deployctl.protos.saved_model_pb2 import (
    AssetFileDef,
    MetaGraphDef,
    SavedObject,
    SignatureDef,
    TensorInfo,
    VariableDef,
)
from deployctl.protos.tensor_pb2 import TensorProto
from deployctl.savedmodel import wire
from deployctl.savedmodel.dtypes import dtype_name, shape_of, tensor_spec
from deployctl.savedmodel.graph import Graph, GraphWalker

# Field numbers of meta_graph.proto and saved_object_graph.proto.
_META_INFO, _GRAPH, _SAVER, _COLLECTION, _SIGNATURE, _ASSET, _OBJECT_GRAPH = range(1, 8)
_OBJECT_NODE = 1
_OBJECT_VARIABLE = 7
_MAP_KEY = 1

_VARIABLES_COLLECTION = "variables"
# Where exports of TensorFlow 1 listed their assets before asset_file_def existed.
_ASSETS_COLLECTION = "saved_model_assets"
_WANTED_COLLECTIONS = frozenset({_VARIABLES_COLLECTION.encode(), _ASSETS_COLLECTION.encode()})
# What TensorFlow 2 saves besides the values: it is read by Python only.
OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Everything but graph, collections and object graph, which are walked, is small: kilobytes in real models.
MAX_PARSED_BYTES = 16 << 20
MAX_DEFAULT_WORDS = 80


def read_meta_graph(walker: wire.Walker, start: int, stop: int) -> MetaGraph:
    """Returns what the MetaGraphDef in walker.data[start:stop] declares.

    Raises:
        wire.WireError: it is not wire format, or larger than any real one.
        google.protobuf.message.DecodeError: a part of it does not parse.
        UnicodeDecodeError: the name of an op is not UTF-8.
    """
    graphs = GraphWalker(walker)
    objects: list[Variable] = []
    # Protobuf reads concatenated messages as one, so that what is walked can simply be left out.
    small = bytearray()
    for field in walker.fields(start, stop):
        if field.number == _GRAPH:
            graphs.walk(*field.content())
        elif field.number == _OBJECT_GRAPH:
            objects += _object_variables(walker, *field.content())
        elif field.number != _COLLECTION or walker.last_bytes(*field.content(), _MAP_KEY) in _WANTED_COLLECTIONS:
            if len(small) + field.stop - field.start > MAX_PARSED_BYTES:
                raise wire.WireError(
                    f"the MetaGraph at byte {start} has more than {MAX_PARSED_BYTES} bytes beside its graph"
                )
            small += walker.data[field.start : field.stop]
    proto = MetaGraphDef.FromString(bytes(small))
    restore_function = graphs.function_called_by(proto.saver_def.restore_op_name)
    return _meta_graph(proto, graphs.result(), objects, restore_function)


def _object_variables(walker: wire.Walker, start: int, stop: int) -> list[Variable]:
    """The variables of a SavedObjectGraph (TensorFlow 2)."""
    variables = []
    for node_start, node_stop in walker.messages(start, stop, _OBJECT_NODE):
        if any(field.number == _OBJECT_VARIABLE for field in walker.fields(node_start, node_stop)):
            if node_stop - node_start > MAX_PARSED_BYTES:
                raise wire.WireError(f"the variable at byte {node_start} has {node_stop - node_start} bytes")
            node = SavedObject.FromString(bytes(walker.data[node_start:node_stop]))
            if node.WhichOneof("kind") == "variable":
                declared = node.variable
                variables.append(Variable(declared.name, dtype_name(declared.dtype), shape_of(declared.shape)))
    return sorted(variables, key=lambda variable: (variable.name, variable.dtype))


def _meta_graph(proto: MetaGraphDef, graph: Graph, objects: list[Variable], restore_function: str) -> MetaGraph:
    restores, keys = _restored(proto, graph, restore_function)
    return MetaGraph(
        tags=tuple(sorted(set(proto.meta_info_def.tags))),
        signatures={key: _signature(proto.signature_def[key]) for key in sorted(proto.signature_def)},
        graph_ops=graph.graph_ops,
        function_ops=graph.function_ops,
        variables=tuple(objects) or _collected(proto, graph),
        restores_variables=restores,
        assets=_assets(proto),
        tensorflow_version=proto.meta_info_def.tensorflow_version,
        tensorflow_git_version=proto.meta_info_def.tensorflow_git_version,
        stripped_default_attrs=proto.meta_info_def.stripped_default_attrs,
        restored_keys=keys,
    )


def _signature(proto: SignatureDef) -> Signature:
    return Signature(
        method=proto.method_name,
        inputs=_specs(proto.inputs),
        outputs=_specs(proto.outputs),
        optional_inputs=frozenset(proto.defaults),
        defaults={name: _words(proto.defaults[name]) for name in sorted(proto.defaults)},
    )


def _words(default: TensorProto) -> str:
    """Returns a default value as one line; a long one is cut and told apart by the hash of all of it."""
    from google.protobuf import text_format

    words = text_format.MessageToString(default, as_one_line=True)
    if len(words) <= MAX_DEFAULT_WORDS:
        return words
    return f"{words[:MAX_DEFAULT_WORDS]}… (sha256 {hashlib.sha256(words.encode()).hexdigest()[:12]})"


def _specs(infos: Mapping[str, TensorInfo]) -> dict[str, TensorSpec]:
    return {name: tensor_spec(infos[name]) for name in sorted(infos)}


def _collected(proto: MetaGraphDef, graph: Graph) -> tuple[Variable, ...]:
    """The variables of a TensorFlow 1 export.

    The collection lists the ones that are saved, and the graph knows their types; without a collection, every
    variable of the graph counts.
    """
    if _VARIABLES_COLLECTION not in proto.collection_def:
        return graph.variables
    listed = proto.collection_def[_VARIABLES_COLLECTION].bytes_list.value
    names = {VariableDef.FromString(value).variable_name.partition(":")[0] for value in listed}
    return tuple(variable for variable in graph.variables if variable.name in names)


def _assets(proto: MetaGraphDef) -> tuple[str, ...]:
    """File names below assets/, from the same place as TensorFlow's loader (GetAssetFileDefs) takes them."""
    listed: Iterable[AssetFileDef] = proto.asset_file_def
    if not proto.asset_file_def and _ASSETS_COLLECTION in proto.collection_def:
        packed = proto.collection_def[_ASSETS_COLLECTION].any_list.value
        listed = [AssetFileDef.FromString(value.value) for value in packed]
    return tuple(sorted({asset.filename for asset in listed}))


def _restored(proto: MetaGraphDef, graph: Graph, restore_function: str) -> tuple[bool, tuple[str, ...]]:
    """Whether loading reads values from variables/, and by which keys.

    TensorFlow's loader runs the saver's restore op whenever there is a saver_def, but skips it silently when
    variables.index is absent (RestoreSession and RunRestore in tensorflow/cc/saved_model/loader.cc). TensorFlow 2
    writes a saver_def even for a model without variables; its restore op then reads nothing but the object graph.

    A graph may hold other RestoreV2 ops than the saver's, which read other files (tf.train.init_from_checkpoint).
    The saver's are those that take their path from its filename tensor (TensorFlow 1), or those in the function
    that its restore op calls (TensorFlow 2).
    """
    if not proto.saver_def.restore_op_name:
        return False, ()
    filename = proto.saver_def.filename_tensor_name.partition(":")[0]
    own = [
        restore
        for restore in graph.restores
        if (restore.function == restore_function if restore.function else restore.prefix == filename)
    ]
    keys = frozenset().union(*(restore.keys for restore in own if restore.keys)) - {OBJECT_GRAPH_KEY}
    return bool(keys) or any(restore.keys is None for restore in own), tuple(sorted(keys))
