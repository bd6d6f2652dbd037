"""What a client asks for when it gives a command: read with suspicion, and made into what the runner is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployctl.daemon.api.upload_files import SentFile, is_within, parse_files
from deployctl.errors import UsageError

_MAX_WORDS = 2000
_MAX_TEXT = 64 << 10
_MAX_FILES = 64
_MAX_SIZE = 10_000
# What of the client's environment the command may have: how to show things, and which target is meant.
_VARIABLES = frozenset({"NO_COLOR", "TERM", "DEPLOYCTL_TARGET"})
_NEEDED = {"key", "words"}
_KNOWN = _NEEDED | {"terminal", "environment", "host", "ci", "inputs", "outputs", "offset", "again"}


@dataclass(frozen=True, slots=True)
class FileForCommand:
    """A file or a directory that goes with a command, or comes back.

    Attributes:
        name: the last part of its path there and here.
        shown: what the client calls it.
        origin: its absolute path at the client.
        files: what was sent; None for what is not there, or comes back.
    """

    name: str
    shown: str
    origin: str = ""
    files: tuple[SentFile, ...] | None = None


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """A command as a client gives it.

    Attributes:
        key: the same for each try to give this command, and unlike any other's.
        terminal: lines and columns by "stdout" and "stderr", where that is a terminal.
        offset: how many bytes of the answer the client has already.
        again: whether the client has given it before.
    """

    key: str
    words: tuple[str, ...]
    terminal: Mapping[str, list[int] | None] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    ci: str = ""
    inputs: tuple[FileForCommand, ...] = ()
    outputs: tuple[FileForCommand, ...] = ()
    offset: int = 0
    again: bool = False

    def for_runner(self, directory: Path, operation: str, actor: Mapping[str, str]) -> dict[str, Any]:
        """Returns what the runner and the command are told; files are below `directory`."""
        inputs = [
            {"path": str(place_of(directory, "in", index, each)), "shown": each.shown, "origin": each.origin}
            for index, each in enumerate(self.inputs)
        ]
        outputs = [
            {"path": str(place_of(directory, "out", index, each)), "shown": each.shown}
            for index, each in enumerate(self.outputs)
        ]
        return {
            "words": self.words,
            "terminal": dict(self.terminal),
            "environment": dict(self.environment),
            "operation": operation,
            "inputs": inputs,
            "outputs": outputs,
            "acting": {
                "actor": dict(actor),
                "directory": str(directory),
                "inputs": inputs,
                "outputs": outputs,
            },
        }


def place_of(directory: Path, side: str, index: int, file: FileForCommand) -> Path:
    """Returns where a file of a command is, below the command's directory."""
    return directory / side / str(index) / file.name


def parse_command(document: Any) -> CommandRequest:
    """Returns the command that a JSON document asks for.

    Raises:
        UsageError: it is none, or too much.
    """
    if not isinstance(document, dict) or not set(document) >= _NEEDED or not set(document) <= _KNOWN:
        raise UsageError(f"a command is an object with {', '.join(sorted(_NEEDED))}, and no other keys than it knows")
    words = _list(document, "words", _MAX_WORDS)
    environment = document.get("environment", {})
    if not isinstance(environment, dict) or not set(environment) <= _VARIABLES:
        raise UsageError(f"the environment may have {', '.join(sorted(_VARIABLES))} alone")
    offset, again = document.get("offset", 0), document.get("again", False)
    if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0 or not isinstance(again, bool):
        raise UsageError("offset is no number of bytes, or again is neither true nor false")
    key = _text(document["key"], "key")
    if not 16 <= len(key) <= 128:
        raise UsageError("the key has not 16 to 128 characters")
    return CommandRequest(
        key=key,
        words=tuple(_text(word, "a word") for word in words),
        terminal=_terminal(document.get("terminal", {})),
        environment={name: _text(value, name, most=200) for name, value in environment.items()},
        host=_text(document.get("host", ""), "host", most=255),
        ci=_text(document.get("ci", ""), "ci", most=1000),
        inputs=tuple(_file(each, sent=True) for each in _list(document, "inputs", _MAX_FILES)),
        outputs=tuple(_file(each, sent=False) for each in _list(document, "outputs", _MAX_FILES)),
        offset=offset,
        again=again,
    )


def _list(document: Mapping[str, Any], name: str, most: int) -> Sequence[Any]:
    found = document.get(name, [])
    if not isinstance(found, list) or len(found) > most:
        raise UsageError(f"{name} is no list of at most {most}")
    return found


def _text(value: Any, what: str, *, most: int = _MAX_TEXT) -> str:
    if not isinstance(value, str) or len(value) > most or "\0" in value:
        raise UsageError(f"{what} is no text of at most {most} characters")
    return value


def _terminal(document: Any) -> dict[str, list[int] | None]:
    if not isinstance(document, dict) or not set(document) <= {"stdout", "stderr"}:
        raise UsageError("terminal has other keys than stdout and stderr")
    for size in document.values():
        numbers = size is None or (
            isinstance(size, list)
            and len(size) == 2
            and all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each <= _MAX_SIZE for each in size)
        )
        if not numbers:
            raise UsageError("the size of a terminal is not [LINES, COLUMNS]")
    return document


def _file(document: Any, *, sent: bool) -> FileForCommand:
    known = {"name", "shown", "origin", "files"} if sent else {"name", "shown"}
    if not isinstance(document, dict) or set(document) != known:
        raise UsageError(f"a file of a command is no object with {', '.join(sorted(known))}")
    name = _text(document["name"], "the name of a file", most=255)
    if not name or "/" in name or not is_within(name):
        raise UsageError(f"{name!r} is no name of a file")
    files = document.get("files")
    return FileForCommand(
        name=name,
        shown=_text(document["shown"], "what a file is called", most=8192),
        origin=_text(document.get("origin", ""), "the origin of a file", most=8192),
        files=None if files is None else parse_files(files),
    )
