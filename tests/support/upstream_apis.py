"""The official `tensorflow-serving-api` messages and stubs, without TensorFlow behind them.

`tensorflow_serving.apis` imports message modules from the `tensorflow` package, whose own `__init__` takes seconds and
may not run in a process that has TensorFlow's C library loaded. The message modules need none of that: they are
imported here through a bare package in its place, which is gone afterwards.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
import warnings
from typing import Any

_MODULES = (
    "classification_pb2",
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "inference_pb2",
    "input_pb2",
    "model_management_pb2",
    "model_pb2",
    "model_service_pb2_grpc",
    "predict_pb2",
    "prediction_log_pb2",
    "prediction_service_pb2_grpc",
    "regression_pb2",
)


@functools.cache
def official_apis() -> types.SimpleNamespace:
    """Returns the modules of `tensorflow_serving.apis` by name, and `tensor_pb2`, `types_pb2`, `example_pb2`."""
    with _bare_tensorflow(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules: dict[str, Any] = {
            name: importlib.import_module(f"tensorflow_serving.apis.{name}") for name in _MODULES
        }
        modules["model_server_config_pb2"] = importlib.import_module(
            "tensorflow_serving.config.model_server_config_pb2"
        )
        for name in ("tensor_pb2", "types_pb2"):
            modules[name] = importlib.import_module(f"tensorflow.core.framework.{name}")
        modules["example_pb2"] = importlib.import_module("tensorflow.core.example.example_pb2")
    return types.SimpleNamespace(**modules)


class _bare_tensorflow:  # noqa: N801 - used like a function
    def __enter__(self) -> None:
        self._before = sys.modules.get("tensorflow")
        if self._before is not None:
            return
        spec = importlib.util.find_spec("tensorflow")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        bare = types.ModuleType("tensorflow")
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules["tensorflow"] = bare

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            del sys.modules["tensorflow"]
