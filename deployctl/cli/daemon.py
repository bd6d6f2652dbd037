"""The daemon's own command."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from deployctl.acting import SETTINGS_VARIABLE
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
    ours = session(context)
    # Commands for clients elsewhere run in processes of their own, under the same settings.
    given = {"config": str(ours.config.absolute()) if ours.config else None, "flags": ours.flags}
    os.environ[SETTINGS_VARIABLE] = json.dumps(given)
    Daemon(lambda: ours.load().settings).run()
