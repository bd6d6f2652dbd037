"""Commands are made when they are called; which module has a command is written down once, and true."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest
import typer.main
from typer.core import TyperGroup

import deployctl.cli
from deployctl.cli.app import RootGroup, app

_TIMEOUT_S = 30


def registered() -> dict[str, str]:
    """Returns the module of every command that a module of the command line registers, by name."""
    found: dict[str, str] = {}
    for module in pkgutil.iter_modules(deployctl.cli.__path__):
        loaded = importlib.import_module(f"deployctl.cli.{module.name}")
        if hasattr(loaded, "register"):
            alone = typer.Typer(add_completion=False)
            loaded.register(alone)
            functions = (each.name or each.callback.__name__ for each in alone.registered_commands if each.callback)
            groups = (str(each.name) for each in alone.registered_groups)
            found |= dict.fromkeys((*functions, *groups), module.name)
    return found


def test_every_command_that_a_module_registers_can_be_called() -> None:
    assert registered() == dict(RootGroup.modules)


@pytest.mark.parametrize("words", [("--version",), ("versions", "--help"), ("validate", "--help")])
def test_a_command_does_not_load_the_options_of_others(words: tuple[str, ...]) -> None:
    code = (
        "import sys; sys.argv = ['deployctl', *sys.argv[1:]]\n"
        "from deployctl.cli.app import main\n"
        "try: main()\n"
        "finally: print(*sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
    )

    loaded = set(done.stdout.split())
    assert "deployctl.cli.app" in loaded
    assert loaded.isdisjoint(f"deployctl.cli.{name}" for name in ("conversion", "rollouts", "journal", "prediction"))


def test_the_list_of_commands_reads_as_if_they_were_all_made() -> None:
    root = typer.main.get_command(app)
    context = root.make_context("deployctl", [], resilient_parsing=True)
    assert isinstance(root, TyperGroup)
    made = TyperGroup(name="deployctl", commands=dict(root.commands))
    lazily, plainly = context.make_formatter(), context.make_formatter()

    root.format_commands(context, lazily)
    made.format_commands(context, plainly)

    assert lazily.getvalue() == plainly.getvalue()


def test_an_unknown_command_is_told_the_nearest_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deployctl.cli", "convrt"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )

    assert (done.returncode, "Did you mean 'convert'" in done.stderr) == (2, True)
