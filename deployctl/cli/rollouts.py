"""Commands about what a target serves: promote, rollback, status, history."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployctl.cli import completion
from deployctl.cli.options import (
    DryRunOption,
    IfCurrentOption,
    OptionalModelArgument,
    Output,
    OutputOption,
    ReasonOption,
    ReferenceArgument,
    TargetArgument,
    TargetOption,
    TimeoutOption,
    session,
)
from deployctl.cli.render import short_time, style, write, write_json, write_table
from deployctl.domain.duration import format_duration, parse_duration
from deployctl.domain.names import CANARY, STABLE
from deployctl.errors import DegradedError, InvalidReferenceError, ModelNotFoundError, UsageError

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.domain.event import Event
    from deployctl.operations.promote import Promotion
    from deployctl.operations.rollback import RolledBack
    from deployctl.operations.status import ModelOnTarget, TargetStatus


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    for command in (promote, rollback, status, history):
        app.command()(command)


def promote(
    context: typer.Context,
    reference: ReferenceArgument,
    target: TargetOption = None,
    label: Annotated[str, typer.Option(help="The label that moves.")] = "stable",
    reason: ReasonOption = "",
    if_current: IfCurrentOption = None,
    timeout: TimeoutOption = None,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a version the one that clients reach.

    It is loaded and probed beside the old one first, and the old one is let go last. Exit 5 if it failed and the
    previous state was restored and verified, 6 if that failed too.
    """
    from deployctl.domain.names import parse_label_name
    from deployctl.domain.reference import parse_reference
    from deployctl.operations.promote import Promote, PromoteRequest

    with session(context).open() as deployment:
        place = deployment.target(target)
        request = PromoteRequest(
            reference=parse_reference(reference),
            label=parse_label_name(label),
            reason=reason,
            if_current=if_current,
            timeout_s=_load_timeout(deployment, place.name, timeout),
            dry_run=dry_run,
        )
        promotion = Promote(place, deployment.context)(request)
    if output is Output.JSON:
        write_json("promote", asdict(promotion))
    elif output is Output.NAME:
        write(f"{promotion.model}@{promotion.version}")
    else:
        write(_promotion_line(promotion))


def _promotion_line(promotion: Promotion) -> str:
    name = f"{promotion.model}@{promotion.version}"
    if promotion.outcome == "planned":
        previous = f"instead of @{promotion.previous_version}" if promotion.previous_version is not None else ""
        return f"{name} would serve {promotion.label} on {promotion.target} {previous}".rstrip()
    verb = "serves" if promotion.outcome == "serving" else "already serves"
    standby = "   standby " + " ".join(f"@{version}" for version in promotion.standby) if promotion.standby else ""
    return (
        f"{name} {verb} {promotion.label} on {promotion.target}   revision {promotion.revision}"
        f"{standby}   {format_duration(promotion.duration_s)}"
    )


def rollback(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[@VERSION]",
            help="Model; with @VERSION, to the newest revision that served it. Default: the last known good.",
            autocompletion=completion.references,
        ),
    ],
    target: TargetOption = None,
    to_revision: Annotated[int | None, typer.Option("--to", min=1, help="To this revision number.")] = None,
    reason: ReasonOption = "",
    if_current: IfCurrentOption = None,
    timeout: TimeoutOption = None,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Return to what served before.

    Without a version or revision: to the last known good one. Recorded as a new revision.
    """
    from deployctl.domain.names import parse_model_name
    from deployctl.domain.reference import ByNumber, parse_reference
    from deployctl.operations.rollback import Rollback, RollbackRequest

    to_version = None
    if "@" in model and to_revision is not None:
        raise UsageError(f"{model} names a version and --to a revision: give one of them")
    if "@" in model:
        reference = parse_reference(model)
        if not isinstance(reference.selector, ByNumber):
            raise InvalidReferenceError(model, "a rollback goes to a version by its number, or with --to to a revision")
        model, to_version = reference.model, reference.selector.number
    with session(context).open(without_database=True) as deployment:
        place = deployment.target(target)
        request = RollbackRequest(
            model=parse_model_name(model),
            to_revision=to_revision,
            to_version=to_version,
            reason=reason,
            if_current=if_current,
            timeout_s=_load_timeout(deployment, place.name, timeout),
            dry_run=dry_run,
        )
        result = Rollback(place, deployment.context)(request)
        spooled = deployment.lineage.offline
    if output is Output.JSON:
        document = asdict(result)
        document["class"] = document.pop("rollout_class").value
        write_json("rollback", document | {"spooled": spooled})
    elif output is Output.NAME:
        write(f"{result.model}@{result.version}")
    else:
        write(_rollback_line(result, spooled=spooled))


def _rollback_line(result: RolledBack, *, spooled: bool) -> str:
    name = f"{result.model}@{result.version}"
    if result.outcome == "planned":
        return f"{name} would serve stable on {result.target} instead of @{result.previous_version}"
    took = format_duration(result.duration_s)
    revision = f"revision {result.revision}{' (spooled)' if spooled else ''}"
    return f"{name} serves stable on {result.target}   {revision}   {took}"


def status(
    context: typer.Context,
    target: TargetArgument = None,
    model: Annotated[str | None, typer.Option(help="Only this model.", autocompletion=completion.models)] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the versions' files with their manifests.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what each target serves now.

    Exit 6 if a target does not serve what is recorded for it.
    """
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.status import target_status

    with session(context).open(without_database=True) as deployment:
        names = [deployment.target_name(target)] if target else list(deployment.settings.targets)
        wanted = parse_model_name(model) if model else None
        found = [target_status(deployment.target(name), model=wanted, verify=verify) for name in names]
        if wanted and not any(each.models for each in found) and not deployment.repository.versions(wanted):
            raise ModelNotFoundError(wanted)
        now = deployment.context.clock.now()
    if output is Output.JSON:
        write_json("status", {"targets": [_target_document(each) for each in found]})
    elif output is Output.NAME:
        for each in found:
            for served in each.models:
                write(f"{each.name}/{served.name}{_at(served.live) if served.live is not None else ''}")
    else:
        rows = [row for each in found for row in _status_rows(each, now)]
        write_table(("TARGET", "MODEL", "STABLE", "CANARY", "SINCE", "BY", "STANDBY", "ROLLBACK", "STATE"), rows)
        for each in found:
            if each.runtime == "docker" and each.detail:
                write(f"{each.name}: {', '.join(f'{name} {value}' for name, value in each.detail.items())}")
            for served in each.models:
                for words in served.drift:
                    write(f"{each.name}/{served.name}: {words}")
    unhealthy = [each for each in found if not each.healthy]
    if unhealthy:
        words = "; ".join(_unhealthy(each) for each in unhealthy)
        raise DegradedError(words, hint=f"deployctl up {unhealthy[0].name}")


