"""`validate`: what the gates say of a version or an export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployctl.cli import completion
from deployctl.cli.options import Output, OutputOption, TargetOption, session
from deployctl.cli.render import write, write_json
from deployctl.errors import UsageError

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.domain.names import TargetName
    from deployctl.gates.interface import Candidate, Version
    from deployctl.operations.validate import Report
    from deployctl.validation import Wishes

LIVE = "live"

SubjectArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL@REF|EXPORT",
        help="A published version, or an export: a directory, an archive of one, or the s3:// URL of either.",
        autocompletion=completion.references,
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command()(validate)


def validate(
    context: typer.Context,
    subject: SubjectArgument,
    target: TargetOption = None,
    model: Annotated[
        str | None, typer.Option(help="For an EXPORT: the model that it is to be.", autocompletion=completion.models)
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="live|MODEL@REF|EXPORT",
            help="Hold it, and its golden answers, against what serves (live), another version or an export.",
        ),
    ] = None,
    golden: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Golden records; default: the model's file in the settings.")
    ] = None,
    gate: Annotated[list[str] | None, typer.Option(help="Run this gate, not the target's; repeatable.")] = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Load it in a scratch server of each image, for a target in a container."),
    ] = None,
    allow_breaking: Annotated[
        str, typer.Option(metavar="REASON", help="Accept that clients break; recorded with the reason.")
    ] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Judge again what was judged before.")] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the report as JUnit's XML.")] = None,
    sarif: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the report as SARIF.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let the gates judge a version before clients meet it.

    Exit 3 if a gate refuses it. Nothing of what serves is touched.
    """
    from deployctl.cli.gate_reports import write_files, write_report
    from deployctl.documents.reports import report_document
    from deployctl.operations.validate import check_passed
    from deployctl.validation import Wishes

    wishes = Wishes(
        gates=tuple(gate or ()),
        allow_breaking=allow_breaking,
        golden=golden,
        against_live=against is not None,
        images=_listed(images),
    )
    against = None if against == LIVE else against
    path = export_path(subject)
    if path is None and model is not None:
        raise UsageError(f"--model {model} is for an EXPORT, and {subject} names its model")
    with opened_for(context, path) as deployment:
        if path is None:
            report = _of_version(deployment, subject, target, against, wishes, fresh=fresh)
        else:
            report = _of_export(deployment, subject, target, model, against, wishes)
    write_files(report, junit_file=junit, sarif_file=sarif)
    if output is Output.JSON:
        write_json("validate", report_document(report))
    elif output is Output.NAME:
        for each in report.results:
            write(f"{each.gate} {each.verdict.outcome.value}")
    else:
        write_report(report)
    check_passed(report, hint=_hint(report))


def _listed(images: str | None) -> tuple[str, ...]:
    """Returns the images of --images, each once.

    Raises:
        UsageError: an image has no name.
    """
    names = images.split(",") if images is not None else []
    if not all(map(str.strip, names)):
        raise UsageError(f"--images {images!r} is not IMAGE,IMAGE", hint="deployctl validate --help")
    return tuple(dict.fromkeys(map(str.strip, names)))


def _check_images(deployment: Deployment, target: TargetName | None, subject: str, wishes: Wishes) -> None:
    """Raises UsageError where images are to be tried for a target that is not served from one."""
    from deployctl.config.settings import RuntimeName

    targets = deployment.settings.targets
    runtime = targets[target].runtime if target else None
    if not wishes.images or runtime is RuntimeName.DOCKER:
        return
    others = [name for name, each in targets.items() if each.runtime is RuntimeName.DOCKER]
    why = f"{target} is served by runtime {runtime.value!r}" if target and runtime else "there are no targets"
    hint = f"deployctl validate {subject} --images {','.join(wishes.images)} --target {others[0]}" if others else None
    raise UsageError(
        f"--images is for targets with runtime 'docker', and {why}",
        hint=hint or f"deployctl validate {subject} --gate load",
    )


def _hint(report: Report) -> str:
    """Returns what shows more of a refusal than the report does."""
    compared = "@" in report.serving and report.serving != report.subject
    if report.refusal is not None and report.refusal.gate == "compatibility" and compared:
        return f"deployctl diff {report.serving} {report.subject}"
    path = export_path(report.subject)
    if path is not None and not path.is_dir():
        from deployctl.repository.sources import ExportSource

        return ExportSource(report.subject).listing
    return f"deployctl {'inspect' if path is not None else 'show'} {report.subject}"


