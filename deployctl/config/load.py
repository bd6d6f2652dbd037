"""Loads settings: flags over environment over file over defaults, remembering where each value came from.

Every setting has a dotted key (`targets.local.rest_port`), which is its place in the file, its flag
(`--set targets.local.rest_port=9000`) and, in capitals with underscores, its environment variable
(`DEPLOYCTL_TARGETS_LOCAL_REST_PORT`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from deployctl.config.coerce import coerce, from_text
from deployctl.config.gate_settings import GateSettings
from deployctl.config.settings import (
    LineageSettings,
    RepositorySettings,
    RuntimeName,
    Settings,
    TargetSettings,
    built,
    leaves,
)
from deployctl.domain.names import TargetName, parse_target_name
from deployctl.errors import InvalidNameError, SettingsError

FILE_NAME = "deployctl.toml"
ENVIRONMENT_PREFIX = "DEPLOYCTL_"
# Variables of this prefix that are not settings: which file to read, and the target that commands mean.
RESERVED_VARIABLES = frozenset({"DEPLOYCTL_CONFIG", "DEPLOYCTL_TARGET", "DEPLOYCTL_REQUIRE"})
_SECTIONS: Mapping[str, type] = {"repository": RepositorySettings, "lineage": LineageSettings}
_TABLES = ("targets", *_SECTIONS)
_GATES = tuple(each.name for each in fields(GateSettings) if "doc" not in each.metadata)
_SUB_TABLES = ("docker", "external", "s3", "cache", "gate", *_GATES)
_TOP_LEVEL = ("state_dir", "default_target")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings with the file they came from, if any, and each key's origin.

    Attributes:
        origins: by dotted key, without what belongs to another runtime than the target's: "default", "file PATH",
            "environment NAME" or "flag --set".
    """

    settings: Settings
    file: Path | None
    origins: Mapping[str, str]


