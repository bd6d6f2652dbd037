"""Where a command runs: here, or with a server set, on the daemon's side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typer.core import TyperGroup

from deployctl.acting import is_for_another
from deployctl.errors import UsageError

SERVER_VARIABLE = "DEPLOYCTL_SERVER"
# Commands that concern the machine on which they are typed, whatever server is set.
HERE = frozenset({"init", "daemon", "inspect", "convert", ("db", "upgrade")})


@dataclass(frozen=True, slots=True)
class Server:
    """A daemon that is to run the command.

    Attributes:
        url: of its HTTP API.
        token_file: the file with the token, "" for the token of the environment.
        ca_file: certificates that its own may lead to, "" for the system's.
    """

    url: str
    token_file: str = ""
    ca_file: str = ""


class PlacedGroup(TyperGroup):
    """Runs a command where it belongs."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        words = [*ctx._protected_args, *ctx.args]
        if is_for_another():
            from deployctl.cli.remote_child import admitted

            ctx.invoked_subcommand = words[0] if words else None
            found = admitted(self, ctx, words)
            ctx._protected_args, ctx.args = found[:1], found[1:]
            return super().invoke(ctx)
        server = server_of(ctx.params, os.environ)
        if server is not None and words:
            ctx.invoked_subcommand = words[0]
        if server is None or not words or _is_for_here(words):
            if server is not None:
                _check_nothing_is_meant_for_there(words, server)
            return super().invoke(ctx)
        from deployctl.cli.remote import call_for_there, run_there

        call = call_for_there(self, ctx, words)
        return super().invoke(ctx) if call is None else run_there(call, server)


def server_of(parameters: Mapping[str, Any], environment: Mapping[str, str]) -> Server | None:
    """Returns the daemon that the words before the command, or the environment, name; None for none."""
    url = parameters.get("server") or environment.get(SERVER_VARIABLE)
    if not url:
        return None
    return Server(str(url), str(parameters.get("token_file") or ""), str(parameters.get("ca_file") or ""))


def _check_nothing_is_meant_for_there(words: Sequence[str], server: Server) -> None:
    """Refuses to publish on this machine, after a long conversion, what is meant for a daemon's."""
    if words[:1] == ["convert"] and any(word == "--publish" or word.startswith("--publish=") for word in words):
        raise UsageError(
            f"convert runs on this machine, and would not publish to {server.url}: write the result with --out, and "
            "publish that",
            hint="deployctl convert --help",
        )


def _is_for_here(words: Sequence[str]) -> bool:
    return words[0] in HERE or tuple(words[:2]) in HERE
