"""The operations of TensorFlow Text, which `tensorflow_model_server` has built in, from its wheel if that is there."""

from __future__ import annotations

import functools
import importlib.util
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.modelserver.interface import StatusError

if TYPE_CHECKING:
    from deployctl.modelserver.capi import CApi

logger = logging.getLogger(__name__)

_PACKAGE = "tensorflow_text"


class TextOps:
    """Registers the operations, once for the process and only when a model wants some that TensorFlow does not know."""

    def __init__(self, package: str = _PACKAGE) -> None:
        self._package = package
        self._lock = threading.Lock()
        self._registered = False

    def register(self, api: CApi) -> bool:
        """Whether the operations are registered now; False where the package is not installed, or is of no use."""
        with self._lock:
            if self._registered:
                return True
            # The libraries alone: importing the package would import TensorFlow's.
            libraries = _libraries(self._package)
            if not libraries:
                return False
            for library in libraries:
                status = api.new_status()
                api.load_library(str(library).encode(), status)
                try:
                    api.raise_for(status)
                except StatusError as error:
                    logger.warning("%s cannot be used: %s", library, error.message)
                    return False
            logger.info("registered the operations of %s", self._package)
            self._registered = True
            return True


@functools.cache
def text_ops() -> TextOps:
    """Returns the operations of this process."""
    return TextOps()


def _libraries(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return []
    return sorted(Path(spec.submodule_search_locations[0], "python", "ops").glob("_*.so"))
