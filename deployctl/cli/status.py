"""The command that shows what each target serves: the page to look at in an incident."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployctl.cli import completion
from deployctl.cli.options import Output, OutputOption, TargetArgument, session
from deployctl.cli.render import style, write, write_json, write_table
from deployctl.documents.status import target_document
from deployctl.domain.duration import format_duration
from deployctl.domain.names import CANARY, STABLE
from deployctl.domain.revision import BREAK_GLASS
from deployctl.errors import DegradedError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from deployctl.bootstrap import Deployment
    from deployctl.domain.revision import Revision
    from deployctl.operations.status import ModelOnTarget, TargetStatus


_WATCH_S = 2.0
# The exit code of what is not decided yet (TimedOutError has it too).
_PROGRESSING = 4


def register(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command()(status)


def status(
    context: typer.Context,
    target: TargetArgument = None,
    model: Annotated[str | None, typer.Option(help="Only this model.", autocompletion=completion.models)] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the versions' files with their manifests.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again every 2 s, until interrupted.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what each target serves now.

    Exit 6 if a target does not serve what is recorded for it, 4 while an operation is changing one.
    """
    with session(context).open(without_database=True) as deployment:
        found = _look(deployment, target, model, verify=verify)
        _show(found, output, deployment.context.clock.now())
        while watch:
            # Whoever reads it from a pipe wants it now as well.
            sys.stdout.flush()
            deployment.context.clock.pause(_WATCH_S)
            found = _look(deployment, target, model, verify=verify)
            if sys.stdout.isatty():
                # Clears what is below the place that it goes back to, so that nothing flickers.
                write("\x1b[H\x1b[J", end="")
            _show(found, output, deployment.context.clock.now())
    unhealthy = [each for each in found if not each.healthy]
    if unhealthy:
        words = "; ".join(_unhealthy(each) for each in unhealthy)
        raise DegradedError(words, hint=_mend(unhealthy[0]))
    if any(each.operations for each in found):
        raise typer.Exit(_PROGRESSING)


def _look(deployment: Deployment, target: str | None, model: str | None, *, verify: bool) -> list[TargetStatus]:
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.status import target_status

    names = [deployment.target_name(target)] if target else list(deployment.settings.targets)
    wanted = parse_model_name(model) if model else None
    found = [target_status(deployment.target(name), deployment.context, model=wanted, verify=verify) for name in names]
    if wanted and not any(each.models for each in found) and not deployment.repository.versions(wanted):
        raise ModelNotFoundError(wanted)
    return found


def _show(found: list[TargetStatus], output: Output, now: datetime) -> None:
    if output is Output.JSON:
        write_json("status", {"targets": [target_document(each) for each in found]})
    elif output is Output.NAME:
        for each in found:
            for served in each.models:
                write(f"{each.name}/{served.name}{_at(served.live) if served.live is not None else ''}")
    else:
        rows = [row for each in found for row in _status_rows(each, now)]
        header = ("TARGET", "MODEL", "STABLE", "CANARY", "SINCE", "BY", "STANDBY", "ROLLBACK", "STATE")
        write_table(header, rows, whole=("STATE",))
        for each in found:
            _write_notes(each)


def _write_notes(target: TargetStatus) -> None:
    if target.runtime == "docker" and target.detail:
        write(f"{target.name}: {', '.join(f'{name} {value}' for name, value in target.detail.items())}")
    for freeze in target.freezes:
        write(str(freeze))
    for operation in target.operations:
        write(f"{target.name}: {operation} is in phase {operation.phase}")
    for words in target.drift:
        write(f"{target.name}: {words}")
    for served in target.models:
        for words in _model_notes(served):
            write(f"{target.name}/{served.name}: {words}")


def _model_notes(served: ModelOnTarget) -> Iterator[str]:
    others = [f"{label} @{version}" for label, version in served.labels.items() if label not in (STABLE, CANARY)]
    if others:
        yield f"other labels: {', '.join(others)}"
    if served.reason:
        yield f"revision {served.revision}: {served.reason}"
    for version, quarantine in served.quarantined.items():
        yield f"@{version} serves, and {quarantine}"
    if not served.running:
        yield from served.drift
    yield from map(_owed_review, served.unreviewed)


def _status_rows(target: TargetStatus, now: datetime) -> list[tuple[str, ...]]:
    if not target.models:
        return [(target.name, "-", "-", "-", "-", "-", "-", "-", style_state(target, None))]
    rows: list[tuple[str, ...]] = []
    for served in target.models:
        labels = served.labels
        stable = labels.get(STABLE, served.live)
        canary = labels.get(CANARY)
        ready = served.rollback
        back = "-"
        if ready:
            about = f", about {format_duration(ready.estimate_s)}" if ready.estimate_s is not None else ""
            back = f"{ready.rollout_class} to @{ready.version}{about}"
        rows.append(
            (
                target.name,
                served.name,
                _at(stable),
                _at(canary),
                format_duration((now - served.since).total_seconds()),
                str(served.actor),
                " ".join(map(_at, served.standby)) or "-",
                back,
                style_state(target, served),
            )
        )
    return rows


def _owed_review(revision: Revision) -> str:
    passed = revision.evidence[BREAK_GLASS]
    return f"revision {revision.number} by {revision.actor} was made under {passed['ticket']} and is not reviewed"


def _at(version: Any) -> str:
    return "-" if version is None else f"@{version}"


def style_state(target: TargetStatus, served: ModelOnTarget | None) -> str:
    """Returns one word for how a model on a target is."""
    if target.state != "ready":
        return style(target.state.value, "red", sys.stdout)
    if target.error:
        return style("unreachable", "red", sys.stdout)
    if served is None:
        return style("drift", "red", sys.stdout) if target.drift else "ready"
    if served.running:
        return style("progressing", "yellow", sys.stdout)
    if served.interrupted:
        return style("interrupted", "yellow", sys.stdout)
    drift = served.drift or target.drift
    return style("drift", "red", sys.stdout) if drift else style("healthy", "green", sys.stdout)


def _mend(target: TargetStatus) -> str:
    for served in target.models:
        for version in served.changed:
            # No start makes them what they were.
            return f"deployctl verify {served.name}@{version}"
    return f"deployctl up {target.name}"


def _unhealthy(target: TargetStatus) -> str:
    if target.state != "ready" or target.error:
        return f"target {target.name} is {target.state.value}{': ' + target.error if target.error else ''}"
    interrupted = [served.name for served in target.models if served.interrupted]
    if interrupted:
        return f"an operation on {', '.join(interrupted)} on {target.name} was interrupted"
    drifted = ", ".join(served.name for served in target.models if served.drift)
    if not drifted:
        return f"the server of {target.name} would not start with what is recorded: {target.drift[0]}"
    return f"target {target.name} does not serve what is recorded for {drifted}"
