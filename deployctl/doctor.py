"""Examines everything that the settings depend on, one finding for each thing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from deployctl.bootstrap import Deployment, docker_options
from deployctl.config.settings import RuntimeName, TargetSettings
from deployctl.domain.names import TargetName
from deployctl.domain.serving import ServerCondition
from deployctl.errors import (
    DatabaseCorruptError,
    DatabaseError,
    DependencyError,
    DeployctlError,
    PortTakenError,
    SettingsError,
    StorageError,
)

if TYPE_CHECKING:
    from deployctl.repository.interface import Stray

_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing: `detail` where it is well, `problem` and `hint` (a command) where it is not."""

    subject: str
    detail: str = ""
    problem: str | None = None
    hint: str | None = None


def examine(deployment: Deployment) -> tuple[Finding, ...]:
    """Returns a finding for each dependency of the configured targets; nothing is changed by looking."""
    return tuple(_finding(subject, ask) for subject, ask in _checks(deployment))


def _finding(subject: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, ask())
    except DeployctlError as error:
        return Finding(subject, problem=str(error), hint=error.hint)


def _checks(deployment: Deployment) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "repository", lambda: _repository(deployment)
    yield "strays", lambda: _strays(deployment)
    yield "lineage", lambda: _lineage(deployment)
    yield "record", lambda: _record(deployment)
    for name, settings in deployment.settings.targets.items():
        yield from _target_checks(deployment, name, settings)


def _target_checks(
    deployment: Deployment, name: TargetName, settings: TargetSettings
) -> Iterator[tuple[str, Callable[[], str]]]:
    yield f"{name}: state", lambda: _writable(deployment.settings.state_path)
    match settings.runtime:
        case RuntimeName.PROCESS:
            yield f"{name}: tensorflow", _tensorflow
            yield f"{name}: front ends", _front_ends
            yield f"{name}: server", lambda: _server(deployment, name, settings)
        case RuntimeName.DOCKER:
            yield f"{name}: image", lambda: _image(deployment, name, settings)
            yield f"{name}: mounts", lambda: _mounts(deployment, name, settings)
            yield f"{name}: server", lambda: _server(deployment, name, settings)
        case RuntimeName.EXTERNAL:
            yield f"{name}: server", lambda: _external(deployment, name, settings)
        case _:
            assert_never(settings.runtime)


def _repository(deployment: Deployment) -> str:
    if deployment.settings.repository_scheme:
        found = deployment.repository.examine()
        _writable(deployment.settings.model_base_path)
        return f"{deployment.settings.repository_location}, {len(deployment.repository.models())} models; {found}"
    base = deployment.settings.model_base_path
    if not base.is_dir():
        raise StorageError(f"{base} does not exist", hint="deployctl init")
    _writable(base)
    free = os.statvfs(base)
    models = deployment.repository.models()
    return f"{base}, {len(models)} models, {free.f_bavail * free.f_frsize / 1e9:.1f} GB free"


def _strays(deployment: Deployment) -> str:
    strays = deployment.repository.strays()
    if strays:
        first = strays[0]
        raise StorageError(
            f"{len(strays)} entries look like versions to a polling server, e.g. {first.model}/{first.name} "
            f"({first.problem})",
            hint=_mend_stray(deployment, first),
        )
    leftovers = deployment.repository.leftovers()
    return f"none{f', {len(leftovers)} unfinished exports: deployctl gc removes them' if leftovers else ''}"


def _mend_stray(deployment: Deployment, stray: Stray) -> str:
    if deployment.settings.repository_scheme:
        return f"aws s3 ls {deployment.settings.repository_location.rstrip('/')}/{stray.model}/{stray.name}"
    return f"mv {deployment.settings.model_base_path / stray.model / stray.name} /tmp/"


