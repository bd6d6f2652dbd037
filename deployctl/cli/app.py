"""The command: its groups, the options before the command, and the one place where errors become words."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from deployctl import __version__
from deployctl.acting import inherited_settings, is_for_another
from deployctl.cli import bash_completion
from deployctl.cli.lazy import LazyGroup
from deployctl.cli.options import Session
from deployctl.cli.placing import PlacedGroup
from deployctl.cli.render import style
from deployctl.errors import DeployctlError, UsageError

_INTERRUPTED = 130


class BoundaryGroup(PlacedGroup):
    """Turns errors of the tree into a sentence, a hint and an exit code; anything else is a bug and keeps its trace."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            result = super().invoke(ctx)
            # What is still buffered is written here, where a closed pipe is understood.
            sys.stdout.flush()
            return result
        except DeployctlError as error:
            with suppress(BrokenPipeError):
                sys.stdout.flush()
            _tell(error, command=ctx.invoked_subcommand)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(_INTERRUPTED) from error
        except RuntimeError as error:
            # Python wraps an interrupt that comes while it makes a class for an import (type.__new__, __set_name__).
            if not isinstance(error.__cause__, KeyboardInterrupt):
                raise
            print("interrupted", file=sys.stderr)
            raise typer.Exit(_INTERRUPTED) from error
        except BrokenPipeError as error:
            # The reader of our output is gone; nothing is left to say.
            raise typer.Exit(0) from error


class RootGroup(LazyGroup, BoundaryGroup):
    """All commands, in the order of the help."""

    modules: ClassVar[Mapping[str, str]] = {
        "init": "settings",
        "doctor": "settings",
        "up": "servers",
        "down": "servers",
        "restart": "servers",
        "upgrade": "servers",
        "logs": "servers",
        "publish": "versions",
        "versions": "versions",
        "show": "versions",
        "diff": "differences",
        "verify": "versions",
        "adopt": "versions",
        "retire": "retire",
        "inspect": "inspection",
        "validate": "validation",
        "promote": "rollouts",
        "rollback": "rollouts",
        "history": "rollouts",
        "status": "status",
        "freeze": "holds",
        "unfreeze": "holds",
        "quarantine": "holds",
        "review": "holds",
        "predict": "prediction",
        "gc": "stores",
        "copy": "stores",
        "daemon": "daemon",
        "notifications": "notifications",
        "token": "tokens",
        "config": "settings",
        "convert": "conversion",
        "golden": "golden",
        "op": "journal",
        "lock": "journal",
        "s3": "stores",
        "db": "database",
        "audit": "database",
    }


app = typer.Typer(
    cls=RootGroup,
    name="deployctl",
    help="Publish TensorFlow models as numbered versions, promote them, and roll back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"deployctl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings file; default: ./deployctl.toml, the user's, or /etc/deployctl's."),
    ] = None,
    flags: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one setting for this run; repeatable.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Run the command on the side of this daemon; default: $DEPLOYCTL_SERVER."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --server: the token; default: $DEPLOYCTL_TOKEN.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --server: certificates to trust; default: the system's.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Publish TensorFlow models as numbered versions, promote them, and roll back."""
    del version, server, token_file, ca_file  # `PlacedGroup` has read them
    context.obj = Session(*inherited_settings()) if is_for_another() else Session(config, tuple(flags or ()))


def main() -> None:
    """Runs the command line of this process."""
    if sys.stderr is None:  # it was closed by whoever started this process
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as above
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that is no text in this encoding is shown escaped.
            stream.reconfigure(errors="backslashreplace")
    try:
        if bash_completion.is_asked_for():
            bash_completion.complete(_run)
        else:
            _run()
    finally:
        _leave_quietly()


def _run() -> None:
    app(prog_name="deployctl")


def _leave_quietly() -> None:
    """Keeps the interpreter from complaining at its exit of a reader that has gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(error: DeployctlError, *, command: str | None) -> None:
    hint = error.hint
    if hint is None and isinstance(error, UsageError):
        hint = f"deployctl {command} --help" if command else "deployctl --help"
    print(f"{style('error:', 'red', sys.stderr)} {error}", file=sys.stderr)
    if hint:
        print(f"{style('hint:', 'dim', sys.stderr)}  {hint}", file=sys.stderr)
