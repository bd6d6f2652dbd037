"""Reads one MetaGraphDef out of a SavedModel's bytes."""

from __future__ import annotations

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
MAX_PARSED_BYTES = 64 << 20


def read_meta_graph(data: memoryview, start: int, stop: int) -> MetaGraph:
    """Returns what the MetaGraphDef in data[start:stop] declares.

    Raises:
        wire.WireError: it is not wire format, or larger than any real one.
        google.protobuf.message.DecodeError: a part of it does not parse.
        UnicodeDecodeError: the name of an op is not UTF-8.
    """
    graph_walker = GraphWalker(data)
    objects: list[Variable] = []
    small: list[bytes] = []
    for field in wire.fields(data, start, stop):
        if field.number == _GRAPH:
            graph_walker.walk(*field.content())
        elif field.number == _OBJECT_GRAPH:
            objects += _object_variables(data, *field.content())
        elif field.number != _COLLECTION or _is_wanted_collection(data, *field.content()):
            small.append(_copy(data, field.start, field.stop))
    if sum(map(len, small)) > MAX_PARSED_BYTES:
        raise wire.WireError(f"the MetaGraph at byte {start} has more than {MAX_PARSED_BYTES} bytes beside its graph")
    # Protobuf reads concatenated messages as one, so that what was walked is simply left out.
    return _meta_graph(MetaGraphDef.FromString(b"".join(small)), graph_walker.result(), objects)


def _copy(data: memoryview, start: int, stop: int) -> bytes:
    if stop - start > MAX_PARSED_BYTES:
        raise wire.WireError(f"the field at byte {start} has {stop - start} bytes")
    return bytes(data[start:stop])


def _is_wanted_collection(data: memoryview, start: int, stop: int) -> bool:
    key_start, key_stop = wire.last_bytes(data, start, stop, _MAP_KEY)
    return bytes(data[key_start:key_stop]) in _WANTED_COLLECTIONS


def _object_variables(data: memoryview, start: int, stop: int) -> list[Variable]:
    """The variables of a SavedObjectGraph (TensorFlow 2)."""
    variables = []
    for node_start, node_stop in wire.messages(data, start, stop, _OBJECT_NODE):
        if any(field.number == _OBJECT_VARIABLE for field in wire.fields(data, node_start, node_stop)):
            node = SavedObject.FromString(_copy(data, node_start, node_stop))
            if node.WhichOneof("kind") == "variable":
                declared = node.variable
                variables.append(Variable(declared.name, dtype_name(declared.dtype), shape_of(declared.shape)))
    return sorted(variables, key=lambda variable: (variable.name, variable.dtype))


def _meta_graph(proto: MetaGraphDef, graph: Graph, objects: list[Variable]) -> MetaGraph:
    restores, keys = _restored(proto, graph)
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
    )


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


def _restored(proto: MetaGraphDef, graph: Graph) -> tuple[bool, tuple[str, ...]]:
    """Whether loading reads values from variables/, and by which keys.

    TensorFlow's loader runs the saver's restore op whenever there is a saver_def, but skips it silently when
    variables.index is absent (RestoreSession and RunRestore in tensorflow/cc/saved_model/loader.cc). TensorFlow 2
    writes a saver_def even for a model without variables; its restore op then reads nothing but the object graph.
    A graph may hold more RestoreV2 ops than the saver's (tf.train.init_from_checkpoint), which read other files:
    the saver's take their path from its filename tensor, or in a function from an argument.
    """
    if not proto.saver_def.restore_op_name:
        return False, ()
    filename = proto.saver_def.filename_tensor_name.partition(":")[0]
    own = [restore for restore in graph.restores if restore.in_function or restore.prefix == filename]
    keys = frozenset().union(*(restore.keys for restore in own if restore.keys)) - {OBJECT_GRAPH_KEY}
    return bool(keys) or any(restore.keys is None for restore in own), tuple(sorted(keys))
