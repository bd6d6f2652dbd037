"""Turns saved_model.pbtxt into the bytes of saved_model.pb."""

from __future__ import annotations

from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor_pool import DescriptorPool

from deployctl.protos import saved_model_pb2, tensor_pb2

# The text parser is written in Python and reads a few megabytes a second.
MAX_TEXT_BYTES = 64 << 20
_OWN_PACKAGE, _UPSTREAM_PACKAGE = "deployctl.wire.tensorflow", "tensorflow"


class TextError(ValueError):
    """The text is not a SavedModel."""


def saved_model_bytes(text: bytes) -> bytes:
    """Returns the wire format of a SavedModel in text format; fields that nothing here reads are dropped.

    Raises:
        TextError: it is too large, not UTF-8, nested too deeply or not a SavedModel.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise TextError(f"it is {len(text)} bytes of text, and the limit is {MAX_TEXT_BYTES}")
    try:
        model = text_format.Parse(
            text.decode(), saved_model_pb2.SavedModel(), allow_unknown_field=True, descriptor_pool=_upstream_names()
        )
        return model.SerializeToString()
    except RecursionError:
        raise TextError("it is nested too deeply") from None
    except (text_format.ParseError, ValueError) as error:
        raise TextError(str(error)) from error


def _upstream_names() -> DescriptorPool:
    """Our messages under TensorFlow's names, which an Any in the text goes by."""
    pool = DescriptorPool()
    needed = [*saved_model_pb2.DESCRIPTOR.dependencies, saved_model_pb2.DESCRIPTOR]
    assert tensor_pb2.DESCRIPTOR in needed
    for file in needed:
        proto = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)
        pool.AddSerializedFile(_renamed(proto).SerializeToString())
    return pool


def _renamed(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    if file.package == _OWN_PACKAGE:
        file.package = _UPSTREAM_PACKAGE
        for message in file.message_type:
            _rename_types(message)
    return file


def _rename_types(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        field.type_name = field.type_name.replace(f".{_OWN_PACKAGE}.", f".{_UPSTREAM_PACKAGE}.")
    for nested in message.nested_type:
        _rename_types(nested)
