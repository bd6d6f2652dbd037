"""Commands about targets' servers: up, down, restart, upgrade, logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployctl.cli.options import (
    DryRunOption,
    LockTimeoutOption,
    Output,
    OutputOption,
    ReasonOption,
    TargetArgument,
    TimeoutOption,
    patient,
    session,
)
from deployctl.cli.render import write, write_json
from deployctl.domain.duration import format_duration, parse_duration

if TYPE_CHECKING:
    from deployctl.operations.bring_up import TargetChange
    from deployctl.operations.upgrade import Upgraded


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    for command in (up, down, restart, upgrade, logs):
        app.command()(command)


def up(
    context: typer.Context,
    target: TargetArgument = None,
    reason: ReasonOption = "",
    timeout: TimeoutOption = None,
    lock_timeout: LockTimeoutOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a target's server.

    It serves what is recorded for the target. A server that runs already is left running.
    """
    from deployctl.operations.bring_up import BringUp

    with session(context).open(without_database=True) as deployment:
        place = patient(deployment.target(target), lock_timeout)
        usual_s = deployment.settings.targets[place.name].start_timeout_s
        timeout_s = parse_duration(timeout) if timeout else usual_s
        change = BringUp(place, deployment.context)(timeout_s=timeout_s, reason=reason)
    if output is Output.TABLE:
        rest, grpc = change.endpoints.rest, change.endpoints.grpc
        state = "ready" if change.outcome == "started" else f"ready ({change.outcome})"
        write(f"{change.target}   {state}   REST {rest}   gRPC {grpc}   {change.duration_s:.1f} s")
    else:
        _write_change("up", change, output)


def down(
    context: typer.Context,
    target: TargetArgument = None,
    reason: ReasonOption = "",
    timeout: TimeoutOption = None,
    lock_timeout: LockTimeoutOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop a target's server.

    Requests in flight may finish first.
    """
    from deployctl.operations.bring_up import TakeDown

    with session(context).open(without_database=True) as deployment:
        place = patient(deployment.target(target), lock_timeout)
        usual_s = deployment.settings.targets[place.name].stop_timeout_s
        timeout_s = parse_duration(timeout) if timeout else usual_s
        change = TakeDown(place, deployment.context)(timeout_s=timeout_s, reason=reason)
    if output is Output.TABLE:
        write(f"{change.target}   {change.outcome}   {change.duration_s:.1f} s")
    else:
        _write_change("down", change, output)


def restart(
    context: typer.Context,
    target: TargetArgument = None,
    reason: ReasonOption = "",
    timeout: TimeoutOption = None,
    lock_timeout: LockTimeoutOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop a target's server and start it again.

    It serves what is recorded for the target. Until it is back, clients get no answer.
    """
    from deployctl.operations.bring_up import Restart

    with session(context).open(without_database=True) as deployment:
        place = patient(deployment.target(target), lock_timeout)
        usual_s = deployment.settings.targets[place.name].start_timeout_s
        timeout_s = parse_duration(timeout) if timeout else usual_s
        change = Restart(place, deployment.context)(timeout_s=timeout_s, reason=reason)
    if output is Output.TABLE:
        rest, grpc = change.endpoints.rest, change.endpoints.grpc
        write(f"{change.target}   ready ({change.outcome})   REST {rest}   gRPC {grpc}   {change.duration_s:.1f} s")
    else:
        _write_change("restart", change, output)


def upgrade(
    context: typer.Context,
    target: TargetArgument = None,
    image: Annotated[
        str, typer.Option(metavar="IMAGE", help="By tag or digest; default: the settings' image of the target.")
    ] = "",
    reason: ReasonOption = "",
    timeout: TimeoutOption = None,
    lock_timeout: LockTimeoutOption = None,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Exchange the image of a target's container.

    The new one is started beside the old one and asked golden or random requests first. Where it answers otherwise, the
    old one stays.
    """
    from deployctl.upgrading import upgrade_of

    with session(context).open() as deployment:
        place = patient(deployment.target(target), lock_timeout)
        settings = deployment.settings.targets[place.name]
        timeout_s = parse_duration(timeout) if timeout else settings.start_timeout_s
        done = upgrade_of(deployment, place, image)(timeout_s=timeout_s, reason=reason, dry_run=dry_run)
        if done.outcome != "planned" and done.after.name != settings.image:
            deployment.context.observer.warn(
                f"the settings still name {settings.image}, which the next `up` after a `down` would start: "
                f'set targets.{place.name}.image = "{done.after.name}"'
            )
    if output is Output.JSON:
        write_json("upgrade", _upgrade_document(done))
    else:
        write(done.target if output is Output.NAME else _upgrade_words(done))


def _upgrade_words(done: Upgraded) -> str:
    if done.outcome == "unchanged":
        return f"{done.target}   {done.after} runs already   {done.after.digest}"
    if done.outcome == "planned":
        return f"{done.target}   would exchange {done.before} for {done.after}, which answers alike"
    gap = f"{format_duration(done.gap_s)} without a server" if done.gap_s else "no gap"
    return f"{done.target}   {done.before} -> {done.after}   {gap}   {format_duration(done.duration_s)}"


def _upgrade_document(done: Upgraded) -> dict[str, Any]:
    return {
        "target": done.target,
        "outcome": done.outcome,
        "before": done.before.to_json(),
        "after": done.after.to_json(),
        "compared": [
            {
                "model": each.model,
                "version": each.version,
                "outcome": each.verdict.outcome.value,
                "summary": each.verdict.summary,
            }
            for each in done.compared
        ],
        "endpoints": {"rest": done.endpoints.rest, "grpc": done.endpoints.grpc},
        "gap_s": done.gap_s,
        "duration_s": done.duration_s,
    }


def logs(
    context: typer.Context,
    target: TargetArgument = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines, counted from the end.")] = 100,
    since: Annotated[str | None, typer.Option(help="Only lines of the last, such as 1m.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until interrupted.")] = False,
) -> None:
    """Print the server's log."""
    with session(context).open() as deployment:
        runtime = deployment.target(target).runtime
        since_s = parse_duration(since) if since else None
        for line in runtime.logs(lines=None if since else lines, since_s=since_s, follow=follow):
            write(line)


def _write_change(noun: str, change: TargetChange, output: Output) -> None:
    if output is Output.NAME:
        write(change.target)
        return
    endpoints = {"rest": change.endpoints.rest, "grpc": change.endpoints.grpc}
    document: dict[str, Any] = {"target": change.target, "outcome": change.outcome}
    write_json(noun, document | {"endpoints": endpoints, "duration_s": change.duration_s})
