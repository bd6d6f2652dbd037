"""The daemon's own command."""

from __future__ import annotations

from typing import Annotated

import typer

from deployctl.cli.options import session


def register(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command()(daemon)


def daemon(
    context: typer.Context,
    log_format: Annotated[str, typer.Option(metavar="text|json", help="How log lines are written.")] = "text",
) -> None:
    """Watch inboxes, keep targets as recorded, and answer the HTTP API.

    Runs in the foreground until SIGTERM; SIGHUP reads the settings again. Of several daemons on one lineage database
    one leads, and the others stand by.
    """
    from deployctl.daemon.logs import LogFormat, start_logging
    from deployctl.daemon.loop import Daemon
    from deployctl.errors import UsageError

    try:
        chosen = LogFormat(log_format)
    except ValueError as error:
        raise UsageError(f"{log_format!r} is no format of the log: text or json") from error
    start_logging(chosen)
    Daemon(lambda: session(context).load().settings).run()
