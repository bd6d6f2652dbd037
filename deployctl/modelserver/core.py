"""The server's core: which version a call means, what is configured, and how a new configuration is adopted.

The codes and words of tensorflow_serving/model_servers/server_core.cc.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from deployctl.domain.serving import ServingConfig, VersionState
from deployctl.modelserver.interface import Code, ModelSpec, Servable, ServerCore, StatusError, VersionReport
from deployctl.modelserver.lifecycle import Lifecycle, LifecycleOptions, Loader
from deployctl.modelserver.model_config import ConfiguredModel, check_models, models_of
from deployctl.modelserver.source import VersionSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CoreOptions:
    """How the core goes about.

    Attributes:
        poll_wait_s: between looks at the file system; 0 looks only when told, negative never.
        load_timeout_s: how long a configured model may have no version at all before a start or reload that waits
            for it gives up. TensorFlow Serving waits for ever.
        allow_labels_for_unavailable: a label that is not in use may point to a version that is not AVAILABLE.
    """

    poll_wait_s: float = 1.0
    load_timeout_s: float = 60.0
    allow_labels_for_unavailable: bool = False


class ModelServerCore(ServerCore):
    """The models that this process serves."""

    def __init__(self, loader: Loader, lifecycle: LifecycleOptions, options: CoreOptions) -> None:
        self._options = options
        self._lifecycle = Lifecycle(loader, lifecycle)
        self._source = VersionSource(self._lifecycle.set_aspired, poll_wait_s=options.poll_wait_s)
        self._reloading = threading.Lock()
        self._models: tuple[ConfiguredModel, ...] = ()
        self._labels: Mapping[str, Mapping[str, int]] | None = None

    def start(self, models: Sequence[ConfiguredModel]) -> None:
        """Serves `models`, and returns once each has a version that answers.

        Raises:
            StatusError: a model's newest version failed, or none turned up in time, or the configuration is wrong.
        """
        self._lifecycle.set_load_threads(4 * (os.cpu_count() or 1))
        try:
            since, _ = self._adopt(models)
            self._wait("servable", {model.name for model in models}, since)
        finally:
            self._lifecycle.set_load_threads(None)

    def servable(self, spec: ModelSpec) -> AbstractContextManager[Servable]:
        """Holds the servable that `spec` means, so that it is not unloaded while the block runs."""
        if not spec.name:
            raise StatusError(Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        version = spec.version
        if version is None and spec.label is not None:
            version = self._labelled(spec.name, spec.label)
        return self._lifecycle.hold(spec.name, version)

    def model_status(self, name: str, version: int | None) -> tuple[VersionReport, ...]:
        """Returns every version of `name` that this process has seen, descending, or just `version`."""
        reports = self._lifecycle.states.versions(name)
        if version is not None:
            reports = tuple(report for report in reports if report.version == version)
            if not reports:
                raise StatusError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
        if not reports:
            raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        return reports

    def reload(self, config: ServingConfig) -> None:
        """Serves what `config` says from now on."""
        self.reload_models(models_of(config))

    def reload_models(self, models: Sequence[ConfiguredModel]) -> None:
        """Serves `models` from now on; waits only for models that were not configured before.

        Raises:
            StatusError: INVALID_ARGUMENT or FAILED_PRECONDITION, and nothing changed; UNKNOWN or DEADLINE_EXCEEDED
                when a new model did not become available, and the configuration stays adopted.
        """
        since, new = self._adopt(models)
        # Waiting holds no lock, so that a later reload can mend what this one waits for.
        self._wait("model", new, since)

    def stop(self, *, timeout_s: float) -> None:
        """Stops looking and loading, and unloads everything that nobody holds."""
        self._source.stop()
        self._lifecycle.stop(timeout_s=timeout_s)

    def _adopt(self, models: Sequence[ConfiguredModel]) -> tuple[int, set[str]]:
        with self._reloading:
            check_models(models, self._models)
            labels = self._checked_labels(models)
            known = {model.name for model in self._models}
            since = self._lifecycle.states.serial
            self._models = tuple(models)
            self._labels = labels
            for model in models:
                logger.info(" (Re-)adding model: %s", model.name)
            self._source.configure(models)
        return since, {model.name for model in models} - known

    def _checked_labels(self, models: Sequence[ConfiguredModel]) -> dict[str, dict[str, int]]:
        for model in models:
            for label, version in model.labels.items():
                if not self._may_label(model.name, label, version):
                    raise StatusError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {model.name}, which is not currently "
                        "available for inference",
                    )
        return {model.name: dict(model.labels) for model in models if model.labels}

    def _may_label(self, name: str, label: str, version: int) -> bool:
        if self._lifecycle.states.available(name, version):
            return True
        current = (self._labels or {}).get(name, {}).get(label)
        return self._options.allow_labels_for_unavailable and current in (None, version)

    def _labelled(self, name: str, label: str) -> int:
        if self._labels is None:
            raise StatusError(Code.UNAVAILABLE, f"Model labels does not init yet.{label}")
        version = self._labels.get(name, {}).get(label)
        if version is None:
            raise StatusError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        return version

    def _wait(self, noun: str, names: set[str], since: int) -> None:
        settled = self._lifecycle.states.wait_settled(names, since=since, idle_timeout_s=self._options.load_timeout_s)
        failed = {
            name: report
            for name, report in sorted(settled.items())
            if report is None or report.state is not VersionState.AVAILABLE
        }
        if failed:
            timed_out = any(report is None for report in failed.values())
            listed = "".join(f"{{{self._failure(name, report)}}}, " for name, report in failed.items())
            raise StatusError(
                Code.DEADLINE_EXCEEDED if timed_out else Code.UNKNOWN,
                f"{len(failed)} {noun}(s) did not become available: {{{listed}}}",
            )

    def _failure(self, name: str, report: VersionReport | None) -> str:
        if report is None:
            reason = self._source.last_error or "no version was found"
            return f"{{name: {name}}} due to error: {reason} (waited {self._options.load_timeout_s:g} s)"
        return f"{{name: {name} version: {report.version}}} due to error: {report.code.name}: {report.message}"
