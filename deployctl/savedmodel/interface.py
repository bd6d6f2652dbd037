"""The port to SavedModel directories on local disk."""

from __future__ import annotations

import abc
from pathlib import Path

from deployctl.domain.saved_model import SavedModel


class SavedModelReader(abc.ABC):
    """Reads what a SavedModel declares, without running any of it."""

    @abc.abstractmethod
    def read(self, path: Path) -> SavedModel:
        """Returns what the SavedModel in directory `path` declares.

        Raises:
            NotASavedModelError: there is neither saved_model.pb nor saved_model.pbtxt.
            MalformedSavedModelError: the file does not parse, or holds no MetaGraph.
            UnreadableExportError: the file cannot be read.
        """

    @abc.abstractmethod
    def check_complete(self, path: Path, model: SavedModel) -> None:
        """Returns if every file that loading `model` needs is in `path`, whole.

        TensorFlow Serving itself loads a copy without variables.index "successfully", with no weights
        (tensorflow/serving#1086).

        Raises:
            VariablesMissingError: variables are restored, but the index or a data shard is absent.
            VariablesTruncatedError: the index cannot be read, or a shard is shorter than the index says.
            AssetMissingError: a listed asset is absent.
            UnsafeExportError: the name of a listed asset leads out of `assets/`.
        """
