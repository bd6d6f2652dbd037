"""Refuses what need not be loaded to be refused, before TensorFlow is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deployctl.convert.keras_file import refuse_lambdas
from deployctl.savedmodel.source import SourceKind


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Answers "convert"; see `deployctl.convert.conversion`."""
    for source in request["sources"]:
        if source["kind"] in (SourceKind.KERAS, SourceKind.KERAS_H5):
            refuse_lambdas(Path(source["path"]), request["allow_lambda"])
    from deployctl.convert import conversion

    return conversion.run(request)