def _lineage(deployment: Deployment) -> str:
    from deployctl.lineage import migrate

    try:
        migrate.examine(deployment.lineage_url)
    except DatabaseCorruptError as error:
        raise DatabaseError(str(error), hint=_backups(deployment)) from error
    for target in deployment.settings.targets:
        deployment.lineage.current(target)
    return f"schema {migrate.current(deployment.lineage_url).found}"


def _backups(deployment: Deployment) -> str:
    path = deployment.lineage_url.removeprefix("sqlite:///")
    return f"ls -t {path}.*.bak"


def _record(deployment: Deployment) -> str:
    count = 0
    for model in deployment.repository.models():
        known = {record.version for record in deployment.lineage.versions(model)}
        unknown = set(deployment.repository.versions(model)) - known
        if unknown:
            version = min(unknown)
            described = deployment.repository.manifest(model, version) is not None
            raise StorageError(
                f"{model}@{version} is in the repository and not recorded",
                hint="deployctl db rebuild" if described else f"deployctl adopt {model}",
            )
        gone = known - set(deployment.repository.versions(model))
        if gone:
            raise StorageError(
                f"{model}@{min(gone)} is recorded and not in the repository", hint=f"deployctl versions {model}"
            )
        count += len(known)
    return f"{count} versions, all recorded"


def _writable(directory: Path) -> str:
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StorageError(f"{directory} cannot be written", hint=f"ls -ld {existing}")
    return str(directory)


def _tensorflow() -> str:
    from deployctl.modelserver.capi import library_directory
    from deployctl.modelserver.interface import StatusError

    try:
        return str(library_directory())
    except StatusError as error:
        raise DependencyError(error.message, hint="pip install 'deployctl[tensorflow]'") from error


def _front_ends() -> str:
    from importlib.util import find_spec

    missing = [name for name in ("numpy", "uvicorn", "httptools", "orjson") if find_spec(name) is None]
    if missing:
        raise DependencyError(f"not installed: {', '.join(missing)}", hint="pip install 'deployctl[tensorflow]'")
    return "installed"


def _image(deployment: Deployment, name: TargetName, settings: TargetSettings) -> str:
    from deployctl.serving.docker_probe import image

    return image(docker_options(name, deployment.settings, settings))


def _mounts(deployment: Deployment, name: TargetName, settings: TargetSettings) -> str:
    from deployctl.serving.docker_probe import mounts

    return mounts(docker_options(name, deployment.settings, settings))


def _external(deployment: Deployment, name: TargetName, settings: TargetSettings) -> str:
    state = deployment.runtime(name, settings).state(timeout_s=_TIMEOUT_S)
    if state.condition is not ServerCondition.READY:
        raise DependencyError(f"nothing answers at {state.endpoints.grpc}", hint=f"deployctl status {name}")
    return f"ready at {state.endpoints.rest} and {state.endpoints.grpc}, run by someone else"


def _server(deployment: Deployment, name: TargetName, settings: TargetSettings) -> str:
    runtime = deployment.runtime(name, settings)
    state = runtime.state(timeout_s=_TIMEOUT_S)
    if state.condition is ServerCondition.READY:
        return f"ready at {state.endpoints.rest} and {state.endpoints.grpc}"
    if state.condition is ServerCondition.UNREACHABLE:
        raise DependencyError(f"the server of {name} does not answer", hint=f"deployctl logs {name}")
    from deployctl.serving.ports import holder, is_free

    if settings.rest_port == settings.grpc_port != 0:
        raise SettingsError(f"rest_port and grpc_port are both {settings.rest_port}")
    for key, port in (("rest_port", settings.rest_port), ("grpc_port", settings.grpc_port)):
        if port and not is_free(settings.host, port):
            who = holder(port)
            raise PortTakenError(
                f"{key} {port} is in use{f' by {who.name} (pid {who.pid})' if who else ''}",
                hint=f"deployctl --set targets.{name}.{key}=0 up {name}",
            )
    return "not started; its ports are free"
