"""Compares our messages with the installed TensorFlow's; run as a program, since it imports TensorFlow.

Prints JSON: {"compared": [our names], "absent": [our names that upstream lacks], "different": [sentences]}.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

OWN_MODULES = ("tensor", "saved_model", "example", "serving", "health")
UPSTREAM_MODULES = (
    *(f"tensorflow.core.framework.{name}_pb2" for name in ("types", "tensor", "variable", "graph", "function")),
    *(
        f"tensorflow.core.protobuf.{name}_pb2"
        for name in ("saved_model", "saved_object_graph", "trackable_object_graph", "tensor_bundle", "named_tensor")
    ),
    "tensorflow.core.example.example_pb2",
    "tensorflow_serving.config.model_server_config_pb2",
    *(
        f"tensorflow_serving.apis.{name}_pb2"
        for name in (
            "get_model_status",
            "model_management",
            "predict",
            "get_model_metadata",
            "classification",
            "regression",
            "inference",
            "prediction_log",
        )
    ),
)
_PREFIX = "deployctl.wire."
_RENAMED = {"tensorflow.serving.Code": "tensorflow.error.Code"}


def upstream_name(own: str) -> str:
    """TensorFlow's full name for one of our messages or enums."""
    name = own.removeprefix(_PREFIX)
    return _RENAMED.get(name, name)


def _messages(messages: Iterable[Any]) -> Iterator[Any]:
    for message in messages:
        yield message
        yield from _messages(message.nested_types)


def _field(field: Any, rename: bool) -> dict[str, object]:
    kind = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return {
        "number": field.number,
        "type": field.type,
        "repeated": field.is_repeated,
        "presence": field.has_presence,
        "of": kind and (upstream_name(kind.full_name) if rename else kind.full_name),
        "oneof": oneof and oneof.name,
    }


def _message_differences(own: Any, upstream: Any) -> Iterator[str]:
    for name, field in own.fields_by_name.items():
        other = upstream.fields_by_name.get(name)
        if other is None:
            yield f"{own.full_name}.{name} is not upstream"
        elif (ours := _field(field, rename=True)) != (theirs := _field(other, rename=False)):
            yield f"{own.full_name}.{name} is {ours}, upstream {theirs}"
    for enum in own.enum_types:
        yield from _enum_differences(enum, upstream.enum_types_by_name[enum.name])


def _enum_differences(own: Any, upstream: Any) -> Iterator[str]:
    for name, value in own.values_by_name.items():
        other = upstream.values_by_name.get(name)
        if other is None or other.number != value.number:
            yield f"{own.full_name}.{name} = {value.number}, upstream {other and other.number}"


def compare() -> dict[str, list[str]]:
    """Returns what the module's docstring says."""
    # Both at once, in this order and the other, is what the embedded server's tests do.
    files = [importlib.import_module(f"deployctl.protos.{name}_pb2").DESCRIPTOR for name in OWN_MODULES]
    for name in UPSTREAM_MODULES:
        importlib.import_module(name)
    from google.protobuf import descriptor_pool

    pool = descriptor_pool.Default()
    compared: list[str] = []
    absent: list[str] = []
    different: list[str] = []
    for file in files:
        for own, find, differences in [
            *(
                (m, pool.FindMessageTypeByName, _message_differences)
                for m in _messages(file.message_types_by_name.values())
            ),
            *((e, pool.FindEnumTypeByName, _enum_differences) for e in file.enum_types_by_name.values()),
        ]:
            try:
                upstream = find(upstream_name(own.full_name))
            except KeyError:
                absent.append(own.full_name)
                continue
            compared.append(own.full_name)
            different += differences(own, upstream)
    return {"compared": compared, "absent": absent, "different": different}


if __name__ == "__main__":
    json.dump(compare(), sys.stdout)
