"""The command: its groups, the options before the command, and the one place where errors become words."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deployctl import __version__
from deployctl.cli import database, rollouts, servers, settings, versions
from deployctl.cli.options import Session
from deployctl.cli.render import style
from deployctl.errors import DeployctlError

_INTERRUPTED = 130


class BoundaryGroup(TyperGroup):
    """Turns errors of the tree into a sentence, a hint and an exit code; anything else is a bug and keeps its trace."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except DeployctlError as error:
            _tell(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(_INTERRUPTED) from error
        except BrokenPipeError as error:
            # The reader of our output is gone; nothing is left to say, at exit neither.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error


app = typer.Typer(
    cls=BoundaryGroup,
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
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Publish TensorFlow models as numbered versions, promote them, and roll back."""
    del version
    context.obj = Session(config, tuple(flags or ()))


for module in (settings, servers, versions, rollouts, database):
    module.register(app)


def main() -> None:
    """Runs the command line of this process."""
    app()


def _tell(error: DeployctlError) -> None:
    print(f"{style('error:', 'red', sys.stderr)} {error}", file=sys.stderr)
    if error.hint:
        print(f"{style('hint:', 'dim', sys.stderr)}  {error.hint}", file=sys.stderr)
