"""Commands about what a target serves: promote, rollback, history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployctl.cli import completion
from deployctl.cli.detached import begin
from deployctl.cli.options import (
    DryRunOption,
    IfCurrentOption,
    LockTimeoutOption,
    NoWaitOption,
    OptionalModelArgument,
    Output,
    OutputOption,
    ReasonOption,
    TargetOption,
    TimeoutOption,
    patient,
    session,
)
from deployctl.cli.render import short_time, write, write_json, write_table
from deployctl.cli.rollback_reports import show_check, show_rollback
from deployctl.documents.rollouts import event_document, promotion_document
from deployctl.domain.duration import format_duration, parse_duration
from deployctl.domain.names import CANARY, STABLE
from deployctl.errors import InvalidReferenceError, ModelNotFoundError, UsageError

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.domain.event import Event
    from deployctl.domain.names import ModelName
    from deployctl.operations.promote import Promotion
    from deployctl.operations.target import Target


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    for command in (promote, rollback, history):
        app.command()(command)


def promote(
    context: typer.Context,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[@REF]",
            help="Version: MODEL@7, MODEL@latest, MODEL@LABEL or MODEL@sha256:PREFIX. Default: the canary.",
            autocompletion=completion.references,
        ),
    ],
    target: TargetOption = None,
    label: Annotated[
        str | None, typer.Option(help="The label that moves; default: stable.", autocompletion=completion.labels)
    ] = None,
    canary: Annotated[
        bool, typer.Option("--canary", help="Move only `canary`; promoting again finishes, a rollback undoes.")
    ] = False,
    reason: ReasonOption = "",
    if_current: IfCurrentOption = None,
    timeout: TimeoutOption = None,
    lock_timeout: LockTimeoutOption = None,
    break_glass: Annotated[
        str, typer.Option(metavar="TICKET", help="Pass a freeze and the gates, under this ticket; `review` is owed.")
    ] = "",
    allow_breaking: Annotated[
        str, typer.Option(metavar="REASON", help="Accept that clients break; recorded with the reason.")
    ] = "",
    soak: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Watch errors and latency for so long; go back if they grow."),
    ] = None,
    dry_run: DryRunOption = False,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a version the one that clients reach.

    The target's gates judge it; exit 3 if one refuses. Then it is loaded and probed beside the old one, which is let
    go last. Exit 5 if it failed and the previous state was restored and verified, 6 if that failed too.
    """
    from deployctl.bootstrap import opened
    from deployctl.domain.names import parse_label_name
    from deployctl.domain.reference import ByLabel, parse_reference
    from deployctl.operations.promote import Promote, PromoteRequest
    from deployctl.operations.soak import Soak, SoakedPromote
    from deployctl.validation import Wishes, golden_prover, promotion_judge

    if canary and label not in (None, CANARY):
        raise UsageError(f"--canary moves the label canary and --label {label} another: give one of them")
    if no_wait:
        begin(context, output)
        return
    with session(context).open() as deployment:
        place = patient(deployment.target(target), lock_timeout)
        request = PromoteRequest(
            reference=parse_reference(reference, default=ByLabel(CANARY)),
            label=CANARY if canary else parse_label_name(label or STABLE),
            reason=reason,
            if_current=if_current,
            timeout_s=_load_timeout(deployment, place.name, timeout),
            dry_run=dry_run,
            break_glass=break_glass,
        )
        judge = promotion_judge(deployment, place.name, Wishes(allow_breaking=allow_breaking))
        soak_s = parse_duration(soak) if soak and not dry_run else 0.0
        if "@" not in reference:
            _require_canary(place, request.reference.model)
        prove = golden_prover(deployment, place.name, request.reference.model)
        operation = Promote(place, deployment.context, judge, prove)
        if soak_s:
            # Who watches goes back even where the database is away by then.
            observer = deployment.context.observer
            with opened(deployment.settings, observer, without_database=True) as watching:
                soaking = Soak(patient(watching.target(place.name), lock_timeout), watching.context)
                promotion = SoakedPromote(operation, soaking)(request, soak_s)
        else:
            promotion = operation(request)
    show_promotion(promotion, output)


def _require_canary(place: Target, model: ModelName) -> None:
    current = place.current(model)
    if current is None or CANARY not in current.desired.labels:
        raise InvalidReferenceError(model, "say which version, as MODEL@REF; there is no canary to finish")


def show_promotion(promotion: Promotion, output: Output) -> None:
    """Writes the outcome of a promotion."""
    if output is Output.JSON:
        write_json("promote", promotion_document(promotion))
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
        str | None,
        typer.Argument(
            metavar="MODEL[@VERSION]",
            help="Model; with @VERSION, to the newest revision that served it. Default: the last known good.",
            autocompletion=completion.numbered,
        ),
    ] = None,
    target: TargetOption = None,
    to_revision: Annotated[int | None, typer.Option("--to", min=1, help="To this revision number.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every model of the target; needs --before.")] = False,
    before: Annotated[
        str | None, typer.Option(metavar="TIME", help="To what served then: 14:00 or 2026-11-21T14:00:00Z, in UTC.")
    ] = None,
    reason: ReasonOption = "",
    if_current: IfCurrentOption = None,
    timeout: TimeoutOption = None,
    lock_timeout: LockTimeoutOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Prove that it would work now, and change nothing; exit 3 if not.")
    ] = False,
    dry_run: DryRunOption = False,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Return to what served before.

    Without a version or revision: to the last known good one. Recorded as a new revision.
    """
    from deployctl.domain.names import parse_model_name
    from deployctl.domain.reference import ByNumber, parse_reference
    from deployctl.operations.rollback import Rollback, RollbackRequest

    if everything or before or model is None:
        if model or to_revision or if_current is not None or not (everything and before):
            raise UsageError("name a model, or say --all --before TIME")
        if no_wait:
            raise UsageError("--no-wait is for one model: with --all each model is an operation of its own")
        from deployctl.cli.rollback_all import AllWishes, check_all, roll_all_back

        with session(context).open(without_database=True) as deployment:
            place = patient(deployment.target(target), lock_timeout)
            wishes = AllWishes(before, reason, _load_timeout(deployment, place.name, timeout), dry_run=dry_run)
            (check_all if check else roll_all_back)(deployment, place, wishes, output)
        return
    if no_wait:
        begin(context, output)
        return
    to_version = None
    if "@" in model and to_revision is not None:
        raise UsageError(f"{model} names a version and --to a revision: give one of them")
    if "@" in model:
        reference = parse_reference(model)
        if not isinstance(reference.selector, ByNumber):
            raise InvalidReferenceError(model, "a rollback goes to a version by its number, or with --to to a revision")
        model, to_version = reference.model, reference.selector.number
    with session(context).open(without_database=True) as deployment:
        place = patient(deployment.target(target), lock_timeout)
        request = RollbackRequest(
            model=parse_model_name(model),
            to_revision=to_revision,
            to_version=to_version,
            reason=reason,
            if_current=if_current,
            timeout_s=_load_timeout(deployment, place.name, timeout),
            dry_run=dry_run or check,
        )
        result = Rollback(place, deployment.context)(request)
        if check:
            from deployctl.validation import rollback_report

            show_check(result, rollback_report(deployment, result), output)
            return
        spooled = deployment.lineage.offline
    show_rollback(result, spooled=spooled, output=output)


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
        write_json("history", {"events": [event_document(event) for event in events]})
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


def _load_timeout(deployment: Deployment, target: Any, timeout: str | None) -> float:
    return parse_duration(timeout) if timeout else deployment.settings.targets[target].load_timeout_s