def find_file(explicit: Path | None, environment: Mapping[str, str], directory: Path) -> Path | None:
    """Returns the settings file that applies, or None.

    Raises:
        SettingsError: a file was named that does not exist.
    """
    named = explicit or (Path(environment["DEPLOYCTL_CONFIG"]) if environment.get("DEPLOYCTL_CONFIG") else None)
    if named is not None:
        if not _is_file(named):
            raise SettingsError(f"there is no settings file {named}", hint="deployctl init")
        return named.absolute()
    home = Path(environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config")
    candidates = (directory / FILE_NAME, home / "deployctl" / FILE_NAME, Path("/etc/deployctl") / FILE_NAME)
    return next((path for path in candidates if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # in a directory that may not be searched
        return False


def load(
    *,
    file: Path | None = None,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Loaded:
    """Returns the settings that apply.

    Raises:
        SettingsError: there is no file, it does not parse, or a key is unknown, of the wrong type or out of range.
    """
    environment = os.environ if environment is None else environment
    directory = directory or Path.cwd()
    found = find_file(file, environment, directory)
    if found is None:
        raise SettingsError(f"there is no {FILE_NAME} here, in the user's settings or in /etc", hint="deployctl init")
    values, origins = _defaults()
    for layer in (_from_file(found), _from_environment(environment, found), _from_flags(flags)):
        for key, value, origin in layer:
            values[key], origins[key] = value, origin
            _add_target_defaults(key, values, origins)
    settings = _build(values, found.parent)
    shown = {key: origin for key, origin in origins.items() if _concerns(settings, key, origin)}
    return Loaded(settings, found, dict(sorted(shown.items())))


def _concerns(settings: Settings, key: str, origin: str) -> bool:
    """Whether `key` was set, or has an effect: defaults of the other runtimes would only hide the target's own."""
    section, name, *rest = f"{key}.".split(".")
    if section == "repository" and origin == "default" and name in _SUB_TABLES:
        return bool(settings.repository_scheme)
    if section != "targets" or origin != "default":
        return True
    target = settings.targets[TargetName(name)]
    if rest[0] == "gate":
        return rest[1] in target.gates
    runtime = target.runtime
    return {"docker": RuntimeName.DOCKER, "image": RuntimeName.DOCKER, "external": RuntimeName.EXTERNAL}.get(
        rest[0], runtime
    ) is runtime


def value_of(settings: Settings, key: str) -> Any:
    """Returns the value of a dotted key."""
    section, _, rest = key.partition(".")
    if section == "targets":
        name, _, attribute = rest.partition(".")
        return attrgetter(attribute)(settings.targets[TargetName(name)])
    return attrgetter(key)(settings)


def _defaults() -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    for section, kind in _SECTIONS.items():
        values |= {f"{section}.{name}": each.default for name, each, _ in leaves(kind)}
    values |= {each.name: each.default for each in fields(Settings) if each.name in _TOP_LEVEL}
    return values, dict.fromkeys(values, "default")


def _add_target_defaults(key: str, values: dict[str, Any], origins: dict[str, str]) -> None:
    if not key.startswith("targets."):
        return
    prefix = ".".join(key.split(".")[:2])
    for name, each, _ in leaves(TargetSettings):
        values.setdefault(f"{prefix}.{name}", each.default)
        origins.setdefault(f"{prefix}.{name}", "default")


def _from_file(path: Path) -> Iterator[tuple[str, Any, str]]:
    for key, value in _flatten(_parse(path), ""):
        yield key, coerce(key, value, str(path)), f"file {path}"


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error


def _flatten(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        key = f"{prefix}{name}"
        if key.startswith("targets.") and key.count(".") == 1 and value == {}:
            yield f"{key}.runtime", TargetSettings().runtime.value
        elif isinstance(value, dict) and (value or key in _TABLES or name in _SUB_TABLES):
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def _from_environment(environment: Mapping[str, str], path: Path) -> Iterator[tuple[str, Any, str]]:
    names = sorted(set(environment) - RESERVED_VARIABLES)
    settable = {_variable(key): key for key in _settable_keys(_parse(path))}
    for name in names:
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        if name not in settable:
            raise SettingsError(f"{name} in the environment is no setting", hint="deployctl config show")
        key = settable[name]
        yield key, from_text(key, environment[name], f"environment variable {name}"), f"environment {name}"


def _settable_keys(document: Mapping[str, Any]) -> Iterator[str]:
    yield from _defaults()[0]
    targets = document.get("targets", {})
    for target in targets if isinstance(targets, dict) else ():
        yield from (f"targets.{target}.{name}" for name, _, _ in leaves(TargetSettings))


def _variable(key: str) -> str:
    return ENVIRONMENT_PREFIX + key.replace(".", "_").replace("-", "_").upper()


def _from_flags(flags: Sequence[str]) -> Iterator[tuple[str, Any, str]]:
    for flag in flags:
        key, equals, text = flag.partition("=")
        if not equals:
            raise SettingsError(f"--set {flag!r} is not KEY=VALUE", hint="deployctl config show")
        yield key, from_text(key, text, "--set"), "flag --set"


def _build(values: Mapping[str, Any], root: Path) -> Settings:
    sections: dict[str, Any] = {section: built(kind, values, f"{section}.") for section, kind in _SECTIONS.items()}
    targets: dict[TargetName, TargetSettings] = {}
    for name in dict.fromkeys(key.split(".")[1] for key in values if key.startswith("targets.")):
        try:
            target = parse_target_name(name)
        except InvalidNameError as error:
            raise SettingsError(str(error)) from error
        targets[target] = built(TargetSettings, values, f"targets.{name}.")
    top = {name: values[name] for name in _TOP_LEVEL}
    if top["default_target"] and top["default_target"] not in targets:
        raise SettingsError(f"default_target {top['default_target']!r} is not among the targets")
    return Settings(root=root, targets=targets, **sections, **top)
