"""What the server's front ends (gRPC, REST) may ask of its core; they know nothing else of each other."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from deployctl.domain.saved_model import Signature
from deployctl.domain.serving import ServingConfig, VersionState

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tensor = NDArray[np.generic]
    """String tensors are object arrays of `bytes`."""
    Classification = list[list[tuple[str, float]]]
    """For each example, (label, score) pairs."""
    Regression = list[float]
    Inference = Classification | Regression


class Code(IntEnum):
    """Canonical status codes (tensorflow.error.Code, the same numbers as gRPC's)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class StatusError(Exception):
    """A call's failure, in the code and words that TensorFlow Serving would give."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which servable a call means: by version, by label, or, with neither, the highest available version."""

    name: str
    version: int | None = None
    label: str | None = None
    signature_name: str = ""


@dataclass(frozen=True, slots=True)
class InferenceTask:
    """One question of a MultiInference: `method` is a signature's method name, Classify's or Regress's."""

    signature_name: str
    method: str


@dataclass(frozen=True, slots=True)
class VersionReport:
    """One line of GetModelStatus."""

    version: int
    state: VersionState
    code: Code = Code.OK
    message: str = ""


class Servable(abc.ABC):
    """A loaded version, kept loaded for as long as the caller holds it."""

    name: str
    version: int

    @property
    @abc.abstractmethod
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures of the MetaGraph that was loaded, internal ones included."""

    @property
    @abc.abstractmethod
    def signature_def_map(self) -> bytes:
        """A serialized tensorflow.serving.SignatureDefMap with every field as the model has it."""

    @abc.abstractmethod
    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, Tensor],
        output_filter: Sequence[str],
        *,
        timeout_s: float | None,
    ) -> dict[str, Tensor]:
        """Runs a signature; "" means serving_default. Inputs and outputs are named as in the signature."""

    def predict_soon(
        self,
        signature_name: str,
        inputs: Mapping[str, Tensor],
        output_filter: Sequence[str],
        *,
        timeout_s: float | None,
    ) -> Awaitable[dict[str, Tensor]] | None:
        """Starts `predict` without holding up the event loop that calls; None where only `predict` will do.

        The caller holds the servable until the result is there.
        """
        return None

    @abc.abstractmethod
    def classify(
        self, signature_name: str, examples: Sequence[bytes], *, timeout_s: float | None
    ) -> list[list[tuple[str, float]]]:
        """Runs a Classify signature over serialized tf.Example; (label, score) pairs for each example."""

    @abc.abstractmethod
    def regress(self, signature_name: str, examples: Sequence[bytes], *, timeout_s: float | None) -> list[float]:
        """Runs a Regress signature over serialized tf.Example; one value for each example."""

    @abc.abstractmethod
    def infer(
        self, tasks: Sequence[InferenceTask], examples: Sequence[bytes], *, timeout_s: float | None
    ) -> list[Inference]:
        """Answers all `tasks` about the same serialized tf.Examples by one run; each as `classify` or `regress`."""


class ServerCore(abc.ABC):
    """The models that the process serves. Every method raises StatusError and may be called from any thread."""

    @abc.abstractmethod
    def servable(self, spec: ModelSpec) -> AbstractContextManager[Servable]:
        """Holds the servable that `spec` means, so that it is not unloaded while the block runs."""

    @abc.abstractmethod
    def model_status(self, name: str, version: int | None) -> tuple[VersionReport, ...]:
        """Returns every version of `name` that this process has seen, descending, or just `version`."""

    @abc.abstractmethod
    def reload(self, config: ServingConfig) -> None:
        """Serves what `config` says from now on; see HandleReloadConfigRequest."""

    def knows(self, name: str) -> bool:
        """Whether this process has seen any version of `name`."""
        try:
            self.model_status(name, None)
        except StatusError:
            return False
        return True
