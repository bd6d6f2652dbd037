"""Commands about operations and locks: op list, op show, op wait, op resume, op abort, lock list, lock release."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from deployctl.cli import completion
from deployctl.cli.options import Output, OutputOption, TargetArgument, TimeoutOption, session
from deployctl.cli.render import short_time, style, write, write_json, write_table
from deployctl.documents.operations import lease_document, operation_document
from deployctl.domain.duration import format_duration, parse_duration
from deployctl.errors import TimedOutError

if TYPE_CHECKING:
    from datetime import datetime

    from deployctl.domain.lease import LeaseRecord
    from deployctl.domain.operation import OperationRecord

op_app = typer.Typer(help="See operations; finish or undo one that was cut off.", no_args_is_help=True)
lock_app = typer.Typer(help="See who holds which lock, and release one.", no_args_is_help=True)

OperationArgument = Annotated[
    str, typer.Argument(metavar="OPERATION", help="Its id, as op list shows it.", autocompletion=completion.operations)
]
_WAIT_S = 600.0
_STYLES = {"running": "yellow", "interrupted": "red", "failed": "red", "done": "green", "settled": "dim"}


def register(app: typer.Typer) -> None:
    """Adds the groups to `app`."""
    app.add_typer(op_app, name="op")
    app.add_typer(lock_app, name="lock")


@op_app.command("list")
def op_list(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many operations.")] = 20,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show operations, the newest first."""
    with session(context).open() as deployment:
        records = deployment.context.journal.operations()[:limit]
        now = deployment.context.clock.now()
    if output is Output.JSON:
        write_json("operations", {"operations": [operation_document(record) for record in records]})
    elif output is Output.NAME:
        for record in records:
            write(record.id)
    else:
        header = ("OPERATION", "BY", "TARGET", "WHAT", "STATE", "PHASE", "AGE", "OUTCOME")
        write_table(header, [_row(record, now) for record in records], whole=("OPERATION", "STATE"))


@op_app.command("show")
def op_show(context: typer.Context, operation: OperationArgument, output: OutputOption = Output.TABLE) -> None:
    """Show an operation and its phases."""
    with session(context).open() as deployment:
        record = deployment.context.journal.operation(operation)
    _show(record, output)


