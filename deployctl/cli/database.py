"""Commands about the lineage database: db upgrade, current, check, backup, rebuild; audit verify."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from deployctl.cli.options import Output, OutputOption, ReasonOption, session
from deployctl.cli.render import write, write_json
from deployctl.errors import DatabaseError

if TYPE_CHECKING:
    from deployctl.lineage.migrate import SchemaState

db_app = typer.Typer(help="Look after the lineage database.", no_args_is_help=True)
audit_app = typer.Typer(help="Look for tampering in the record of events.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.add_typer(db_app, name="db")
    app.add_typer(audit_app, name="audit")


@db_app.command()
def upgrade(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Bring the schema to what this deployctl needs; a SQLite file is backed up first."""
    from deployctl.lineage import migrate

    with session(context).open() as deployment:
        result = migrate.upgrade(deployment.lineage_url, now=deployment.context.clock.now())
    if output is Output.JSON:
        write_json("db-upgrade", {"before": result.before, "after": result.after, "backup": result.backup})
    elif output is Output.NAME:
        write(result.after)
    elif result.changed:
        kept = f", backup {result.backup}" if result.backup else ""
        write(f"schema {result.before or 'none'} -> {result.after}{kept}")
    else:
        write(f"schema {result.after} is current")


@db_app.command()
def current(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Tell which schema the database has, and which one this deployctl needs."""
    from deployctl.lineage import migrate

    with session(context).open() as deployment:
        state = migrate.current(deployment.lineage_url)
    if output is Output.JSON:
        write_json("db-current", {"found": state.found, "expected": state.expected, "current": state.is_current})
    elif output is Output.NAME:
        write(state.found or "none")
    else:
        write(_schema_line(state))


def _schema_line(state: SchemaState) -> str:
    if state.is_current:
        return f"schema {state.found} is current"
    if state.is_newer:
        return f"schema {state.found}, newer than this deployctl's {state.expected}: pip install --upgrade deployctl"
    return f"schema {state.found or 'none'}, this deployctl needs {state.expected}: deployctl db upgrade"


@db_app.command()
def check(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Hold the database's tables against what the schema says; exit 10 if they differ."""
    from deployctl.lineage import migrate

    with session(context).open() as deployment:
        result = migrate.check(deployment.lineage_url)
    if output is Output.JSON:
        write_json("db-check", {"agrees": result.agrees, "differences": result.differences})
    elif result.agrees and output is Output.TABLE:
        write("the tables are as the schema says")
    if not result.agrees:
        raise DatabaseError(f"the tables differ from the schema: {'; '.join(result.differences)}")


@db_app.command()
def backup(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Copy the database to a new file beside it, while others may use it."""
    from deployctl.lineage import migrate

    with session(context).open() as deployment:
        copy = migrate.backup(deployment.lineage_url, now=deployment.context.clock.now())
    if output is Output.JSON:
        write_json("db-backup", {"backup": copy})
    else:
        write(str(copy))


@db_app.command()
def rebuild(context: typer.Context, reason: ReasonOption = "", output: OutputOption = Output.TABLE) -> None:
    """Record what the database has lost: versions with a manifest, and what is kept beside the servers."""
    from deployctl.operations.registry import RebuildRegistry

    with session(context).open() as deployment:
        deployment.context.permit("db rebuild")
        recovered = [
            f"{model} on {target}"
            for target in deployment.settings.targets
            for model in deployment.lineage.recover(target)
        ]
        operation = RebuildRegistry(deployment.repository, deployment.lineage, deployment.context)
        recorded = operation(reason=reason)
    names = [f"{manifest.model}@{manifest.version}" for manifest in recorded]
    if output is Output.JSON:
        write_json("db-rebuild", {"recorded": names, "recovered": recovered})
        return
    for name in names:
        write(name if output is Output.NAME else f"{name}  recorded")
    if output is Output.TABLE:
        for name in recovered:
            write(f"{name}  what was kept beside the server is recorded again")
        if not names and not recovered:
            write("every version with a manifest is recorded")


@audit_app.command("verify")
def audit_verify(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Follow the hash chain of all events; exit 10 if one was changed, removed or slipped in.

    So it does where what is current on a target is not what the events say.
    """
    from deployctl.documents.lineage import audit_document
    from deployctl.lineage.audit import examine

    with session(context).open() as deployment:
        result = examine(deployment.lineage, tuple(deployment.settings.targets))
    broken = result.broken
    if output is Output.JSON:
        write_json("audit", audit_document(result))
    elif not (broken or result.disagreement) and output is Output.TABLE:
        write(f"{result.verified} events, each bound to the one before it")
    if broken:
        raise DatabaseError(
            f"event {broken.sequence} breaks the chain: {broken.reason}; {result.verified} events before it are intact"
        )
    if result.disagreement:
        raise DatabaseError(result.disagreement, hint="deployctl history")
