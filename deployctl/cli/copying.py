"""Copying versions to other repositories: copy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployctl.cli.options import (
    DryRunOption,
    Output,
    OutputOption,
    ReasonOption,
    ReferenceArgument,
    TargetOption,
    session,
)
from deployctl.cli.render import short_digest, size, write, write_json

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.lineage.interface import LineageStore
    from deployctl.operations.copy import Copied
    from deployctl.repository.interface import ModelRepository


def copy(
    context: typer.Context,
    reference: ReferenceArgument,
    to: Annotated[
        str,
        typer.Option(
            metavar="REPOSITORY", help="Where to: a directory, an s3:// URL, or the other repository's settings file."
        ),
    ],
    model: Annotated[str | None, typer.Option(help="Model name there; default: the same.")] = None,
    keep_number: Annotated[
        bool, typer.Option("--keep-number", help="Give the copy the same number, or fail if that is taken.")
    ] = False,
    target: TargetOption = None,
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Copy a version to another repository.

    The copy has the same bytes and so the same digest, and the record of where they came from; it takes the next
    number there. Within one object store, no byte goes through this machine. With a settings file, the copy is
    recorded in the other lineage database too.
    """
    from deployctl.cli.references import resolve_reference
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.copy import Copy, CopyRequest

    to_model = parse_model_name(model) if model is not None else None
    with session(context).open() as deployment, _opened(deployment, to) as (location, destination, lineage):
        name, version = resolve_reference(deployment, reference, target)
        operation = Copy(deployment.repository, destination, deployment.lineage, lineage, deployment.context)
        copied = operation(CopyRequest(name, version, location, to_model, keep_number, reason=reason, dry_run=dry_run))
    _tell(copied, output)


@contextmanager
def _opened(deployment: Deployment, to: str) -> Iterator[tuple[str, ModelRepository, LineageStore | None]]:
    """Gives the location of the other repository, it, and its lineage database where that is known."""
    from deployctl.bootstrap import opened
    from deployctl.config.load import load

    if to.endswith(".toml") and "://" not in to:
        # What the environment sets is meant for the repository that is copied from.
        other_settings = load(file=Path(to), environment={}).settings
        with opened(other_settings, deployment.context.observer) as other:
            yield other_settings.repository_location, other.repository, other.lineage
        return
    location = to if "://" in to else os.path.abspath(to)
    ours = location.rstrip("/") == deployment.settings.repository_location.rstrip("/")
    repository = deployment.repository if ours else deployment.open_repository(location)
    yield location, repository, deployment.lineage if ours else None


def _tell(copied: Copied, output: Output) -> None:
    request = copied.request
    name = f"{copied.model}@{copied.version}" if copied.version is not None else copied.model
    if output is Output.JSON:
        document = {
            "from": {"model": request.model, "version": request.version, "location": copied.origin},
            "to": request.destination,
            "dry_run": request.dry_run,
        }
        facts = ("model", "version", "digest", "created", "file_count", "size_bytes", "duration_s")
        write_json("copy", document | {fact: getattr(copied, fact) for fact in facts})
    elif output is Output.NAME:
        write(name)
    elif not copied.created:
        write(f"{name}  already in {request.destination} (same bytes)   {short_digest(copied.digest)}")
    else:
        what = f"{request.model}@{request.version}  {'would be copied' if request.dry_run else 'copied'}"
        amount = f"{copied.file_count} files, {size(copied.size_bytes)}"
        write(f"{what} to {request.destination} as {name}   {short_digest(copied.digest)}   {amount}")
