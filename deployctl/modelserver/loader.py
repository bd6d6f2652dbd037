"""Loads a version directory into a TensorFlow session and proves it with the model's warm-up requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.lifecycle import LoadedServable, Loader
from deployctl.modelserver.servable import TensorFlowServable
from deployctl.modelserver.session import Session, SessionOptions


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """How versions are loaded.

    Attributes:
        session: how sessions are made.
        check_method_names: refuse Predict on signatures whose method is none of TensorFlow Serving's.
    """

    session: SessionOptions = field(default_factory=SessionOptions)
    check_method_names: bool = False


class SavedModelLoader(Loader):
    """Loads SavedModels."""

    def __init__(self, options: LoaderOptions) -> None:
        self._options = options

    def load(self, name: str, version: int, path: str) -> LoadedServable:
        """Returns the version, loaded and warmed up."""
        try:
            session = Session(path, self._options.session)
        except ValueError as error:
            raise StatusError(Code.DATA_LOSS, f"The MetaGraphDef in {path} cannot be read: {error}") from error
        return TensorFlowServable(name, version, session, check_method_names=self._options.check_method_names)
