"""The command that retires versions."""

from __future__ import annotations

from typing import Annotated

import typer

from deployctl.cli import completion
from deployctl.cli.options import DryRunOption, Output, OutputOption, ReasonOption, TargetOption, session
from deployctl.cli.render import size, write, write_json
from deployctl.errors import UsageError


def register(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command()(retire)


def retire(
    context: typer.Context,
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL@REF...|MODEL",
            help="Versions of one model: MODEL@7, MODEL@latest, MODEL@sha256:PREFIX; or MODEL with --keep.",
            autocompletion=completion.references,
        ),
    ],
    keep: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="All but the newest N, and but those that a target holds.")
    ] = None,
    target: TargetOption = None,
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take versions that nothing needs out of the repository.

    Never one that a target serves, keeps warm, labels, or would roll back to; exit 8 where such a one is named. They
    can be got back for `repository.retired_s`; then `gc` removes them.
    """
    from deployctl.cli.references import resolve_reference
    from deployctl.documents.versions import retired_document
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.retire import Retire, RetireRequest

    if keep is not None and (len(references) != 1 or "@" in references[0]):
        raise UsageError(f"--keep is for MODEL alone, not for {' '.join(references)!r}")
    if keep is None and any("@" not in each for each in references):
        raise UsageError("say which versions, as MODEL@REF, or how many to --keep")
    with session(context).open() as deployment:
        if keep is not None:
            request = RetireRequest(parse_model_name(references[0]), keep=keep, reason=reason, dry_run=dry_run)
        else:
            found = [resolve_reference(deployment, each, target) for each in references]
            models = sorted({model for model, _ in found})
            if len(models) > 1:
                raise UsageError(f"retire the versions of {models[0]} and those of {models[1]} one after the other")
            versions = tuple(version for _, version in found)
            request = RetireRequest(models[0], versions, reason=reason, dry_run=dry_run)
        targets = [deployment.target(each) for each in deployment.settings.targets]
        done = Retire(deployment.repository, deployment.lineage, targets, deployment.context)(request)
    if output is Output.JSON:
        write_json("retire", retired_document(done))
        return
    for version in done.versions:
        line = f"{done.model}@{version}"
        write(line if output is Output.NAME else f"{line}  {'would be retired' if dry_run else 'retired'}")
    if output is Output.TABLE:
        for version, why in done.held.items():
            write(f"{done.model}@{version}  kept: {why}")
        count = f"{len(done.versions)} version{'' if len(done.versions) == 1 else 's'}"
        write(f"{count}, {size(done.size_bytes)}" if done.versions else "nothing to retire")
