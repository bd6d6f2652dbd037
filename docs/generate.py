"""Writes the generated pages of docs/reference: `python -m docs.generate [--check]`.

With --check nothing is written; the pages that are not current are named, and the exit code is 1.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from deployctl import errors
from deployctl.config.daemon_settings import DaemonSettings, HealthSettings
from deployctl.config.definition import DURATION, SIZE
from deployctl.config.gate_settings import GateSettings
from deployctl.config.load import ENVIRONMENT_PREFIX
from deployctl.config.settings import (
    NAMED,
    CacheSettings,
    DockerSettings,
    ExternalSettings,
    LineageSettings,
    RepositorySettings,
    S3Settings,
    Settings,
    TargetSettings,
)
from deployctl.errors import DeployctlError
from deployctl.modelserver.flags import Flags

REFERENCE = Path(__file__).parent / "reference"
ROOT = Path(__file__).parents[1]
_HELP_TIMEOUT_S = 60
_NOTE = "<!-- Written by `make docs`; changes by hand are lost. -->\n"


def main(arguments: Sequence[str]) -> int:
    """Writes the pages, or with --check compares them; returns the exit code."""
    stale = []
    for name, make in PAGES.items():
        path, text = REFERENCE / name, make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(f"docs/reference/{name}")
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/reference/{name}")
    if "--check" in arguments and stale:
        print("not current: " + ", ".join(stale), file=sys.stderr)
        print("hint: make docs", file=sys.stderr)
        return 1
    return 0


def command_line() -> str:
    """Returns cli.md: the help of every command, 80 columns wide."""
    names = list(_commands())
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        helps = list(pool.map(_help, names))
    parts = [
        "# Command line\n",
        _NOTE,
        "Results go to stdout, progress and errors to stderr. Exit codes are in [errors](errors.md), the JSON",
        "documents of `-o json` in [json](json.md), settings in [settings](settings.md).\n",
    ]
    for words, text in zip(names, helps, strict=True):
        parts += [f"{'##' if len(words) < 2 else '###'} {' '.join(('deployctl', *words))}\n", f"```text\n{text}```\n"]
    return "\n".join(parts)


def _commands() -> Iterator[tuple[str, ...]]:
    """Yields the words of every command, () for deployctl itself, groups before their commands."""
    import typer

    from deployctl.cli.app import app

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*words, name))

    return walk(typer.main.get_command(app), ())


def _help(words: tuple[str, ...]) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    environment |= {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb", "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
    # The program's name in the usage line is that of the installed command.
    code = "import sys; sys.argv[0] = 'deployctl'; from deployctl.cli.app import main; main()"
    command = [sys.executable, "-c", code, *words, "--help"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_HELP_TIMEOUT_S, check=True, encoding="utf-8"
    )
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.strip("\n").splitlines())


def settings() -> str:
    """Returns settings.md: every key with its type, default, meaning and environment variable."""
    parts = [
        "# Settings\n",
        _NOTE,
        "The settings file is the first of these that exists: the one named by `--config`, the one named by",
        "`DEPLOYCTL_CONFIG`, `./deployctl.toml`, `$XDG_CONFIG_HOME/deployctl/deployctl.toml` (`~/.config` by default),",
        "`/etc/deployctl/deployctl.toml`. `deployctl init` writes one.\n",
        "A flag `--set KEY=VALUE` wins over the environment variable, that over the file, and that over the default.",
        "`deployctl config show --origin` tells where each value comes from. An unknown key, and an unknown variable",
        f"that begins with `{ENVIRONMENT_PREFIX}`, is an error.\n",
        'A duration is a number of seconds, or a text such as `"90s"` or `"5m"`; bytes are a number, or a text such as',
        '`"20GiB"`. A list in a variable or a flag is separated by blanks.\n',
        "Two variables are no settings: `DEPLOYCTL_CONFIG` names the settings file, `DEPLOYCTL_TARGET` the target that",
        "commands mean when none is named.\n",
        "## Top level\n",
        *_setting_rows("", Settings),
        "\n## `[repository]`\n",
        *_setting_rows("repository.", RepositorySettings),
        "\n## `[repository.s3]`\n",
        *_setting_rows("repository.s3.", S3Settings),
        "\n## `[repository.cache]`\n",
        *_setting_rows("repository.cache.", CacheSettings),
        "\n## `[lineage]`\n",
        *_setting_rows("lineage.", LineageSettings),
        "\n## `[targets.NAME]`\n",
        "One table for each target. In a variable's name, NAME is in capitals, with `_` in place of `-`.\n",
        *_setting_rows("targets.NAME.", TargetSettings),
        "\n## `[targets.NAME.docker]`\n",
        *_setting_rows("targets.NAME.docker.", DockerSettings),
        "\n## `[targets.NAME.external]`\n",
        *_setting_rows("targets.NAME.external.", ExternalSettings),
        "\n## `[targets.NAME.gate]`\n",
        "What each gate is held to; [the how-to](../howto/validate.md) explains them.\n",
        *_setting_rows("targets.NAME.gate.", GateSettings),
    ]
    for name, kind in typing.get_type_hints(GateSettings).items():
        if is_dataclass(kind) and isinstance(kind, type):
            parts += [f"\n## `[targets.NAME.gate.{name}]`\n", *_setting_rows(f"targets.NAME.gate.{name}.", kind)]
    parts += [
        "\n## `[targets.NAME.health]`\n",
        *_setting_rows("targets.NAME.health.", HealthSettings),
        "\n## `[daemon]`\n",
        *_setting_rows("daemon.", DaemonSettings),
    ]
    for name, kind in NAMED.items():
        if kind is not TargetSettings:
            doc = inspect.getdoc(kind) or ""
            parts += [f"\n## `[{name}.NAME]`\n", f"{doc}\n", *_setting_rows(f"{name}.NAME.", kind)]
    return "\n".join(parts) + "\n"


def _setting_rows(prefix: str, owner: type) -> Iterator[str]:
    yield "| key | type | default | meaning | environment variable |"
    yield "|---|---|---|---|---|"
    types = typing.get_type_hints(owner)
    for each in fields(owner):
        if "doc" in each.metadata:
            key = f"{prefix}{each.name}"
            variable = ENVIRONMENT_PREFIX + key.replace(".", "_").upper()
            kind = _kind(types[each.name], each)
            yield _row(f"`{key}`", kind, f"`{_toml(each.default)}`", each.metadata["doc"], f"`{variable}`")


def _kind(found: Any, definition: Field[Any]) -> str:
    if definition.metadata["kind"] == DURATION:
        return "duration"
    if definition.metadata["kind"] == SIZE:
        return "bytes"
    if isinstance(found, type) and issubclass(found, Enum):
        return " or ".join(f'`"{each.value}"`' for each in found)
    if typing.get_origin(found) is tuple:
        return "list of texts"
    return {str: "text", int: "whole number", bool: "true or false", float: "number"}[found]


def _toml(value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


# What an exit code promises, and what a script does next.
EXIT_CODES: Mapping[int, tuple[str, str]] = {
    0: ("Done. Also when the thing was done already; never when it was missing.", "Go on."),
    1: ("Failed; nothing changed.", "Read the error; the input is at fault."),
    2: ("Usage: the command, a name, a setting or a request is wrong.", "Mend the call."),
    3: ("A gate refused the version; nothing changed.", "Look at the version; do not retry."),
    4: ("Timed out; the outcome is unknown.", "`deployctl status`, then decide."),
    5: ("Failed; what served before was restored and verified.", "Clients are well. Look at the server's log."),
    6: ("Degraded: what should serve does not serve.", "Act now; see the how-to on incidents."),
    7: ("Locked: another operation holds the target or the model.", "Retry later."),
    8: ("`--if-current` does not hold: somebody changed it meanwhile.", "Look at `deployctl history`."),
    9: ("Not found: a model, version, label, target or revision.", "Mend the name."),
    10: (
        "A dependency is unavailable: server, storage or database.",
        "`deployctl doctor`; retry if the error may pass.",
    ),
    130: ("Interrupted by Ctrl-C; a change under way is undone first.", "`deployctl status`."),
}


def error_tree() -> str:
    """Returns errors.md: the exit codes, and every class of the error tree."""
    classes = list(_tree(DeployctlError))
    missing = {found.exit_code for found in classes} - set(EXIT_CODES)
    if missing:
        raise ValueError(f"EXIT_CODES does not explain {sorted(missing)}")
    parts = [
        "# Errors and exit codes\n",
        _NOTE,
        "An error is one sentence on stderr after `error:`, often with a command to type after `hint:`.",
        "A Python traceback is a bug of deployctl.\n",
        "## Exit codes\n",
        "The codes are an interface: a script may rely on them.\n",
        "| code | meaning | what to do |",
        "|---|---|---|",
        *_exit_code_rows(classes),
        "\n## Error classes\n",
        "`deployctl.errors` defines them. Indentation shows inheritance. *Retry* says whether the same call may",
        "succeed later with nothing mended.\n",
        "| class | exit | retry | meaning |",
        "|---|---|---|---|",
        *(_error_row(found) for found in classes),
    ]
    return "\n".join(parts) + "\n"


def _exit_code_rows(classes: Sequence[type[DeployctlError]]) -> Iterator[str]:
    package = Path(errors.__file__).parent
    code = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.name != "errors.py")
    for number, (meaning, advice) in EXIT_CODES.items():
        names = [found.__name__ for found in classes if found.exit_code == number]
        if names and not any(name in code for name in names):
            meaning += " No command ends with it yet."
        yield _row(str(number), meaning, advice)


def _tree(root: type[DeployctlError]) -> Iterator[type[DeployctlError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


def _error_row(found: type[DeployctlError]) -> str:
    depth = len(found.__mro__) - len(DeployctlError.__mro__)
    first = (inspect.getdoc(found) or "").splitlines()[0]
    retry = "yes" if found.retryable else "no"
    return _row(f"{'&emsp;' * depth}`{found.__name__}`", str(found.exit_code), retry, first)


def server_flags() -> str:
    """Returns model-server-flags.md: every flag of the embedded server."""
    own = [each for each in fields(Flags) if each.metadata["help"].startswith("Ours: ")]
    ignored = [each for each in fields(Flags) if each.metadata["ignored"]]
    upstream = [each for each in fields(Flags) if each not in (*own, *ignored)]
    parts = [
        "# Flags of deployctl-model-server\n",
        _NOTE,
        "How the embedded server differs from `tensorflow_model_server` is in",
        "[the explanation of the model server](../explanation/model-server.md).",
        "A flag is written `--flag=value` or `--flag value`; a boolean may stand alone. An unknown flag is an error,",
        "exit code 2.\n",
        "## Flags of tensorflow_model_server\n",
        *_flag_rows(upstream),
        "\n## Flags of deployctl only\n",
        *_flag_rows(own),
        "\n## Accepted without effect\n",
        "They are accepted so that a command line need not change; giving one another value than its default is",
        "logged as a warning.\n",
        ", ".join(f"`--{each.name}`" for each in ignored),
    ]
    return "\n".join(parts) + "\n"


def _flag_rows(definitions: Sequence[Field[Any]]) -> Iterator[str]:
    yield "| flag | type | default | meaning |"
    yield "|---|---|---|---|"
    for each in definitions:
        meaning = each.metadata["help"].removeprefix("Ours: ")
        yield _row(f"`--{each.name}`", str(each.type), _flag_default(each), meaning[:1].upper() + meaning[1:])


def _flag_default(definition: Field[Any]) -> str:
    if definition.default_factory is not MISSING:
        return f"{definition.default_factory() // (os.cpu_count() or 1)} for each CPU"
    default = definition.default
    return (
        "`"
        + (str(default).lower() if isinstance(default, bool) else f'"{default}"' if default == "" else str(default))
        + "`"
    )


def http_api() -> str:
    """Returns http-api.md: what the daemon takes over HTTP, from the OpenAPI document that it serves."""
    from deployctl.daemon.api.openapi import openapi

    parts = [
        "# HTTP API of the daemon\n",
        _NOTE,
        "Every request but those to `/healthz` and `/readyz` carries `Authorization: Bearer TOKEN`;",
        "[the how-to](../howto/daemon-tokens.md) makes one. The document at `/v1/openapi.json` has the schemas of all",
        "requests and answers; documents are those of `-o json` (see [JSON documents](json.md)).\n",
        *_ROUTES_WORDS,
    ]
    for path, methods in openapi()["paths"].items():
        for method, described in methods.items():
            parts += [f"## `{method.upper()} {path}`\n", f"{described['summary']} Least role: {described['x-role']}.\n"]
            parts += [*_request_rows(described), ""]
    return "\n".join(parts).rstrip() + "\n"


_ROUTES_WORDS = (
    "| path | what it tells |",
    "|---|---|",
    "| `GET /healthz` | 200: the process answers |",
    "| `GET /readyz` | 200: database, store and targets answer; 503: not all do. With a token, which and why |",
    "| `GET /metrics` | metrics for Prometheus; a token for all targets and models |",
    "",
    "A POST begins an operation: 202, with its id in `Location` and `Deployctl-Operation`, or with `?wait=SECONDS` the",
    "outcome. What is begun goes on when the client has gone. An error is one document everywhere,",
    '`{"error", "hint", "exit_code", "kind", "retryable"}`, with the exit code of the command line:',
    "",
    "| status | exit code | meaning |",
    "|---|---|---|",
    "| 400 | 2 | the request is wrong |",
    "| 401 | 1 | there is no token, or it opens nothing |",
    "| 403 | 1 | the token is not for that |",
    "| 404 | 9 | not found |",
    "| 409 | 7 | locked or frozen |",
    "| 412 | 8 | `if_current` failed |",
    "| 422 | 1, 3 | failed, or a gate refused; nothing changed |",
    "| 429 | 2 | too many tokens that open nothing came from this address; `Retry-After` says how long |",
    "| 500 | 5, 6 | failed; restored, or degraded |",
    "| 503 | 10 | a server, store or database is unavailable |",
    "| 504 | 4 | timed out; the outcome is unknown |",
    "",
)


def _request_rows(described: Mapping[str, Any]) -> Iterator[str]:
    rows = [(each["name"], each["in"], each["required"], each["description"]) for each in described["parameters"]]
    if "requestBody" in described:
        schema = described["requestBody"]["content"]["application/json"]["schema"]
        for name, each in schema["properties"].items():
            rows.append((name, "body", name in schema["required"], each["description"]))
    if rows:
        yield _row("name", "where", "needed", "meaning")
        yield "|---|---|---|---|"
    for name, where, required, words in rows:
        yield _row(f"`{name}`", where, "yes" if required else "", words)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": command_line,
    "settings.md": settings,
    "errors.md": error_tree,
    "model-server-flags.md": server_flags,
    "http-api.md": http_api,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
