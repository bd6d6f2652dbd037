"""Every command and parameter has its help, in any terminal; nothing heavy is imported for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from deployctl.cli.app import app

HEAVY = frozenset(
    ("sqlalchemy", "alembic", "boto3", "docker", "grpc", "tensorflow", "watchdog", "rich", "numpy", "google.protobuf")
)
_TIMEOUT_S = 30


def commands(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields every command and group with the words that call it."""
    command = command or typer.main.get_command(app)
    yield words, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*words, name))


EVERY = [pytest.param(words, command, id=" ".join(words) or "deployctl") for words, command in commands()]


@pytest.mark.parametrize(("words", "command"), EVERY)
def test_every_command_says_what_it_does_in_a_sentence(words: tuple[str, ...], command: Any) -> None:
    assert command.help
    assert command.help.partition("\n")[0].rstrip().endswith((".", "…")), command.help


@pytest.mark.parametrize(("words", "command"), EVERY)
def test_every_parameter_has_help(words: tuple[str, ...], command: Any) -> None:
    without = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]

    assert without == []


@pytest.mark.parametrize(("words", "command"), EVERY)
def test_help_fits_a_narrow_terminal(words: tuple[str, ...], command: Any) -> None:
    context = command.make_context("deployctl", [], resilient_parsing=True, terminal_width=60, max_content_width=60)

    text = command.get_help(context)

    # A word that is longer than the line, such as a long option's name, may stand out.
    assert [line for line in text.splitlines() if len(line) > 62] == []


def test_every_option_that_commands_share_is_spelt_alike() -> None:
    spelt: dict[str, set[tuple[str, ...]]] = {}
    for _, command in commands():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                spelt.setdefault(parameter.name, set()).add(tuple(parameter.opts))

    assert {name: ways for name, ways in spelt.items() if len(ways) > 1} == {}


def test_importing_the_command_line_loads_no_sdk() -> None:
    code = "import deployctl.cli.app, sys; print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)

    assert HEAVY.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("columns", ["60", "200"])
def test_help_is_printed_by_the_command_under_its_own_name(columns: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deployctl.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=_TIMEOUT_S,
        env={**os.environ, "COLUMNS": columns},
    )

    assert done.stdout.startswith("Usage: deployctl [OPTIONS] COMMAND")
    assert "\x1b" not in done.stdout
