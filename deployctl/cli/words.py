"""The words of a command by what they mean: its parameters' values as they were typed, and the words of them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class Word:
    """One value of a parameter.

    Attributes:
        parameter: the name that the command's function gives it.
        option: how it is typed, such as "--model"; "" for an argument.
        value: as it was typed; None for an option that has no value.
    """

    parameter: str
    option: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Call:
    """A command with its words.

    Attributes:
        path: the names that lead to it: ("op", "list").
    """

    path: tuple[str, ...]
    words: tuple[Word, ...]

    @property
    def name(self) -> str:
        """The command's name with those of its groups."""
        return " ".join(self.path)

    def values(self, parameter: str) -> tuple[str, ...]:
        """Returns what was typed for a parameter, () if nothing was."""
        return tuple(word.value for word in self.words if word.parameter == parameter and word.value is not None)

    def has(self, parameter: str) -> bool:
        """Whether a parameter was given."""
        return any(word.parameter == parameter for word in self.words)

    def changed(self, change: Callable[[Word], Word | None]) -> Call:
        """Returns the call with each word as `change` has it, without those of which it makes None."""
        return replace(self, words=tuple(new for word in self.words if (new := change(word)) is not None))

    def typed(self) -> list[str]:
        """Returns the words that make this call."""
        # With "=", a value may begin with a dash.
        options = [
            word.option if word.value is None else f"{word.option}={word.value}" for word in self.words if word.option
        ]
        arguments = [str(word.value) for word in self.words if not word.option]
        if any(each.startswith("-") for each in arguments):
            return [*self.path, *options, "--", *arguments]
        return [*self.path, *arguments, *options]


def read_call(group: Any, context: Any, words: Sequence[str]) -> Call:
    """Returns the call that `words` are to `group`; every word of it is checked as where the command runs.

    Raises whatever the command line raises for words that are wrong, and for --help.
    """
    path: list[str] = []
    command, parent, rest = group, context, list(words)
    while isinstance(command, TyperGroup):
        if path:
            parent = command.make_context(path[-1], rest, parent=parent)
            rest = [*parent._protected_args, *parent.args]
            if not rest:
                parent.fail("Missing command.")
        name, found, rest = command.resolve_command(parent, rest)
        path.append(str(name))
        command = found
    leaf = command.make_context(path[-1], list(rest), parent=parent)
    given, _, _ = command.make_parser(leaf).parse_args(args=list(rest))
    return Call(tuple(path), tuple(word for parameter in command.params for word in _words(parameter, given)))


def _words(parameter: Any, given: dict[str, Any]) -> list[Word]:
    value = given.get(parameter.name)
    if isinstance(value, bool):
        options = parameter.opts if value else parameter.secondary_opts
        return [Word(parameter.name, options[0], None)] if options else []
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    option = "" if parameter.param_type_name == "argument" else parameter.opts[0]
    return [Word(parameter.name, option, each) for each in values if isinstance(each, str)]
