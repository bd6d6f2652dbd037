"""Predict: ask a target's server as its clients do."""

from __future__ import annotations

from deployctl.domain.names import STABLE, ModelName
from deployctl.domain.reference import ByLabel, ByNumber, Reference
from deployctl.domain.revision import Routing
from deployctl.errors import InvalidRequestError, LabelNotFoundError
from deployctl.operations.resolve import resolve
from deployctl.operations.target import Target
from deployctl.serving.interface import Prediction, PredictionRequest, ServedSpec

# server_core.cc
_UNKNOWN_LABEL = "Unrecognized servable version label: "


def served_spec(target: Target, reference: Reference) -> ServedSpec:
    """Returns what a call to `reference` names on `target`.

    A number or a label is left to the server to find; `latest` and digests are looked up in the repository.

    Raises:
        NotFoundError: `latest` or the digest names no version.
    """
    model, selector = reference.model, reference.selector
    if isinstance(selector, ByNumber):
        return ServedSpec(model, version=selector.number)
    if isinstance(selector, ByLabel):
        return ServedSpec(model, label=selector.label)
    return ServedSpec(model, version=resolve(reference, target.repository, labels={}, target=target.name))


def usual_spec(target: Target, model: ModelName) -> ServedSpec:
    """Returns what the target's clients name when they call `model`."""
    return ServedSpec(model, label=STABLE) if target.routing is Routing.LABEL else ServedSpec(model)


def predict(target: Target, request: PredictionRequest, *, grpc: bool, timeout_s: float) -> Prediction:
    """Returns what the target's server answers.

    Raises:
        LabelNotFoundError: the target has no such label. TensorFlow Serving calls that a malformed request.
        InvalidRequestError, NotFoundError, ServerError: see `ServingRuntime.predict`.
    """
    try:
        return target.runtime.predict(request, grpc=grpc, timeout_s=timeout_s)
    except InvalidRequestError as error:
        label = request.spec.label
        if label is None or f"{_UNKNOWN_LABEL}{label}" not in str(error):
            raise
        raise LabelNotFoundError(request.spec.model, label, target.name) from error
