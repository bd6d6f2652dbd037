"""The signatures of a loaded MetaGraphDef, read from its bytes without parsing the graph beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployctl.domain.saved_model import Signature, TensorSpec
from deployctl.modelserver import wire
from deployctl.modelserver.dtypes import NAMES
from deployctl.modelserver.tensor_proto import decode

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Tensor
    from deployctl.protos.saved_model_pb2 import SignatureDef, TensorInfo

_META_GRAPH_SIGNATURE_DEF = 5
_SIGNATURE_DEF_MAP_SIGNATURE_DEF = 1


@dataclass(frozen=True, slots=True)
class LoadedSignatures:
    """What a MetaGraphDef says of its signatures.

    Attributes:
        signatures: by key.
        defaults: by key, the values of inputs that a request may leave out.
        serialized_map: a SignatureDefMap, every field as the model has it.
    """

    signatures: Mapping[str, Signature]
    defaults: Mapping[str, Mapping[str, Tensor]]
    serialized_map: bytes


def read_signatures(meta_graph_def: memoryview) -> LoadedSignatures:
    """Reads the signatures of a serialized MetaGraphDef.

    Raises:
        ValueError: it is malformed.
    """
    # An entry of MetaGraphDef.signature_def is, byte for byte, an entry of SignatureDefMap.signature_def.
    return read_signature_map(
        b"".join(
            wire.length_delimited(_SIGNATURE_DEF_MAP_SIGNATURE_DEF, bytes(entry))
            for number, _, entry in wire.fields(meta_graph_def)
            if number == _META_GRAPH_SIGNATURE_DEF
        )
    )


def read_signature_map(serialized: bytes) -> LoadedSignatures:
    """Reads a serialized SignatureDefMap."""
    from deployctl.protos.serving_pb2 import SignatureDefMap

    definitions = SignatureDefMap.FromString(serialized).signature_def
    return LoadedSignatures(
        {key: _signature(definitions[key]) for key in sorted(definitions)},
        {key: {name: decode(proto) for name, proto in definitions[key].defaults.items()} for key in definitions},
        serialized,
    )


def _signature(definition: SignatureDef) -> Signature:
    return Signature(
        definition.method_name,
        {name: _spec(definition.inputs[name]) for name in sorted(definition.inputs)},
        {name: _spec(definition.outputs[name]) for name in sorted(definition.outputs)},
        frozenset(definition.defaults),
    )


def _spec(info: TensorInfo) -> TensorSpec:
    shape = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(NAMES.get(info.dtype, f"dtype{info.dtype}"), shape, info.name)
