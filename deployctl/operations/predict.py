"""Predict: ask a target's server as its clients do."""

from __future__ import annotations

from deployctl.domain.names import STABLE, LabelName, ModelName
from deployctl.domain.reference import ByLabel, ByNumber, Reference
from deployctl.domain.revision import Routing
from deployctl.domain.serving import ServerCondition
from deployctl.errors import (
    InvalidRequestError,
    LabelNotFoundError,
    ModelNotFoundError,
    NotFoundError,
    ServerUnavailableError,
)
from deployctl.operations.leased import CALL_TIMEOUT_S
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
        NotFoundError: the target does not serve the model, the version or the label; TensorFlow Serving calls the
            last a malformed request.
        InvalidRequestError, ServerError: see `ServingRuntime.predict`.
    """
    try:
        return target.runtime.predict(request, grpc=grpc, timeout_s=timeout_s)
    except NotFoundError as error:
        error.hint = error.hint or f"deployctl status {target.name}"
        raise
    except InvalidRequestError as error:
        label = request.spec.label
        if label is None or f"{_UNKNOWN_LABEL}{label}" not in str(error):
            raise
        raise _without_label(target, request.spec.model, label) from error
    except ServerUnavailableError as error:
        state = target.runtime.state(timeout_s=timeout_s)
        if state.condition is not ServerCondition.STOPPED:
            raise
        raise ServerUnavailableError(f"the server of {target.name} is stopped", hint=error.hint) from error


def _without_label(target: Target, model: ModelName, label: LabelName) -> NotFoundError:
    if target.runtime.statuses(model, timeout_s=CALL_TIMEOUT_S):
        return LabelNotFoundError(model, label, target.name)
    if not target.repository.versions(model):
        return ModelNotFoundError(model)
    return NotFoundError(f"{model} is not served on {target.name}", hint=f"deployctl promote {model}@latest")
