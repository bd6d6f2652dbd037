"""What a TFLite file says of its signatures, as TensorFlow Serving reads it.

tensorflow_serving/servables/tensorflow/tflite_session.cc, and tensorflow/lite/tools/signature/signature_def_util.cc for
the place of the SignatureDefs. The file's newer `signature_defs` table is not looked at there either.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployctl.domain.saved_model import DEFAULT_SIGNATURE, PREDICT_METHOD
from deployctl.modelserver.flatbuffer import Table, flex_texts
from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.signatures import LoadedSignatures, read_signature_map

if TYPE_CHECKING:
    from deployctl.protos.saved_model_pb2 import TensorInfo

logger = logging.getLogger(__name__)

# Positions of fields in the tables of tensorflow/lite/schema/schema.fbs.
_SUBGRAPHS, _BUFFERS, _METADATA = 2, 4, 6
_METADATA_NAME, _METADATA_BUFFER, _BUFFER_DATA = 0, 1, 0
_TENSORS, _INPUTS, _SHAPE = 0, 1, 0
_SIGNATURE_DEFS = b"signature_defs_metadata"


@dataclass(frozen=True, slots=True)
class TfliteTensor:
    """An input or output of the first subgraph; `shape` as the file has it, before any resizing."""

    index: int
    name: str
    dtype: int
    shape: tuple[int, ...]


def read_tflite_signatures(
    content: bytes, inputs: Mapping[str, TfliteTensor], outputs: Mapping[str, TfliteTensor]
) -> LoadedSignatures:
    """Returns the signatures that were added to the file, or one over all `inputs` and `outputs`.

    Raises:
        StatusError: INVALID_ARGUMENT when what was added cannot be read, INTERNAL when it names an unknown tensor.
    """
    from google.protobuf.message import DecodeError

    from deployctl.protos.serving_pb2 import SignatureDefMap

    signatures = SignatureDefMap()
    try:
        for key, serialized in _stored(content).items():
            signatures.signature_def[key].ParseFromString(serialized)
    except (ValueError, IndexError, struct.error, DecodeError) as error:
        raise StatusError(Code.INVALID_ARGUMENT, f"Invalid SignatureDefs found in TfLite model: {error}") from error
    for definition in signatures.signature_def.values():
        _fix_names("input", definition.inputs, inputs)
        _fix_names("output", definition.outputs, outputs)
    if not signatures.signature_def:
        logger.warning("No signature def found in TFLite model. Generating one.")
        definition = signatures.signature_def[DEFAULT_SIGNATURE]
        definition.method_name = PREDICT_METHOD
        _describe(definition.inputs, inputs)
        _describe(definition.outputs, outputs)
    return read_signature_map(signatures.SerializeToString(deterministic=True))


def fixed_batch_size(content: bytes) -> int:
    """Returns the first size of the only input's shape, -1 when there are several inputs."""
    graph = Table.root(content).tables(_SUBGRAPHS)[0]
    inputs = graph.numbers(_INPUTS)
    if len(inputs) != 1:
        return -1
    shape = graph.tables(_TENSORS)[inputs[0]].numbers(_SHAPE)
    return shape[0] if shape else -1


def known_name(name: str, tensors: Mapping[str, TfliteTensor]) -> str:
    """Returns `name` as the file has it; early converters left out the ":0".

    Raises:
        StatusError: INTERNAL.
    """
    for candidate in (name, name.partition(":")[0]):
        if candidate in tensors:
            return candidate
    raise StatusError(Code.INTERNAL, f"Unknown tensor '{name}'.")


def _stored(content: bytes) -> dict[str, bytes]:
    model = Table.root(content)
    for metadata in model.tables(_METADATA):
        if metadata.text(_METADATA_NAME) == _SIGNATURE_DEFS:
            buffer = model.tables(_BUFFERS)[metadata.number(_METADATA_BUFFER)]
            return flex_texts(buffer.text(_BUFFER_DATA))
    return {}


def _fix_names(side: str, infos: Mapping[str, TensorInfo], tensors: Mapping[str, TfliteTensor]) -> None:
    for alias, info in infos.items():
        try:
            info.name = known_name(info.name, tensors)
        except StatusError as error:
            raise StatusError(
                error.code, f"{error.message}\n\tSignature {side} {alias} references an unknown tensor"
            ) from error


def _describe(infos: Mapping[str, TensorInfo], tensors: Mapping[str, TfliteTensor]) -> None:
    for name, tensor in tensors.items():
        info = infos[name.partition(":")[0]]
        info.name = name
        info.dtype = tensor.dtype  # type: ignore[assignment]
        info.tensor_shape.SetInParent()
        for size in tensor.shape:
            info.tensor_shape.dim.add(size=size)
