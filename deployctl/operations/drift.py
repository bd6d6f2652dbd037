"""Drift: how what a server serves, and starts from, differs from what is recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deployctl.domain.names import ModelName, VersionNumber
from deployctl.domain.revision import Desired
from deployctl.domain.serving import ServedModel, ServingConfig, VersionState, VersionStatus
from deployctl.errors import InvalidRequestError, NotFoundError, ServerRefusedError, SettingsError, StorageError
from deployctl.operations.target import Target
from deployctl.serving.interface import ServedSpec

_ON_ITS_WAY = frozenset({VersionState.START, VersionState.LOADING})


def version_drift(desired: Sequence[VersionNumber], statuses: Sequence[VersionStatus]) -> tuple[str, ...]:
    """Returns how the versions that a server has of a model differ from the `desired` ones, one sentence each."""
    states = {status.version: status for status in statuses}
    words = []
    for version in desired:
        status = states.get(version)
        if status is None:
            words.append(f"@{version} is recorded, but the server does not know it")
        elif status.failed:
            words.append(f"@{version} failed: {status.error}")
        elif status.state is not VersionState.AVAILABLE:
            words.append(f"@{version} is {status.state.name}")
    loaded = {version for version, status in states.items() if status.state is VersionState.AVAILABLE}
    words += [f"@{version} is served, but not recorded" for version in sorted(loaded - set(desired))]
    return tuple(words)


def model_drift(
    target: Target, model: ModelName, desired: Desired, statuses: Sequence[VersionStatus], *, timeout_s: float
) -> tuple[str, ...]:
    """Returns how the versions and labels that a server has of a model differ from `desired`, one sentence each.

    Raises:
        ServerError: the server does not answer.
    """
    return (*version_drift(desired.versions, statuses), *_label_drift(target, model, desired, statuses, timeout_s))


def drift(target: Target, *, timeout_s: float) -> tuple[str, ...]:
    """Returns how a server that answers, and the file that it starts from, differ from the record, one sentence each.

    What is being loaded is on its way, and no difference; nor is a standby version whose directory is gone, which
    nothing can bring back. A server tells only of models that it is asked for by name: one that is not recorded is
    seen in the file alone.

    Raises:
        ServerError: the server does not answer.
    """
    words: list[str] = []
    for model, revision in target.recorded().items():
        desired = target.servable(model, revision.desired)
        statuses = target.runtime.statuses(model, timeout_s=timeout_s)
        coming = {each.version for each in statuses if each.state in _ON_ITS_WAY}
        settled = [version for version in desired.versions if version not in coming]
        found = model_drift(target, model, Desired(tuple(settled), desired.labels), statuses, timeout_s=timeout_s)
        words += [f"{model}{each}" if each.startswith("@") else f"{model}: {each}" for each in found]
    return (*words, *file_drift(target))


def lost(target: Target, *, timeout_s: float) -> dict[ModelName, tuple[VersionNumber, ...]]:
    """Returns the standby versions that should be loaded and are not, by model."""
    found = {}
    for model, revision in target.recorded().items():
        standby = target.servable(model, revision.desired).standby(target.routing)
        statuses = target.runtime.statuses(model, timeout_s=timeout_s) if standby else ()
        there = {each.version for each in statuses if each.state in {*_ON_ITS_WAY, VersionState.AVAILABLE}}
        found[model] = tuple(version for version in standby if version not in there)
    return {model: versions for model, versions in found.items() if versions}


def _label_drift(
    target: Target, model: ModelName, desired: Desired, statuses: Sequence[VersionStatus], timeout_s: float
) -> Iterator[str]:
    available = {each.version for each in statuses if each.state is VersionState.AVAILABLE}
    for label, version in desired.labels.items():
        if version not in available:
            continue
        try:
            answering, _ = target.runtime.answering_version(ServedSpec(model, label=label), timeout_s=timeout_s)
        except (NotFoundError, InvalidRequestError, ServerRefusedError):
            yield f"label {label} is at @{version} by the record, and answers nothing"
        else:
            if answering != version:
                yield f"label {label} is at @{version} by the record, and @{answering} answers"


def file_drift(target: Target) -> Iterator[str]:
    """Gives how the file that the server starts from differs from the record, one sentence each."""
    try:
        written, recorded = target.runtime.written(), target.recorded_config()
    except SettingsError as error:
        yield f"the file that the server starts from: {error}"
        return
    except StorageError as error:
        yield str(error)
        return
    if written is None or written == recorded:
        return
    there, wanted = _by_name(written), _by_name(recorded)
    for model in sorted(there.keys() | wanted.keys()):
        if model not in wanted:
            yield f"{model} is in the file that the server starts from, but not recorded"
        elif there.get(model) != wanted[model]:
            yield f"{model} is otherwise in the file that the server starts from"


def _by_name(config: ServingConfig) -> dict[ModelName, ServedModel]:
    return {model.name: model for model in config.models}
