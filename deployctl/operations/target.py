"""One target with all that acting on it needs: its server, its record, its rules, and the lock around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deployctl.domain.names import ModelName, TargetName
from deployctl.domain.revision import Desired, Revision, Routing
from deployctl.domain.serving import ServedModel, ServingConfig
from deployctl.errors import StorageError
from deployctl.lineage.interface import LineageStore
from deployctl.repository.interface import ModelRepository
from deployctl.serving.interface import ServingRuntime, TargetLock


@dataclass(frozen=True, slots=True)
class Target:
    """A named place that serves.

    Attributes:
        runtime_name: as in the settings, for the record.
        warm_standby: how many earlier versions stay loaded after a change.
        resource_preserving: models too big to be in memory twice; "*" for all.
        soak_s: for how many seconds a revision must have served to be known good.
        free_bytes: tells what the server may still use, None where that is not known.
        lock_timeout_s: how long to wait for another operation on this target.
    """

    name: TargetName
    runtime_name: str
    runtime: ServingRuntime
    repository: ModelRepository
    lineage: LineageStore
    lock: TargetLock
    routing: Routing
    warm_standby: int
    lock_timeout_s: float
    resource_preserving: tuple[str, ...] = ()
    soak_s: float = 0.0
    free_bytes: Callable[[], int | None] = lambda: None

    def recorded(self) -> dict[ModelName, Revision]:
        """Returns the newest revision that served, by model."""
        return {revision.model: revision for revision in self.lineage.current(self.name)}

    def lets_go_first(self, model: ModelName) -> bool:
        """Whether the old version of `model` is let go before the new one is loaded, at the price of a gap."""
        return model in self.resource_preserving or "*" in self.resource_preserving

    def standby_of(self, model: ModelName) -> int:
        """Returns how many earlier versions of `model` stay loaded after a change."""
        return 0 if self.lets_go_first(model) else self.warm_standby

    def current(self, model: ModelName) -> Revision | None:
        """Returns the newest revision of `model` that served."""
        return self.recorded().get(model)

    def config(self, desired: dict[ModelName, Desired]) -> ServingConfig:
        """Returns what the server is told for `desired`; standby versions whose directories are gone are left out.

        Raises:
            StorageError: another version directory is gone. It is looked for here because one missing base path keeps
                TensorFlow Serving from finding versions of any model (tensorflow/serving#2189).
        """
        models = []
        for model, recorded in sorted(desired.items()):
            state = self.servable(model, recorded)
            if not state.versions:
                continue
            self._check_present(model, state)
            base_path = self.runtime.served_path(self.repository.base_path(model))
            models.append(ServedModel(model, base_path, state.versions, state.labels))
        return ServingConfig(tuple(models))

    def recorded_config(self) -> ServingConfig:
        """Returns what the server should serve by the record."""
        return self.config({model: revision.desired for model, revision in self.recorded().items()})

    def servable(self, model: ModelName, state: Desired) -> Desired:
        """Returns `state` without the standby versions whose directories are gone: no client calls those."""
        return state.without(
            [each for each in state.standby(self.routing) if not self.repository.is_local(model, each)]
        )

    def _check_present(self, model: ModelName, state: Desired) -> None:
        missing = {version for version in state.versions if not self.repository.is_local(model, version)}
        if missing:
            raise StorageError(
                f"{model}@{min(missing)} should be served on {self.name}, but its directory is gone from "
                f"{self.repository.base_path(model)}",
                hint=f"deployctl status {self.name}",
            )