@op_app.command("wait")
def op_wait(
    context: typer.Context,
    operation: OperationArgument,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Wait until an operation has ended, and exit as it did.

    Exit 4 if it has not ended after --timeout (10m), 6 if it was cut off.
    """
    from deployctl.domain.operation import OperationState

    with session(context).open() as deployment:
        journal = deployment.context.journal
        timeout_s = parse_duration(timeout) if timeout else _WAIT_S

        def ended() -> OperationRecord | None:
            record = journal.operation(operation)
            return None if record.state is OperationState.RUNNING else record

        record = deployment.context.deadline(timeout_s).poll(ended)
        if record is None:
            running = journal.operation(operation)
            raise TimedOutError(
                f"{running} was still in phase {running.phase} after {timeout_s:g} s",
                hint=f"deployctl op show {operation}",
            )
    _show(record, output)
    if record.state is OperationState.INTERRUPTED:
        raise typer.Exit(6)
    raise typer.Exit(record.exit_code or 0)


@op_app.command("resume")
def op_resume(context: typer.Context, operation: OperationArgument, output: OutputOption = Output.TABLE) -> None:
    """Begin an operation again that was cut off or failed.

    What it left is put right first. The same version is meant, whatever `latest` is by now.
    """
    from deployctl.cli.rollback_reports import show_rollback
    from deployctl.cli.rollouts import show_promotion
    from deployctl.operations.promote import Promote, PromoteRequest
    from deployctl.operations.repeat import check_resumable, repeated
    from deployctl.operations.rollback import Rollback
    from deployctl.validation import Wishes, golden_prover, promotion_judge

    with session(context).open(without_database=True) as deployment:
        record = deployment.context.journal.operation(operation)
        check_resumable(record)
        request = repeated(record)
        place = deployment.target(record.request.target)
        if isinstance(request, PromoteRequest):
            judge = promotion_judge(deployment, place.name, Wishes())
            prove = golden_prover(deployment, place.name, request.reference.model)
            show_promotion(Promote(place, deployment.context, judge, prove)(request), output)
        else:
            result = Rollback(place, deployment.context)(request)
            show_rollback(result, spooled=deployment.lineage.offline, output=output)


@op_app.command("abort")
def op_abort(context: typer.Context, operation: OperationArgument, output: OutputOption = Output.TABLE) -> None:
    """Undo what an operation left that was cut off.

    What served before it is put back and verified.
    """
    from deployctl.operations.repeat import Abort, check_abortable

    with session(context).open(without_database=True) as deployment:
        record = deployment.context.journal.operation(operation)
        check_abortable(record)
        if record.request.target is None:
            deployment.context.permit("abort", model=record.request.model)
            deployment.repository.discard_leftovers()
            deployment.context.journal.settle(record.id, by=deployment.context.operation)
        else:
            Abort(deployment.target(record.request.target), deployment.context)(record)
        record = deployment.context.journal.operation(operation)
    _show(record, output)


@lock_app.command("list")
def lock_list(context: typer.Context, target: TargetArgument = None, output: OutputOption = Output.TABLE) -> None:
    """Show who holds which lock."""
    with session(context).open() as deployment:
        names = [deployment.target_name(target)] if target else list(deployment.settings.targets)
        found = [lease for name in names for lease in deployment.target(name).lock.leases()]
        now = deployment.context.clock.now()
    if output is Output.JSON:
        write_json("locks", {"locks": [lease_document(lease) for lease in found]})
    elif output is Output.NAME:
        for lease in found:
            write(_lease_name(lease))
    else:
        rows = [
            (
                lease.target,
                lease.model or "*",
                lease.owner,
                str(lease.pid),
                lease.purpose,
                format_duration((now - lease.acquired_at).total_seconds()),
                lease.operation,
            )
            for lease in found
        ]
        write_table(("TARGET", "MODEL", "BY", "PID", "WHAT", "AGE", "OPERATION"), rows)


@lock_app.command("release")
def lock_release(
    context: typer.Context,
    reason: Annotated[str, typer.Option("--reason", "-m", help="Why; recorded.")],
    target: TargetArgument = None,
    model: Annotated[
        str | None, typer.Option(help="The model; default: the whole target's lock.", autocompletion=completion.models)
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take a lock from its holder.

    The holder changes nothing from then on and exits 7; what it left is put right by the next operation.
    """
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.holds import release_lock

    with session(context).open(without_database=True) as deployment:
        place = deployment.target(target)
        wanted = parse_model_name(model) if model else None
        lease = release_lock(place, deployment.context, wanted, reason=reason)
    if output is Output.JSON:
        write_json("lock", lease_document(lease))
    else:
        write(_lease_name(lease) if output is Output.NAME else f"{_lease_name(lease)}  released from {lease}")


def _lease_name(lease: LeaseRecord) -> str:
    return f"{lease.target}/{lease.model}" if lease.model else lease.target


def _row(record: OperationRecord, now: datetime) -> tuple[str, ...]:
    state = record.state.value
    return (
        record.id,
        record.actor,
        record.request.target or "-",
        str(record.request),
        style(state, _STYLES[state], sys.stdout),
        record.phase.value,
        format_duration((now - record.started_at).total_seconds()),
        record.outcome or "-",
    )


def _show(record: OperationRecord, output: Output) -> None:
    if output is Output.JSON:
        write_json("operation", operation_document(record))
        return
    if output is Output.NAME:
        write(record.id)
        return
    where = f" on {record.request.target}" if record.request.target else ""
    write(f"{record.id}  {record.request}{where} by {record.actor}, pid {record.pid}")
    for phase, at in record.phases:
        write(f"  {phase.value:<8} {short_time(at)}")
    ended = f" {short_time(record.ended_at)}" if record.ended_at else ""
    settled = f", put right by {record.settled_by}" if record.settled_by else ""
    outcome = f": {record.outcome}" if record.outcome else ""
    write(f"  {record.state.value}{ended}{outcome}{settled}")
