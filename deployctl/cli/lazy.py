"""Commands that are made when they are asked for: one command need not wait for the options of the others."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import typer
from typer.core import TyperCommand, TyperGroup


class LazyCommands(Mapping[str, Any]):
    """Commands by name, in the order in which help lists them.

    Args:
        modules: which module of this package has the `register` that adds a command, by the command's name.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = dict(modules)
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _make(name, self._registered(name))
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def heading(self, name: str) -> TyperCommand:
        """Returns the command without its parameters, as a list of commands shows it."""
        found = self._registered(name)
        for group in found.registered_groups:
            return TyperCommand(name, help=str(group.typer_instance.info.help) if group.typer_instance else None)
        return TyperCommand(name, help=found.registered_commands[0].callback.__doc__)

    def _registered(self, name: str) -> typer.Typer:
        """Returns an application that has nothing but the one command or group."""
        only = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        importlib.import_module(f"{__package__}.{self._modules[name]}").register(only)
        only.registered_commands = [each for each in only.registered_commands if _name(each) == name]
        only.registered_groups = [each for each in only.registered_groups if each.name == name]
        return only


class LazyGroup(TyperGroup):
    """A group of `LazyCommands`: what it lists, and what it does not call, is not made.

    Attributes:
        modules: which module of this package has the `register` that adds a command, by the command's name.
    """

    modules: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._lazy = LazyCommands(self.modules)
        self.commands = cast("Any", self._lazy)

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the names."""
        del ctx
        return list(self._lazy)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the list of the commands."""
        headings: dict[str, Any] = {name: self._lazy.heading(name) for name in self._lazy}
        TyperGroup(name=self.name, commands=headings).format_commands(ctx, formatter)


def _make(name: str, only: typer.Typer) -> Any:
    made = typer.main.get_command(only)
    # A single command is not in a group.
    return made.commands[name] if isinstance(made, TyperGroup) else made


def _name(command: Any) -> str:
    return str(command.name or command.callback.__name__.replace("_", "-"))
