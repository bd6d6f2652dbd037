"""The words of a command: read by what they mean, and written again without another meaning."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.core import TyperGroup

from deployctl.cli.app import app
from deployctl.cli.placing import HERE
from deployctl.cli.remote_rules import RULES
from deployctl.cli.words import Call, read_call

ROOT: Any = typer.main.get_command(app)


def _read(*words: str) -> Call:
    return read_call(ROOT, ROOT.context_class(ROOT, info_name="deployctl"), words)


@pytest.mark.parametrize(
    "words",
    [
        "promote half@1 --no-wait -mx --if-current=3 -oname",
        "op list -n 3",
        "notifications retry ops 1 2",
        "publish export --metric a=1 --metric=b=2 --tag x=y",
        "rollback --all -t local",
        "publish -- -export",
    ],
)
def test_words_written_again_mean_the_same(words: str) -> None:
    call = _read(*words.split())

    assert _read(*call.typed()) == call


@settings(max_examples=50)
@given(reason=st.text(max_size=20), model=st.text(min_size=1, max_size=20), export=st.text(min_size=1, max_size=20))
def test_any_value_survives(reason: str, model: str, export: str) -> None:
    call = _read("publish", f"--reason={reason}", f"--model={model}", "--", export)

    assert call.values("reason") == (reason,)
    assert _read(*call.typed()) == call
    assert _read(*call.typed()).values("export") == (export,)


def _commands(group: TyperGroup, path: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name in group.commands:
        command = group.commands[name]
        nested = isinstance(command, TyperGroup)
        found += _commands(command, (*path, name)) if nested else [(" ".join((*path, name)), command)]  # type: ignore[arg-type]
    return found


def test_every_command_says_what_becomes_of_it_elsewhere_and_of_its_files() -> None:
    commands = dict(_commands(ROOT))
    here = {name for name in commands if name.split()[0] in HERE or tuple(name.split()) in HERE}

    assert set(commands) - here <= set(RULES)
    for name, command in commands.items():
        if name in here:
            continue
        paths = {each.name for each in command.params if type(each.type).__name__ == "TyperPath"}
        assert paths <= set(RULES[name].files), name
        known = {each.name for each in command.params}
        assert {*RULES[name].files, *RULES[name].models, *RULES[name].admin} <= known, name
        names_models = {"model", "reference"} & known
        assert names_models <= set(RULES[name].models), name


def test_no_command_that_changes_something_is_ended_for_want_of_listeners() -> None:
    changing = {"publish", "promote", "rollback", "up", "down", "restart", "gc", "adopt", "golden record", "op resume"}

    assert not {name for name in changing if RULES[name].reads}
