"""A ServerCore over NumPy functions: the real interface without TensorFlow."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from deployctl.domain.saved_model import CLASSIFY_METHOD, PREDICT_METHOD, REGRESS_METHOD, Signature, TensorSpec
from deployctl.domain.serving import ServingConfig, VersionState
from deployctl.modelserver.interface import (
    Code,
    InferenceTask,
    ModelSpec,
    Servable,
    ServerCore,
    StatusError,
    VersionReport,
)
from deployctl.protos import example_pb2, saved_model_pb2, serving_pb2, tensor_pb2

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Inference, Tensor

ECHO_TYPES = (
    "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "bool", "string",
    "float16", "complex64", "uint16",
)  # fmt: skip
_WIRE_TYPES = {"float32": tensor_pb2.DT_FLOAT, "string": tensor_pb2.DT_STRING}


def _predict(inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Signature:
    return Signature(
        PREDICT_METHOD,
        {name: TensorSpec(dtype, (None,), f"{name}:0") for name, dtype in inputs.items()},
        {name: TensorSpec(dtype, (None,), f"{name}:0") for name, dtype in outputs.items()},
    )


def _over_examples(method: str, output: str) -> Signature:
    return Signature(
        method,
        {"inputs": TensorSpec("string", None, "tf_example:0")},
        {output: TensorSpec("float32", (None, 1), "y:0")},
    )


class HalfPlusTwo(Servable):
    """y = x / 2 + 2, the regress and classify signatures of upstream's model, and signatures for odd cases.

    Attributes:
        entered: set when a "slow" call has begun.
        gate: what a "slow" call waits for, 30 s at most.
    """

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self.entered = threading.Event()
        self.gate = threading.Event()
        self._signatures = {
            "serving_default": _predict({"x": "float32"}, {"y": "float32"}),
            "slow": _predict({"x": "float32"}, {"y": "float32"}),
            "hostile": _predict({"x": "float32"}, {"y": "float32"}),
            "failing": _predict({"code": "int32"}, {"y": "float32"}),
            "sum": _predict({"a": "float32", "b": "int32"}, {"total": "float32", "count_bytes": "string"}),
            "ragged": _predict({"x": "float32"}, {"one": "float32", "two": "float32"}),
            "scalar": _predict({"x": "float32"}, {"y": "float32"}),
            "empty": _predict({}, {"y": "float32"}),
            "regress_x_to_y": _over_examples(REGRESS_METHOD, "outputs"),
            "classify_x_to_y": _over_examples(CLASSIFY_METHOD, "scores"),
        }
        for dtype in ECHO_TYPES:
            self._signatures[f"echo_{dtype}"] = _predict({"x": dtype}, {"y": dtype})
        self._signatures["echo_b64"] = _predict({"x": "string"}, {"y_bytes": "string"})

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self._signatures

    @property
    def signature_def_map(self) -> bytes:
        wire = serving_pb2.SignatureDefMap()
        for key in ("serving_default", "regress_x_to_y"):
            signature = self._signatures[key]
            definition = wire.signature_def[key]
            definition.method_name = signature.method
            for specs, infos in ((signature.inputs, definition.inputs), (signature.outputs, definition.outputs)):
                for name, spec in specs.items():
                    _fill_info(infos[name], spec)
        return wire.SerializeToString(deterministic=True)

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, Tensor],
        output_filter: Sequence[str],
        *,
        timeout_s: float | None,
    ) -> dict[str, Tensor]:
        if signature_name == "slow":
            self.entered.set()
            if not self.gate.wait(min(30.0, timeout_s or 30.0)):
                raise StatusError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
        if signature_name == "hostile":
            raise RuntimeError("a fault of ours")
        if signature_name == "failing":
            raise StatusError(Code(int(inputs["code"].ravel()[0])), 'as asked: "quoted"\n')
        if signature_name == "sum":
            total = inputs["a"] + inputs["b"].astype(np.float32)
            count = np.array([str(int(value)).encode() for value in inputs["b"].ravel()], object)
            return {"total": total, "count_bytes": count.reshape(inputs["b"].shape)}
        if signature_name == "ragged":
            return {"one": inputs["x"], "two": inputs["x"][:1]}
        if signature_name == "scalar":
            return {"y": np.asarray(inputs["x"]).sum(dtype=np.float32)}
        if signature_name == "echo_b64":
            return {"y_bytes": inputs["x"]}
        if signature_name.startswith("echo_"):
            return {"y": inputs["x"]}
        return {"y": (np.asarray(inputs["x"], np.float32) / 2 + 2).astype(np.float32)}

    def classify(
        self, signature_name: str, examples: Sequence[bytes], *, timeout_s: float | None
    ) -> list[list[tuple[str, float]]]:
        return [[("", value)] for value in self.regress(signature_name, examples, timeout_s=timeout_s)]

    def regress(self, signature_name: str, examples: Sequence[bytes], *, timeout_s: float | None) -> list[float]:
        parsed = [example_pb2.Example.FromString(example) for example in examples]
        return [example.features.feature["x"].float_list.value[0] / 2 + 2 for example in parsed]

    def infer(
        self, tasks: Sequence[InferenceTask], examples: Sequence[bytes], *, timeout_s: float | None
    ) -> list[Inference]:
        return [
            self.classify(task.signature_name, examples, timeout_s=timeout_s)
            if task.method == CLASSIFY_METHOD
            else self.regress(task.signature_name, examples, timeout_s=timeout_s)
            for task in tasks
        ]


def _fill_info(info: saved_model_pb2.TensorInfo, spec: TensorSpec) -> None:
    info.name = spec.tensor
    info.dtype = _WIRE_TYPES[spec.dtype]
    if spec.shape is None:
        info.tensor_shape.unknown_rank = True
    for size in spec.shape or ():
        info.tensor_shape.dim.add(size=-1 if size is None else size)


class MemoryCore(ServerCore):
    """Serves `servables`; the highest version of a name is its default."""

    def __init__(self, *servables: Servable, labels: Mapping[tuple[str, str], int] | None = None) -> None:
        self._servables = {(servable.name, servable.version): servable for servable in servables}
        self._labels = dict(labels or {})

    @contextmanager
    def servable(self, spec: ModelSpec) -> Iterator[Servable]:
        version = spec.version
        if spec.label is not None:
            version = self._labels.get((spec.name, spec.label))
            if version is None:
                raise StatusError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {spec.label}")
        elif version is None:
            version = max((number for name, number in self._servables if name == spec.name), default=None)
        found = None if version is None else self._servables.get((spec.name, version))
        if found is None:
            wanted = f"Latest({spec.name})" if spec.version is None else f"Specific({spec.name}, {spec.version})"
            raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")
        yield found

    def model_status(self, name: str, version: int | None) -> tuple[VersionReport, ...]:
        versions = sorted((number for known, number in self._servables if known == name), reverse=True)
        if not versions:
            raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        if version is not None and version not in versions:
            raise StatusError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
        return tuple(VersionReport(number, VersionState.AVAILABLE) for number in versions if version in (None, number))

    def reload(self, config: ServingConfig) -> None:
        raise StatusError(Code.UNIMPLEMENTED, "this core serves what it was made with")
