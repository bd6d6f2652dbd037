"""Reads text protos whose definitions are TensorFlow's own: ConfigProto, and PlatformConfigMap, which contains one.

python -m deployctl.modelserver.text_protos session_config|platform_config FILE

A program of its own: TensorFlow's generated modules are found by giving Python a package "tensorflow" that runs none of
TensorFlow's code, which is no state to leave a server in. One JSON document on standard output, messages in base64.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import DescriptorProto
    from google.protobuf.message import Message

_ADAPTER = "tensorflow.serving.SavedModelBundleSourceAdapterConfig"
_CONFIG_FILE = "tensorflow/core/protobuf/config.proto"
_WRAPPERS_FILE = "google/protobuf/wrappers.proto"
# The fields of tensorflow_serving/servables/tensorflow/session_bundle_config.proto by type; in text only names matter.
_BUNDLE_FIELDS = {
    "string": ("session_target", "mixed_precision"),
    "tags": ("saved_model_tags",),
    "bool": (
        *("enable_model_warmup", "remove_unused_fields_from_bundle_metagraph", "prefer_tflite_model"),
        *("resource_estimation_uses_validation_result", "wrap_session_with_no_threading_params"),
        *("enable_session_metadata", "enable_per_model_batching_params"),
    ),
    "int32": ("num_tflite_interpreters_per_pool", "num_tflite_interpreters", "num_tflite_pools"),
    "uint64": ("experimental_transient_ram_bytes_during_load",),
    ".tensorflow.ConfigProto": ("session_config",),
    ".tensorflow.serving.BatchingParameters": ("batching_parameters",),
    ".tensorflow.serving.ModelWarmupOptions": ("model_warmup_options",),
    ".google.protobuf.Int32Value": ("session_run_load_threadpool_index",),
}
_WARM_UP_FIELDS = {
    ".google.protobuf.Int32Value": ("num_request_iterations", "num_model_warmup_threads"),
    "string": ("model_name",),
    "int64": ("model_version",),
}
# These numbers count: the server reads the message as its own BatchingParameters.
_BATCHING_FIELDS = (
    *((name, ".google.protobuf.Int64Value") for name in ("max_batch_size", "batch_timeout_micros")),
    *((name, ".google.protobuf.Int64Value") for name in ("max_enqueued_batches", "num_batch_threads")),
    ("thread_pool_name", ".google.protobuf.StringValue"),
    ("allowed_batch_sizes", "sizes"),
    ("pad_variable_length_inputs", "bool"),
    ("enable_large_batch_splitting", ".google.protobuf.BoolValue"),
    ("max_execution_batch_size", ".google.protobuf.Int64Value"),
)


def main(arguments: list[str]) -> int:
    """Prints the message in the file, or why it cannot be read."""
    from google.protobuf import text_format

    kind, file, library = arguments
    text = Path(file).read_text(encoding="utf-8", errors="replace")
    readers = {"session_config": _session_config, "platform_config": _platform_configs}
    try:
        document = readers[kind](text, library)
    except (text_format.ParseError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(document))
    return 0


def _session_config(text: str, library: str) -> dict[str, Any]:
    from google.protobuf import text_format

    config = text_format.Parse(text, _tensorflow("core.protobuf.config_pb2", library).ConfigProto())
    return {"session_config": _encoded(config)}


def _platform_configs(text: str, library: str) -> dict[str, Any]:
    """Returns what each platform's source adapter is configured with."""
    from google.protobuf import descriptor_pool, message_factory, text_format

    _tensorflow("core.protobuf.config_pb2", library)
    pool = descriptor_pool.Default()
    _define_messages(pool)
    platform_map = message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.PlatformConfigMap"))
    adapter = message_factory.GetMessageClass(pool.FindMessageTypeByName(_ADAPTER))
    message: Any = text_format.Parse(text, platform_map(), descriptor_pool=pool)
    platforms = {}
    for name, platform in message.platform_configs.items():
        config: Any = adapter()
        if not platform.source_adapter_config.Unpack(config):
            raise ValueError(f"platform {name} has no {_ADAPTER}")
        platforms[name] = _bundle(config.legacy_config)
    return platforms


def _bundle(config: Any) -> dict[str, Any]:
    given = {
        field.name: list(value) if field.name == "saved_model_tags" else value
        for field, value in config.ListFields()
        if field.message_type is None
    }
    iterations = config.model_warmup_options.num_request_iterations.value
    return given | {
        "session_config": _encoded(config.session_config),
        "batching_parameters": _encoded(config.batching_parameters) if config.HasField("batching_parameters") else None,
        "num_request_iterations": iterations,
    }


def _tensorflow(module: str, library: str) -> Any:
    package = ModuleType("tensorflow")
    package.__path__ = [library]
    sys.modules["tensorflow"] = package
    return importlib.import_module(f"tensorflow.{module}")


def _define_messages(pool: Any) -> None:
    from google.protobuf import any_pb2, wrappers_pb2
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    any_file = any_pb2.DESCRIPTOR.name
    assert wrappers_pb2.DESCRIPTOR.name == _WRAPPERS_FILE
    file = FileDescriptorProto(name="platform.proto", package="tensorflow.serving", syntax="proto3")
    file.dependency.extend((any_file, _WRAPPERS_FILE, _CONFIG_FILE))
    for message, fields in (("SessionBundleConfig", _BUNDLE_FIELDS), ("ModelWarmupOptions", _WARM_UP_FIELDS)):
        definition = file.message_type.add(name=message)
        for kind, names in fields.items():
            for name in names:
                _add_field(definition, name, kind)
    batching = file.message_type.add(name="BatchingParameters")
    for name, kind in _BATCHING_FIELDS:
        _add_field(batching, name, kind)
    _add_field(
        file.message_type.add(name=_ADAPTER.rpartition(".")[2]),
        "legacy_config",
        ".tensorflow.serving.SessionBundleConfig",
    )
    _add_field(file.message_type.add(name="PlatformConfig"), "source_adapter_config", ".google.protobuf.Any")
    platforms = file.message_type.add(name="PlatformConfigMap")
    entry = platforms.nested_type.add(name="PlatformConfigsEntry")
    entry.options.map_entry = True
    _add_field(entry, "key", "string")
    _add_field(entry, "value", ".tensorflow.serving.PlatformConfig")
    _add_field(
        platforms, "platform_configs", ".tensorflow.serving.PlatformConfigMap.PlatformConfigsEntry", repeated=True
    )
    pool.Add(file)


def _add_field(message: DescriptorProto, name: str, kind: str, *, repeated: bool = False) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    scalars = {
        "string": Field.TYPE_STRING,
        "tags": Field.TYPE_STRING,
        "bool": Field.TYPE_BOOL,
        "int32": Field.TYPE_INT32,
        "int64": Field.TYPE_INT64,
        "sizes": Field.TYPE_INT64,
        "uint64": Field.TYPE_UINT64,
    }
    several = repeated or kind in ("tags", "sizes")
    message.field.add(
        name=name,
        number=len(message.field) + 1,
        label=Field.LABEL_REPEATED if several else Field.LABEL_OPTIONAL,
        type=scalars.get(kind, Field.TYPE_MESSAGE),
        type_name=kind if kind.startswith(".") else None,
    )


def _encoded(message: Message) -> str:
    return base64.b64encode(message.SerializeToString()).decode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
