"""Runs a command on the daemon's side: its words and files go there, and what it writes and its exit code come back."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import typer

from deployctl.cli.placing import Server
from deployctl.cli.progress import TerminalObserver
from deployctl.cli.remote_connection import Api, ConnectionLostError, RefusalError, api_of, is_in_the_clear
from deployctl.cli.remote_files import (
    Input,
    Outputs,
    file_input,
    safely_shown,
    send,
    sendable_name,
    standard_input,
    tree_input,
)
from deployctl.cli.remote_rules import RULES, FileKind, Rule
from deployctl.cli.words import Call, Word, read_call
from deployctl.errors import DeployctlError, ServerUnavailableError, TimedOutError, UsageError

# How long a connection that broke is made again before the command is left to itself.
_RECONNECT_S = 60.0
_LONGEST_PAUSE_S = 2.0
_GONE = 410
# What has an operation that can be waited for; what else is changed, the history tells.
_JOURNALLED = frozenset({"publish", "promote", "rollback", "up", "down", "restart", "upgrade", "op resume", "op abort"})
_PASSED_ON = ("NO_COLOR", "TERM", "DEPLOYCTL_TARGET")


def call_for_there(group: Any, context: Any, words: Sequence[str]) -> Call | None:
    """Returns the call that the words make, None where it is to run here after all.

    Raises:
        UsageError: the words cannot be meant for another machine.
    """
    given = {"--config": context.params.get("config"), "--set": context.params.get("flags")}
    for option, value in given.items():
        if value:
            raise UsageError(
                f"{option} is not for a command that runs on the daemon's side, under the daemon's settings",
                hint="env -u DEPLOYCTL_SERVER deployctl --help",
            )
    call = read_call(group, context, words)
    rule = RULES.get(call.name)
    if rule is None:
        raise UsageError(
            f"{call.name} runs on the machine itself, and not through a server",
            hint=f"env -u DEPLOYCTL_SERVER deployctl {call.name} --help",
        )
    for word in call.words:
        kind = rule.files.get(word.parameter)
        if kind is FileKind.HERE:
            return None
        if kind is FileKind.KEPT:
            raise UsageError(
                f"{word.option} names a file that is not to leave this machine, and {call.name} runs on the daemon's",
                hint=f"env -u DEPLOYCTL_SERVER deployctl {call.name} --help",
            )
    return call


def run_there(call: Call, server: Server) -> None:
    """Runs the command on the daemon's side, and exits as it does.

    Raises:
        ServerUnavailableError: the daemon cannot be reached; nothing was done.
        TimedOutError: the connection was lost for good while the command ran.
        typer.Exit: the command has ended.
    """
    api, rule = api_of(server), RULES[call.name]
    with ExitStack() as stack:
        observer = stack.enter_context(TerminalObserver())
        if is_in_the_clear(api):
            observer.warn(f"the token crosses the network unencrypted to {api.url.geturl()}")
        parcel = _packed(call, rule, stack)
        outputs = Outputs(parcel.outputs)
        stack.callback(outputs.discard)
        try:
            if parcel.inputs:
                send(api, parcel.inputs, model=next(iter(parcel.call.values("model")), None), observer=observer)
        except RefusalError as error:
            # As a wrong word is told here.
            hint = f"deployctl {call.path[0]} --help" if error.exit_code == UsageError.exit_code else None
            error.hint = error.hint or hint
            raise
        except ConnectionLostError as error:
            raise ServerUnavailableError(
                f"the connection to {api.url.geturl()} broke: {error}", hint=f"curl -sS {api.url.geturl()}/healthz"
            ) from error
        # What this command shows from here on comes from there.
        observer.__exit__(None, None, None)
        code = _Listener(api, parcel, rule, outputs, options=_options(server)).run()
        outputs.keep()
    raise typer.Exit(code)


@dataclass(slots=True)
class _Parcel:
    """A call whose files are named by their number among those that go with it, or come back."""

    call: Call
    inputs: list[Input] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def _packed(call: Call, rule: Rule, stack: ExitStack) -> _Parcel:
    parcel = _Parcel(call)

    def packed(word: Word) -> Word:
        kind = rule.files.get(word.parameter)
        if kind is None or word.value is None:
            return word
        return replace(word, value=_packed_value(parcel, kind, word.value, stack))

    if call.name == "publish" and not call.has("model"):
        from deployctl.repository.sources import ExportSource

        name = ExportSource(call.values("export")[0]).name
        call = replace(call, words=(*call.words, Word("model", "--model", name)))
    parcel.call = call.changed(packed)
    parcel.inputs = [each.hashed() for each in parcel.inputs]
    return parcel


def _packed_value(parcel: _Parcel, kind: FileKind, value: str, stack: ExitStack) -> str:
    """Returns what stands for a value that names a file of this machine."""
    make: Callable[[str], Input] = file_input
    if kind is FileKind.COMMIT:
        from deployctl.cli.provenance import code_commit

        return code_commit(value)
    if kind is FileKind.WRITTEN:
        parcel.outputs.append(value)
        return f"out:{len(parcel.outputs) - 1}"
    if kind is FileKind.EXPORT and "://" not in value:
        make = tree_input
    elif kind is FileKind.SUBJECT:
        from deployctl.cli.validation import export_path

        if export_path(value) is None or "://" in value:
            return value
        make = tree_input
    elif kind is FileKind.READ and value == "-":
        parcel.inputs.append(stack.enter_context(standard_input()))
        return f"in:{len(parcel.inputs) - 1}"
    elif kind is not FileKind.READ:
        return value
    parcel.inputs.append(make(value))
    return f"in:{len(parcel.inputs) - 1}"


class _Listener:
    """Gives one command, and passes on what comes of it until it has ended."""

    def __init__(self, api: Api, parcel: _Parcel, rule: Rule, outputs: Outputs, *, options: str) -> None:
        self._api = api
        self._options = options
        self._name = parcel.call.name
        self._reads = rule.reads
        self._outputs = outputs
        self._key = secrets.token_hex(16)
        self._request = _request(parcel, self._key)
        self._offset = 0
        self._heard_at = time.monotonic()
        self._operation = ""
        self._interrupts = 0
        self._untold = False
        self._unread = False
        self._code: int | None = None

    def run(self) -> int:
        """Returns the command's exit code."""
        pause_s, given = 0.1, False
        while True:
            before = self._offset
            try:
                self._listen(again=given)
            except KeyboardInterrupt:
                self._interrupt()
            except ServerUnavailableError as error:
                if not given:
                    raise
                self._give_up_in_time(error)
            except ConnectionLostError as error:
                self._give_up_in_time(error)
            given = True
            if self._code is not None:
                return 0 if self._unread and self._code in {0, 130} else self._code
            pause_s = 0.1 if self._offset > before else min(2 * pause_s, _LONGEST_PAUSE_S)
            try:
                threading.Event().wait(pause_s)
            except KeyboardInterrupt:
                self._interrupt()

    def _listen(self, *, again: bool) -> None:
        document = {**self._request, "offset": self._offset, "again": again and not self._reads}
        with self._api.request("POST", "/v1/commands", json.dumps(document).encode()) as response:
            while line := response.readline():
                if not line.endswith(b"\n"):
                    break
                self._heard_at = time.monotonic()
                if line != b"\n":  # which only says that the command still runs
                    self._offset += len(line)
                    self._take(json.loads(line))
                if self._code is not None:
                    return
                if self._untold:
                    self._tell_of_interrupt()
        raise ConnectionLostError("the answer ended early")

    def _take(self, frame: dict[str, Any]) -> None:
        ((kind, content),) = frame.items()
        match kind:
            case "began":
                self._operation = content["operation"]
            case "stdout":
                self._write(content)
            case "stderr":
                with suppress(OSError):
                    sys.stderr.buffer.write(content.encode("utf-8", "surrogateescape"))
                    sys.stderr.flush()
            case "file":
                import base64

                self._outputs.take(content["index"], base64.b64decode(content["data"]))
            case "exit":
                self._code = int(content)
            case _:
                raise self._lost(f"the command {self._name} was cut off on the daemon's side")

    def _write(self, text: str) -> None:
        if self._unread:
            return
        try:
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # Whoever read it is gone. What changes something goes on to its end.
            self._unread = True
            if self._reads:
                self._tell_of_interrupt()

    def _interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            print(f"the command goes on at {self._api.url.geturl()}; {self._what_became()}", file=sys.stderr)
            raise KeyboardInterrupt
        self._tell_of_interrupt()

    def _tell_of_interrupt(self) -> None:
        name = sha256(self._key.encode()).hexdigest()[:32]
        try:
            self._api.ask("DELETE", f"/v1/commands/{name}", timeout_s=10.0)
        except (DeployctlError, ConnectionLostError):
            # The daemon is away, or has not heard of the command yet: told again with the next that comes from there.
            self._untold = True
        else:
            self._untold = False

    def _give_up_in_time(self, error: Exception) -> None:
        if time.monotonic() - self._heard_at > _RECONNECT_S:
            after = "" if self._reads else f", and what became of the {self._name} there is not known"
            raise self._lost(f"the connection to {self._api.url.geturl()} was lost{after}: {error}") from error

    def _lost(self, words: str) -> TimedOutError:
        return TimedOutError(words, hint=self._what_became())

    def _what_became(self) -> str:
        """Returns the command that tells what became of this one."""
        if self._reads:
            return f"deployctl {self._options} status"
        if self._name not in _JOURNALLED:
            return f"deployctl {self._options} history"
        return f"deployctl {self._options} op {f'wait {self._operation}' if self._operation else 'list'}"


def _options(server: Server) -> str:
    """Returns the words that name the same server, for another command; a token of the environment is there again."""
    named = {"--server": server.url, "--token-file": server.token_file, "--ca-file": server.ca_file}
    return shlex.join(word for option, value in named.items() if value for word in (option, value))


def _request(parcel: _Parcel, key: str) -> dict[str, Any]:
    from deployctl.system import find_actor

    actor = find_actor(os.environ, ["deployctl"])
    return {
        "key": key,
        "words": parcel.call.typed(),
        "terminal": {"stdout": _terminal(sys.stdout), "stderr": _terminal(sys.stderr)},
        "environment": {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)},
        "host": actor.host,
        "ci": actor.ci,
        "inputs": [{**each.document(), "shown": safely_shown(each.shown)} for each in parcel.inputs],
        "outputs": [{"name": sendable_name(each), "shown": safely_shown(each)} for each in parcel.outputs],
    }


def _terminal(stream: Any) -> list[int] | None:
    """Returns the lines and columns of a terminal, None for what is none."""
    if not stream.isatty():
        return None
    with suppress(OSError):
        size = os.get_terminal_size(stream.fileno())
        return [size.lines, size.columns]
    return [24, 80]