def _status_rows(target: TargetStatus, now: Any) -> list[tuple[str, ...]]:
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


def _at(version: Any) -> str:
    return "-" if version is None else f"@{version}"


def style_state(target: TargetStatus, served: ModelOnTarget | None) -> str:
    """Returns one word for how a model on a target is."""
    import sys

    if target.state != "ready":
        return style(target.state.value, "red", sys.stdout)
    if target.error:
        return style("unreachable", "red", sys.stdout)
    if served is None:
        return "ready"
    if served.interrupted:
        return style("interrupted", "yellow", sys.stdout)
    return style("drift", "red", sys.stdout) if served.drift else style("healthy", "green", sys.stdout)


def _unhealthy(target: TargetStatus) -> str:
    if target.state != "ready" or target.error:
        return f"target {target.name} is {target.state.value}{': ' + target.error if target.error else ''}"
    interrupted = [served.name for served in target.models if served.interrupted]
    if interrupted:
        return f"an operation on {', '.join(interrupted)} on {target.name} was interrupted"
    drifted = ", ".join(served.name for served in target.models if served.drift)
    return f"target {target.name} does not serve what is recorded for {drifted}"


def _target_document(target: TargetStatus) -> dict[str, Any]:
    return {
        "name": target.name,
        "runtime": target.runtime,
        "state": target.state.value,
        "healthy": target.healthy,
        "endpoints": {"rest": target.endpoints.rest, "grpc": target.endpoints.grpc},
        "detail": dict(target.detail),
        "error": target.error,
        "models": [_model_document(served) for served in target.models],
    }


def _model_document(served: ModelOnTarget) -> dict[str, Any]:
    ready = served.rollback
    return {
        "name": served.name,
        "revision": served.revision,
        "labels": dict(served.labels),
        "live": served.live,
        "standby": list(served.standby),
        "versions": [
            {"version": each.version, "state": each.state.name, "error": each.error} for each in served.versions
        ],
        "since": served.since,
        "actor": asdict(served.actor),
        "reason": served.reason,
        "rollback": {"version": ready.version, "class": ready.rollout_class.value, "estimate_s": ready.estimate_s}
        if ready
        else None,
        "drift": list(served.drift),
        "interrupted": served.interrupted,
    }


def history(
    context: typer.Context,
    model: OptionalModelArgument = None,
    target: TargetOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many events.")] = 20,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show who changed what, when and why."""
    from deployctl.domain.names import parse_model_name

    with session(context).open() as deployment:
        place = deployment.target_name(target) if target else None
        wanted = parse_model_name(model) if model else None
        events = deployment.lineage.history(model=wanted, target=place, limit=limit)
        if wanted and not events and not deployment.repository.versions(wanted):
            raise ModelNotFoundError(wanted)
    if output is Output.JSON:
        write_json("history", {"events": [_event_document(event) for event in events]})
    elif output is Output.NAME:
        for event in events:
            write(str(event.sequence))
    else:
        rows = [
            (
                short_time(event.content.at),
                str(event.content.actor),
                event.content.target or "-",
                event.content.model or "-",
                _event_words(event),
                event.content.reason,
            )
            for event in events
        ]
        write_table(("TIME", "BY", "TARGET", "MODEL", "EVENT", "REASON"), rows)


def _event_words(event: Event) -> str:
    data = event.content.data
    words = event.content.kind.value
    if "version" in data:
        return f"{words} @{data['version']}"
    if "revision" not in data:
        return words
    words += f" {data['revision']}"
    if "desired" in data:
        labels = (f"{label} @{version}" for label, version in data["desired"]["labels"].items())
        words += f" {data['kind']}: {', '.join(labels)}"
    return words


def _event_document(event: Event) -> dict[str, Any]:
    content = event.content
    return {
        "sequence": event.sequence,
        "kind": content.kind.value,
        "at": content.at,
        "actor": asdict(content.actor),
        "operation": content.operation,
        "model": content.model,
        "target": content.target,
        "reason": content.reason,
        "data": dict(content.data),
        "hash": event.hash,
    }


def _load_timeout(deployment: Deployment, target: Any, timeout: str | None) -> float:
    return parse_duration(timeout) if timeout else deployment.settings.targets[target].load_timeout_s
