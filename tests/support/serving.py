"""What tests of serving share: upstream's models as versions of a repository, and waiting for what a server says."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployctl.domain.names import LabelName, ModelName, VersionNumber
from deployctl.domain.serving import ServedModel, ServingConfig, VersionState, VersionStatus
from deployctl.serving.interface import PredictionRequest, ServedSpec, ServingRuntime
from tests.support.models import UPSTREAM

# y = x/2 + 2, and y = x/2 + 3
HALF_PLUS_TWO = UPSTREAM / "saved_model_half_plus_two_cpu" / "00000123"
HALF_PLUS_THREE = UPSTREAM / "saved_model_half_plus_three" / "00000123"

# Generous: the machine may be busy with other tests.
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Place:
    """A target that is not up yet, and the directory of the models that it can see.

    Attributes:
        again: makes another runtime of the same target, as the next command would.
    """

    runtime: ServingRuntime
    models: Path
    again: Callable[[], ServingRuntime]

    def add(self, export: Path, name: str, version: int) -> Path:
        """Copies `export` to where version `version` of model `name` is."""
        return shutil.copytree(export, self.models / name / str(version))

    def add_broken(self, name: str, version: int) -> Path:
        """Adds a version that no server can load: its variables are cut short."""
        directory = self.add(HALF_PLUS_TWO, name, version)
        data = directory / "variables" / "variables.data-00000-of-00001"
        data.write_bytes(data.read_bytes()[:-4])
        return directory

    def model(self, name: str, *versions: int, **labels: int) -> ServedModel:
        """Returns the part of a configuration that serves these versions of `name`."""
        return ServedModel(
            ModelName(name),
            self.runtime.served_path(self.models / name),
            tuple(VersionNumber(version) for version in versions),
            {LabelName(label): VersionNumber(version) for label, version in labels.items()},
        )

    def config(self, name: str, *versions: int, **labels: int) -> ServingConfig:
        """Returns a configuration of this one model."""
        return ServingConfig((self.model(name, *versions, **labels),))


def spec(name: str, *, version: int | None = None, label: str | None = None) -> ServedSpec:
    """Returns what to call."""
    return ServedSpec(
        ModelName(name),
        None if version is None else VersionNumber(version),
        None if label is None else LabelName(label),
    )


def answer(runtime: ServingRuntime, called: ServedSpec, *, grpc: bool, x: float = 2.0) -> Any:
    """Returns what the model answers to `x`."""
    request = PredictionRequest(called, instances=[x])
    return runtime.predict(request, grpc=grpc, timeout_s=TIMEOUT_S).outputs[0]


def await_status(
    runtime: ServingRuntime, name: str, version: int, reached: Callable[[VersionStatus], bool]
) -> VersionStatus:
    """Returns what the server says of a version once that is `reached`; fails after a minute."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        statuses = runtime.statuses(ModelName(name), timeout_s=TIMEOUT_S)
        for status in statuses:
            if status.version == version and reached(status):
                return status
        assert time.monotonic() < deadline, f"{name}@{version} is not there yet: {statuses}"
        threading.Event().wait(0.02)


def await_available(runtime: ServingRuntime, name: str, version: int) -> VersionStatus:
    """Returns once the version is loaded."""
    return await_status(runtime, name, version, lambda status: status.state is VersionState.AVAILABLE)


def await_end(runtime: ServingRuntime, name: str, version: int) -> VersionStatus:
    """Returns once the version is unloaded, or has failed."""
    return await_status(runtime, name, version, lambda status: status.state is VersionState.END)
