"""Commands about notifications: notifications list, dead, retry, test."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from deployctl.cli.options import Output, OutputOption, session
from deployctl.cli.render import short_time, style, write, write_json, write_table
from deployctl.documents.notifications import channel_document, dead_document
from deployctl.errors import NotFoundError, NotificationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deployctl.bootstrap import Deployment
    from deployctl.config.daemon_settings import NotificationSettings
    from deployctl.lineage.deliveries import ChannelState

notifications_app = typer.Typer(help="See who is told what, and send again what was given up.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The channel: NAME of [notifications.NAME].")]


def register(app: typer.Typer) -> None:
    """Adds the group to `app`."""
    app.add_typer(notifications_app, name="notifications")


@notifications_app.command("list")
def list_channels(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Show the channels, and what each is still to be told.

    A channel begins with what happens after the daemon first sees it in the settings.
    """
    from deployctl.daemon.notify_call import shown_address

    with session(context).open() as deployment:
        channels = deployment.settings.notifications
        with deployment.deliveries() as deliveries:
            states = deliveries.states()
    if output is Output.JSON:
        found = [channel_document(name, each, states.get(name), shown_address(each)) for name, each in channels.items()]
        write_json("notifications", {"channels": found})
    elif output is Output.NAME:
        for name in channels:
            write(name)
    else:
        header = ("NAME", "FORMAT", "URL", "EVENTS", "OUTSTANDING", "DEAD", "ERROR")
        write_table(header, [_row(name, each, states.get(name)) for name, each in channels.items()])


@notifications_app.command("dead")
def list_dead(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only of this channel.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the notifications that were given up.

    They are kept until `notifications retry`.
    """
    from deployctl.daemon.notify_words import given_up

    with session(context).open() as deployment:
        if name is not None:
            _channel(deployment, name)
        with deployment.deliveries() as deliveries:
            found = given_up(deployment.settings, deliveries, name)
    if output is Output.JSON:
        write_json("dead-notifications", {"notifications": [dead_document(each, text) for each, text in found]})
    elif output is Output.NAME:
        for each, _ in found:
            write(f"{each.channel}/{each.sequence}")
    else:
        header = ("CHANNEL", "EVENT", "ATTEMPTS", "GIVEN UP", "ERROR", "WHAT")
        rows = [
            (each.channel, str(each.sequence), str(each.attempts), short_time(each.next_at), each.error, text)
            for each, text in found
        ]
        write_table(header, rows)


@notifications_app.command()
def retry(
    context: typer.Context,
    name: NameArgument,
    sequences: Annotated[
        list[int] | None, typer.Argument(metavar="[EVENT]...", help="Only these, as `dead` shows them.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let the daemon send again what was given up.

    Exit 9 if nothing of it is dead.
    """
    with session(context).open() as deployment:
        _channel(deployment, name)
        with deployment.deliveries() as deliveries:
            known = {each.sequence for each in deliveries.dead(name)}
            unknown = sorted(set(sequences or ()) - known)
            if unknown or not known:
                what = f"event {unknown[0]} is not" if unknown else "nothing is"
                raise NotFoundError(
                    f"{what} among what {name} was given up", hint=f"deployctl notifications dead {name}"
                )
            chosen = sorted(set(sequences or known))
            deliveries.revive(name, chosen)
    if output is Output.JSON:
        write_json("notifications-retry", {"channel": name, "events": chosen})
    elif output is Output.NAME:
        for sequence in chosen:
            write(f"{name}/{sequence}")
    else:
        write(f"{name}  {len(chosen)} to be sent again by the daemon")


@notifications_app.command("test")
def send_test(context: typer.Context, name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Call a channel now with a notification that says it is a test.

    From this process, with the secrets of its environment. Exit 10 if the receiver does not take it.
    """
    from deployctl.daemon.notify_call import Call, webhook
    from deployctl.daemon.notify_words import trial
    from deployctl.domain.manifest import format_time

    with session(context).open() as deployment:
        hook = webhook(name, _channel(deployment, name), os.environ)
        now = deployment.context.clock.now()
        found = trial(name, deployment.context.operation, format_time(now))
        try:
            Call(hook)(found, timestamp=int(now.timestamp()))
        except NotificationError as error:
            raise NotificationError(f"{name} was not told: {error}", hint="deployctl notifications list") from error
    if output is Output.JSON:
        write_json("notifications-test", {"channel": name, "id": deployment.context.operation})
    else:
        write(name if output is Output.NAME else f"{hook} took it")


def _channel(deployment: Deployment, name: str) -> NotificationSettings:
    channels: Mapping[str, NotificationSettings] = deployment.settings.notifications
    if name not in channels:
        known = ", ".join(channels) or "none"
        raise UsageError(
            f"there is no notifications.{name} in the settings, but: {known}", hint="deployctl notifications list"
        )
    return channels[name]


def _row(name: str, settings: NotificationSettings, state: ChannelState | None) -> tuple[str, ...]:
    from deployctl.daemon.notify_call import shown_address

    events = ",".join(settings.events) or "all"
    if state is None:
        return (name, settings.format.value, shown_address(settings), events, "-", "-", "no daemon has seen it yet")
    dead = style(str(state.dead), "red", sys.stdout) if state.dead else "0"
    waiting = str(state.outstanding) + (f" (+{state.behind} events)" if state.behind else "")
    return (name, settings.format.value, shown_address(settings), events, waiting, dead, state.error or "-")
