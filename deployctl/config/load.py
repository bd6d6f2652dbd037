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
from deployctl.config.notification_checks import check_notifications
from deployctl.config.port_checks import check_ports
from deployctl.config.settings import NAMED, SECTIONS, RuntimeName, Settings, built, leaves
from deployctl.domain.names import TargetName, parse_table_name, parse_target_name
from deployctl.errors import InvalidNameError, SettingsError

FILE_NAME = "deployctl.toml"
ENVIRONMENT_PREFIX = "DEPLOYCTL_"
# Variables of this prefix that are not settings: which file to read, the target that commands mean, and the daemon.
RESERVED_VARIABLES = frozenset(
    {"DEPLOYCTL_CONFIG", "DEPLOYCTL_TARGET", "DEPLOYCTL_REQUIRE", "DEPLOYCTL_SERVER", "DEPLOYCTL_TOKEN"}
)
_TABLES = (*NAMED, *SECTIONS)
_GATES = tuple(each.name for each in fields(GateSettings) if "doc" not in each.metadata)
_SUB_TABLES = ("docker", "external", "s3", "cache", "gate", "health", *_GATES)
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
            _add_defaults(key, values, origins)
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
    if section in NAMED:
        name, _, attribute = rest.partition(".")
        return attrgetter(attribute)(getattr(settings, section)[name])
    return attrgetter(key)(settings)


def _defaults() -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    for section, kind in SECTIONS.items():
        values |= {f"{section}.{name}": each.default for name, each, _ in leaves(kind)}
    values |= {each.name: each.default for each in fields(Settings) if each.name in _TOP_LEVEL}
    return values, dict.fromkeys(values, "default")


def _add_defaults(key: str, values: dict[str, Any], origins: dict[str, str]) -> None:
    """Gives the other settings of the table by name that `key` belongs to."""
    section = key.partition(".")[0]
    if section not in NAMED:
        return
    prefix = ".".join(key.split(".")[:2])
    for name, each, _ in leaves(NAMED[section]):
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
        section = prefix.removesuffix(".")
        if section in NAMED and value == {}:
            # A table without a setting is one with the defaults.
            first, each, _ = next(leaves(NAMED[section]))
            yield f"{key}.{first}", each.default
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
    for section, kind in NAMED.items():
        tables = document.get(section, {})
        for table in tables if isinstance(tables, dict) else ():
            yield from (f"{section}.{table}.{name}" for name, _, _ in leaves(kind))


def _variable(key: str) -> str:
    return ENVIRONMENT_PREFIX + key.replace(".", "_").replace("-", "_").upper()


def _from_flags(flags: Sequence[str]) -> Iterator[tuple[str, Any, str]]:
    for flag in flags:
        key, equals, text = flag.partition("=")
        if not equals:
            raise SettingsError(f"--set {flag!r} is not KEY=VALUE", hint="deployctl config show")
        yield key, from_text(key, text, "--set"), "flag --set"


def _build(values: Mapping[str, Any], root: Path) -> Settings:
    sections: dict[str, Any] = {section: built(kind, values, f"{section}.") for section, kind in SECTIONS.items()}
    tables: dict[str, Any] = {section: _tables(section, kind, values) for section, kind in NAMED.items()}
    top = {name: values[name] for name in _TOP_LEVEL}
    settings = Settings(root=root, **sections, **tables, **top)
    _check_targets_exist(settings)
    check_ports(settings.targets)
    check_notifications(settings.notifications)
    return settings


def _tables(section: str, kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    parse = parse_target_name if section == "targets" else parse_table_name
    names = dict.fromkeys(key.split(".")[1] for key in values if key.startswith(f"{section}."))
    try:
        return {parse(name): built(kind, values, f"{section}.{name}.") for name in names}
    except InvalidNameError as error:
        raise SettingsError(str(error)) from error


def _check_targets_exist(settings: Settings) -> None:
    if settings.default_target and settings.default_target not in settings.targets:
        raise SettingsError(f"default_target {settings.default_target!r} is not among the targets")
    for name, rule in settings.rules.items():
        unknown = next((target for target in rule.promote if target not in settings.targets), None)
        if unknown is not None:
            raise SettingsError(f"rules.{name}.promote names {unknown!r}, which is not among the targets")
