"""Commands about versions in the repository: publish, versions, show, verify, adopt."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployctl.cli import completion
from deployctl.cli.options import (
    DryRunOption,
    ModelArgument,
    OptionalModelArgument,
    Output,
    OutputOption,
    ReasonOption,
    ReferenceArgument,
    TargetOption,
    session,
)
from deployctl.cli.references import detail_of, resolve_reference
from deployctl.cli.render import short_digest, short_time, size, style, write, write_json, write_table
from deployctl.documents.versions import (
    models_document,
    published_document,
    verified_document,
    version_document,
    versions_document,
)
from deployctl.errors import ManifestError, UsageError

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment

ExportArgument = Annotated[
    str,
    typer.Argument(
        metavar="EXPORT",
        help="SavedModel directory, a .tar, .tar.gz or .zip of one, or the s3:// URL of either.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    for command in (publish, versions, show, verify, adopt):
        app.command()(command)


def publish(
    context: typer.Context,
    export: ExportArgument,
    model: Annotated[
        str | None,
        typer.Option(help="Model name; default: the export's name.", autocompletion=completion.models),
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(metavar="NAME=NUMBER", help="A metric; repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A tag; repeatable.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="NAME=DIGEST", help="A data set it was trained on; repeatable.")
    ] = None,
    run: Annotated[str, typer.Option(help="The training run's id or URL.")] = "",
    code: Annotated[
        str, typer.Option(help="Commit of the training code, or its git checkout's directory.", metavar="COMMIT|DIR")
    ] = "",
    numbering: Annotated[str, typer.Option(help="sequential, or timestamp.")] = "sequential",
    new_version: Annotated[
        bool, typer.Option("--new-version", help="Publish again even if a version has the same bytes.")
    ] = False,
    warmup: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Golden records that servers replay when they load it.")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Sign the files with this private key, in PEM, on a NIST curve.")
    ] = None,
    sign_certificate: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="The key's certificate, then those that it leads to; repeatable."),
    ] = None,
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Publish an export as a model's next version.

    The version is visible whole or not at all. Bytes that a version of the model already has are not published
    again: that version is named, and the exit code is 0.
    """
    from deployctl.acting import origin_of
    from deployctl.cli.provenance import code_commit, metrics, pairs
    from deployctl.domain.manifest import Provenance
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.publish import Publish, PublishRequest
    from deployctl.repository.interface import Numbering
    from deployctl.repository.sources import ExportSource
    from deployctl.warmup import warmed_export

    if numbering not in tuple(Numbering):
        raise UsageError(f"--numbering {numbering!r} is neither 'sequential' nor 'timestamp'")
    if sign_certificate and sign is None:
        raise UsageError(f"--sign-certificate {sign_certificate[0]} is for --sign KEY")
    signer = None
    if sign is not None:
        from deployctl.signing import SigningKey

        signer = SigningKey(sign, tuple(sign_certificate or ())).signer()
    source = ExportSource(export)
    provenance = Provenance(
        source=origin_of(export) or source.location,
        run=run,
        code=code_commit(code),
        datasets=pairs("--dataset", dataset),
        metrics=metrics(metric),
        tags=pairs("--tag", tag),
    )
    model_name = parse_model_name(model if model is not None else source.name)
    with ExitStack() as stack:
        deployment = stack.enter_context(session(context).open())
        directory = stack.enter_context(deployment.export(source))
        if warmup is not None:
            directory = stack.enter_context(warmed_export(deployment, directory, warmup))
        operation = Publish(deployment.repository, deployment.reader, deployment.lineage, deployment.context)
        published = operation(
            PublishRequest(
                export=directory,
                model=model_name,
                provenance=provenance,
                numbering=Numbering(numbering),
                allow_duplicate=new_version,
                reason=reason,
                dry_run=dry_run,
                sign=signer,
            )
        )
    if output is Output.JSON:
        write_json("publish", published_document(published))
    elif output is Output.NAME:
        write(f"{published.model}@{published.version}")
    elif published.dry_run:
        write(f"{published.model}  would be published   {published.file_count} files, {size(published.size_bytes)}")
    else:
        name = f"{published.model}@{published.version}"
        digest = short_digest(published.digest or "")
        if published.created:
            amount = f"{published.file_count} files, {size(published.size_bytes)}"
            write(f"{name}  published   {digest}   {amount}   {published.duration_s:.2f} s")
        else:
            write(f"{name}  already published (same bytes)   {digest}")


def versions(context: typer.Context, model: OptionalModelArgument = None, output: OutputOption = Output.TABLE) -> None:
    """List the models, or the versions of one."""
    from deployctl.domain.names import parse_model_name

    with session(context).open() as deployment:
        if model is None:
            _list_models(deployment, output)
        else:
            _list_versions(deployment, parse_model_name(model), output)


def _list_models(deployment: Deployment, output: Output) -> None:
    from deployctl.operations.registry import list_models

    models = list_models(deployment.repository)
    if output is Output.JSON:
        write_json("models", models_document(models))
    elif output is Output.NAME:
        for each in models:
            write(each.model)
    elif models:
        write_table(
            ("MODEL", "LATEST", "VERSIONS"),
            [(each.model, f"@{each.latest}" if each.count else "-", str(each.count)) for each in models],
        )
    else:
        write(f"no models in {deployment.settings.repository_location}")


