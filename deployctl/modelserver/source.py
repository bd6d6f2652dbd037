"""Looks into the models' base paths from time to time and says which versions should be served."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from deployctl.modelserver.model_config import ConfiguredModel
from deployctl.modelserver.versions import BasePathMissingError, aspired_versions

logger = logging.getLogger(__name__)


class VersionSource:
    """Polls in a thread of its own.

    As in TensorFlow Serving, a poll that meets a missing base path says nothing of any model: what is served stays,
    and nothing new is found until the path is there. Unlike there, a new configuration is looked at at once, also
    when the interval is 0 (poll only when told).
    """

    def __init__(self, emit: Callable[[str, Mapping[int, str]], None], *, poll_wait_s: float) -> None:
        self._emit = emit
        self._poll_wait_s = poll_wait_s
        self._condition = threading.Condition()
        self._models: tuple[ConfiguredModel, ...] = ()
        self._due = False
        self._stopping = False
        self._last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="version source", daemon=True)
        if poll_wait_s >= 0:
            self._thread.start()

    @property
    def last_error(self) -> str | None:
        """Why the last poll said nothing, or None."""
        return self._last_error

    def configure(self, models: Sequence[ConfiguredModel]) -> None:
        """Replaces what is looked at; models that are gone are given up at once."""
        with self._condition:
            kept = {model.name for model in models}
            gone = [model.name for model in self._models if model.name not in kept]
            self._models = tuple(models)
            for name in gone:
                self._emit(name, {})
            self._due = True
            self._condition.notify_all()

    def stop(self) -> None:
        """Ends the thread; a poll under way ends first."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        interval = self._poll_wait_s or None
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._due or self._stopping, interval)
                if self._stopping:
                    return
                self._due = False
                models = self._models
            self._poll(models)

    def _poll(self, models: Sequence[ConfiguredModel]) -> None:
        try:
            found = {model.name: aspired_versions(model) for model in models}
        except BasePathMissingError as error:
            self._last_error = str(error)
            logger.error("FileSystemStoragePathSource encountered a filesystem access error: %s", error)
            return
        self._last_error = None
        with self._condition:
            # A configuration that came meanwhile rules; its own poll follows.
            if models is self._models:
                for name, versions in found.items():
                    self._emit(name, versions)