def export_path(subject: str) -> Path | None:
    """Returns the export that `subject` names, None where it names a version of a model; of a URL, something."""
    path = Path(subject)
    if "/" in subject or ("@" not in subject and path.exists()):
        return path
    return None


@contextmanager
def opened_for(context: typer.Context, path: Path | None) -> Iterator[Deployment]:
    """Opens deployctl; an export may be judged where there are no settings."""
    import os

    from deployctl.bootstrap import opened
    from deployctl.cli.progress import TerminalObserver
    from deployctl.config.load import find_file
    from deployctl.config.settings import Settings

    words = session(context)
    if path is not None and not words.flags and find_file(words.config, os.environ, Path.cwd()) is None:
        with TerminalObserver() as observer, opened(Settings(root=Path.cwd()), observer) as deployment:
            yield deployment
    else:
        with words.open() as deployment:
            yield deployment


def _of_version(
    deployment: Deployment, subject: str, target: str | None, against: str | None, wishes: Wishes, *, fresh: bool
) -> Report:
    from deployctl.cli.references import resolve_reference
    from deployctl.operations.candidate import of_version
    from deployctl.operations.validate import Validate
    from deployctl.validation import GateMaker, candidate_on

    name = deployment.target_name(target)
    _check_images(deployment, name, subject, wishes)
    model, number = resolve_reference(deployment, subject, name)
    with ExitStack() as stack:
        if against is None:
            candidate = candidate_on(deployment, name, model, number)
        else:
            version = of_version(deployment.repository, deployment.reader, model, number, deployment.context.observer)
            candidate = _held_against(deployment, stack, version, against, name)
        gates = stack.enter_context(GateMaker(deployment, name, model, wishes))
        return Validate(gates, deployment.lineage, deployment.context, target=name, fresh=fresh)(candidate)


def _of_export(
    deployment: Deployment,
    subject: str,
    target: str | None,
    model: str | None,
    against: str | None,
    wishes: Wishes,
) -> Report:
    from deployctl.domain.names import parse_model_name
    from deployctl.gates.interface import Candidate
    from deployctl.operations.candidate import against_target
    from deployctl.operations.validate import Validate
    from deployctl.validation import GateMaker

    name = deployment.target_name(target) if target or deployment.settings.targets else None
    _check_images(deployment, name, subject, wishes)
    wanted = parse_model_name(model) if model is not None else None
    with ExitStack() as stack:
        version = subject_version(deployment, stack, subject, name)
        if against is not None:
            candidate = _held_against(deployment, stack, version, against, name)
        elif wanted is not None and name is not None:
            place = deployment.target(name)
            candidate = against_target(version, None, wanted, place, deployment.reader, deployment.context)
        else:
            candidate = Candidate(version, wanted)
        with GateMaker(deployment, name, wanted, wishes) as gates:
            return Validate(gates, None, deployment.context, target=name)(candidate)


def _brought(deployment: Deployment, stack: ExitStack, subject: str, *, whole: bool) -> Version:
    """Returns the export that an archive or a URL holds, under the name that the user gave, until `stack` ends."""
    from dataclasses import replace

    from deployctl.operations.candidate import of_export
    from deployctl.repository.sources import ExportSource

    source = ExportSource(subject)
    version = of_export(deployment.reader, stack.enter_context(deployment.export(source)), whole=whole)
    if version.problem is not None:
        source.name_in(version.problem, version.path)
    return replace(version, name=source.text)


def _held_against(
    deployment: Deployment, stack: ExitStack, version: Version, against: str, target: TargetName | None
) -> Candidate:
    from deployctl.gates.interface import Candidate

    other = subject_version(deployment, stack, against, target, whole=False)
    model_of = version.manifest.model if version.manifest else None
    return Candidate(version, model_of, other, other)


def subject_version(
    deployment: Deployment, stack: ExitStack, subject: str, target: str | None, *, whole: bool = True
) -> Version:
    """Returns the version or export that `subject` names; what was unpacked or fetched is there until `stack` ends."""
    from deployctl.cli.references import resolve_reference
    from deployctl.operations.candidate import of_export, of_version

    path = export_path(subject)
    if path is not None and path.is_dir():
        return of_export(deployment.reader, path, whole=whole)
    if path is not None:
        return _brought(deployment, stack, subject, whole=whole)
    model, number = resolve_reference(deployment, subject, target)
    observer = deployment.context.observer
    return of_version(deployment.repository, deployment.reader, model, number, observer, whole=whole)