def _list_versions(deployment: Deployment, model: Any, output: Output) -> None:
    from deployctl.operations.registry import list_versions

    listed = list_versions(deployment.repository, deployment.lineage, model)
    if output is Output.JSON:
        write_json("versions", versions_document(model, listed))
    elif output is Output.NAME:
        for each in listed:
            write(f"{model}@{each.version}")
    else:
        rows_text = []
        for each in reversed(listed):
            record = each.record
            if record is None:
                rows_text.append((f"@{each.version}", "-", "-", "-", "-", "not recorded"))
                continue
            facts = [f"{name}={value:g}" for name, value in record.metrics.items()]
            facts += [f"{name}={value}" for name, value in record.tags.items()]
            if deployment.lineage.quarantine(record.digest) is not None:
                facts.insert(0, "in quarantine")
            digest = short_digest(record.digest)
            published = short_time(record.published_at)
            rows_text.append(
                (f"@{each.version}", published, record.published_by, size(record.size_bytes), digest, " ".join(facts))
            )
        write_table(("VERSION", "PUBLISHED", "BY", "SIZE", "DIGEST", "METRICS"), rows_text)


def show(
    context: typer.Context,
    reference: ReferenceArgument,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a version's origin, size and signatures."""
    with session(context).open() as deployment:
        detail = detail_of(deployment, reference, target)
        manifest = detail.manifest
        held = deployment.lineage.quarantine(manifest.digest) if manifest and output is Output.TABLE else None
    if output is Output.JSON:
        write_json("version", version_document(detail))
        return
    if output is Output.NAME:
        write(f"{detail.model}@{detail.version}")
        return
    write(style(f"{detail.model}@{detail.version}", "bold", _stdout()) + f"   {detail.path}")
    if manifest is None:
        write(f"no manifest: it was not published by deployctl; deployctl adopt {detail.model}")
    else:
        provenance = manifest.provenance
        facts = {
            "digest": manifest.digest,
            "quarantine": f"by {held.actor}: {held.reason}" if held else "",
            "size": f"{size(manifest.size_bytes)} in {len(manifest.files)} files",
            "published": f"{short_time(manifest.published_at)} by {manifest.published_by}",
            "source": provenance.source,
            "run": provenance.run,
            "code": provenance.code,
            "datasets": " ".join(f"{name}={value}" for name, value in provenance.datasets.items()),
            "metrics": " ".join(f"{name}={value:g}" for name, value in provenance.metrics.items()),
            "tags": " ".join(f"{name}={value}" for name, value in provenance.tags.items()),
            "signed": _signed_by(manifest.signature),
            "written by": " ".join(f"{name} {version}" for name, version in manifest.frameworks.items()),
        }
        for name, text in facts.items():
            if text:
                write(f"{name:<11} {text}")
    from deployctl.cli.tensor_listing import write_signatures

    graph = detail.saved_model.tagged("serve")
    if graph is not None:
        write_signatures(graph.callable_signatures)


def _signed_by(signature: Mapping[str, Any] | None) -> str:
    """Returns how a version is signed, which says nothing of whether the signature counts."""
    if signature is None:
        return ""
    material = signature.get("verificationMaterial")
    with_certificate = isinstance(material, dict) and "x509CertificateChain" in material
    return "with a certificate" if with_certificate else "with a key"


def verify(
    context: typer.Context,
    reference: ReferenceArgument,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Hold a version's files against its manifest.

    Every file is hashed. Exit 1 if one is missing, changed or extra.
    """
    from deployctl.operations.registry import verify as verify_version

    with session(context).open() as deployment:
        model, version = resolve_reference(deployment, reference, target)
        result = verify_version(deployment.repository, deployment.context, model, version)
    if output is Output.JSON:
        write_json("verify", verified_document(result))
    elif output is Output.NAME:
        for each in result.problems:
            write(each.path)
    elif not result.problems:
        write(f"{model}@{version}  every file matches its manifest")
    if result.problems:
        words = ", ".join(f"{each.path} is {each.problem}" for each in result.problems)
        raise ManifestError(
            f"{model}@{version} does not match its manifest: {words}", hint=f"deployctl versions {model}"
        )


def adopt(
    context: typer.Context, model: ModelArgument, reason: ReasonOption = "", output: OutputOption = Output.TABLE
) -> None:
    """Record versions that others put there.

    Each gets a manifest; no byte of it is changed otherwise.
    """
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.registry import Adopt

    with session(context).open() as deployment:
        operation = Adopt(deployment.repository, deployment.reader, deployment.lineage, deployment.context)
        result = operation(parse_model_name(model), reason=reason)
    if output is Output.JSON:
        strays = [{"name": each.name, "problem": each.problem} for each in result.strays]
        write_json("adopt", {"model": model, "adopted": result.adopted, "known": result.known, "strays": strays})
        return
    for version in result.adopted:
        write(f"{model}@{version}" + ("" if output is Output.NAME else "  adopted"))
    if output is Output.TABLE:
        if not result.adopted:
            write(f"{model}: all {len(result.known)} versions have manifests already")
        for stray in result.strays:
            write(f"{model}/{stray.name}  not adopted: {stray.problem}; a polling server would take it for a version")


def _stdout() -> Any:
    import sys

    return sys.stdout
