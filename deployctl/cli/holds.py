"""Commands that keep versions from being promoted: freeze, unfreeze, quarantine, review."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from deployctl.cli import completion
from deployctl.cli.options import (
    ModelArgument,
    Output,
    OutputOption,
    ReasonOption,
    ReferenceArgument,
    TargetArgument,
    TargetOption,
    session,
)
from deployctl.cli.render import write, write_json
from deployctl.documents.holds import frozen_document, quarantined_document, reviewed_document, unfrozen_document
from deployctl.domain.duration import parse_duration
from deployctl.errors import UsageError

NeededReasonOption = Annotated[str, typer.Option("--reason", "-m", help="Why; shown to whoever is held up.")]
ModelOption = Annotated[
    str | None, typer.Option(help="Only this model of the target.", autocompletion=completion.models)
]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    for command in (freeze, unfreeze, quarantine, review):
        app.command()(command)


def freeze(
    context: typer.Context,
    reason: NeededReasonOption,
    target: TargetArgument = None,
    model: ModelOption = None,
    until: Annotated[str | None, typer.Option("--for", help="How long, such as 2h; default: until unfreeze.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let nothing be promoted to a target.

    Rollbacks stay allowed, and a promotion with --break-glass. A freeze of the same thing is replaced.
    """
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.holds import Holds, check_model_known

    for_s = parse_duration(until) if until is not None else None
    if for_s == 0:
        raise UsageError(f"--for {until} is over at once: give it longer, or leave it out to freeze until unfreeze")
    with session(context).open() as deployment:
        name = deployment.target_name(target)
        expires_at = deployment.context.clock.now() + timedelta(seconds=for_s) if for_s is not None else None
        wanted = parse_model_name(model) if model else None
        if wanted is not None:
            check_model_known(deployment.repository, deployment.lineage, name, wanted)
        held = Holds(deployment.lineage, deployment.context).freeze(name, wanted, reason=reason, expires_at=expires_at)
    if output is Output.JSON:
        write_json("freeze", frozen_document(held))
    else:
        write(held.target if output is Output.NAME else str(held))


def unfreeze(
    context: typer.Context,
    target: TargetArgument = None,
    model: ModelOption = None,
    reason: ReasonOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Lift a freeze.

    Exit 9 if exactly this target, or this model of it, is not frozen.
    """
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.holds import Holds

    with session(context).open() as deployment:
        name = deployment.target_name(target)
        wanted = parse_model_name(model) if model else None
        lifted = Holds(deployment.lineage, deployment.context).unfreeze(name, wanted, reason=reason)
    what = f"{lifted.model} on {lifted.target}" if lifted.model else lifted.target
    if output is Output.JSON:
        write_json("unfreeze", unfrozen_document(lifted))
    else:
        write(lifted.target if output is Output.NAME else f"{what}  unfrozen")


def quarantine(
    context: typer.Context,
    reference: ReferenceArgument,
    reason: NeededReasonOption,
    release: Annotated[bool, typer.Option("--release", help="Let the bytes be served again.")] = False,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Keep a version's bytes from ever being served.

    Under whatever number they are published: they are neither promoted nor rolled back to. What serves them now goes
    on until it is rolled back.
    """
    from deployctl.cli.references import resolve_reference
    from deployctl.operations.holds import Holds, manifest_of

    with session(context).open() as deployment:
        model, version = resolve_reference(deployment, reference, target)
        manifest = manifest_of(deployment.repository, model, version)
        holds = Holds(deployment.lineage, deployment.context)
        found = (holds.release if release else holds.quarantine)(manifest, reason=reason)
    if output is Output.JSON:
        write_json("quarantine", quarantined_document(model, version, found, quarantined=not release))
    elif output is Output.NAME:
        write(f"{model}@{version}")
    else:
        write(f"{model}@{version}  {'out of quarantine' if release else 'in quarantine'}   {found.digest[:19]}…")


def review(
    context: typer.Context,
    model: ModelArgument,
    target: TargetOption = None,
    reason: ReasonOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Say that a change made with --break-glass was looked at.

    Until then `status` shows it.
    """
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.holds import Holds

    with session(context).open() as deployment:
        name = deployment.target_name(target)
        wanted = parse_model_name(model)
        reviewed = Holds(deployment.lineage, deployment.context).review(name, wanted, reason=reason)
    if output is Output.JSON:
        write_json("review", reviewed_document(wanted, name, reviewed))
        return
    for number in (revision.number for revision in reviewed):
        write(str(number) if output is Output.NAME else f"{model} on {name}: revision {number} reviewed")
