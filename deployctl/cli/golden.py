"""`golden record`: what a version answers now, kept as what later versions must answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployctl.cli.options import Output, OutputOption, TargetOption
from deployctl.cli.render import write, write_json
from deployctl.cli.validation import SubjectArgument, export_path, opened_for, subject_version
from deployctl.errors import InvalidRequestError, ServerError, UsageError

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.domain.golden import GoldenRecord
    from deployctl.gates.interface import Version
    from deployctl.serving.interface import Prediction

_CALL_TIMEOUT_S = 60.0

golden_app = typer.Typer(help="Keep requests with the answers that versions must give.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.add_typer(golden_app, name="golden")


@golden_app.command()
def record(
    context: typer.Context,
    subject: SubjectArgument,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Requests, one JSON object a line.")
    ] = None,
    random: Annotated[int | None, typer.Option(metavar="N", min=1, help="Make this many requests.")] = None,
    seed: Annotated[int, typer.Option(help="For --random: the same seed makes the same requests.")] = 0,
    signature: Annotated[str, typer.Option(help="For --random: signature; default: serving_default.")] = "",
    live: Annotated[bool, typer.Option("--live", help="Ask the target's server, not a scratch server.")] = False,
    target: TargetOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write; default: the model's file in the settings.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Record what a version answers.

    The gate `golden` holds later versions to it.
    """
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.golden import random_requests, record_answers

    if (source is None) == (random is None):
        raise UsageError("give exactly one of --from FILE and --random N")
    lines = _requests(source) if source is not None else {}
    path = export_path(subject)
    if path is not None and (live or out is None):
        raise UsageError(f"{subject} is an export: give --out FILE, and not --live")
    with opened_for(context, path) as deployment, ExitStack() as stack:
        version = subject_version(deployment, stack, subject, target)
        if version.problem is not None:
            raise version.problem
        if out is None:
            named = parse_model_name(version.name.partition("@")[0])
            deployment.context.permit("golden record", target=deployment.target_name(target), model=named)
        ask = stack.enter_context(_asked(deployment, version, target, live=live))
        if source is not None:
            records = _recorded(source, lines, version, ask)
        else:
            records = record_answers(random_requests(version, signature, random or 0, seed), version, ask)
        file = out or golden_path(deployment, target, version.name.partition("@")[0])
    _write(file, records)
    if output is Output.JSON:
        write_json("golden", {"subject": version.name, "file": file, "records": len(records)})
    else:
        write(str(file) if output is Output.NAME else f"{version.name}  {len(records)} answers recorded   {file}")


def golden_path(deployment: Deployment, target: str | None, model: str) -> Path:
    """Returns where the settings have the golden records of a model."""
    settings = deployment.settings
    return settings.root / settings.targets[deployment.target_name(target)].gate.golden.file.replace("{model}", model)


def _requests(file: Path) -> dict[int, GoldenRecord]:
    """Returns the requests of a file by the numbers of their lines, from 1.

    Raises:
        InvalidRequestError: the file cannot be read, or holds none: recording that would lose what is recorded.
    """
    from deployctl.domain.golden import parse_golden

    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{file} is not UTF-8 text") from error
    numbers = (number for number, line in enumerate(text.splitlines(), start=1) if line.strip())
    found = dict(zip(numbers, parse_golden(text, str(file)), strict=True))
    if not found:
        raise InvalidRequestError(f"{file} holds no request", hint="deployctl golden record --help")
    return found


def _recorded(
    file: Path, lines: Mapping[int, GoldenRecord], version: Version, ask: Callable[[GoldenRecord], Prediction]
) -> tuple[GoldenRecord, ...]:
    """Returns the requests of a file with their answers.

    Raises:
        InvalidRequestError: one does not fit the version; the file and the line are named.
    """
    from deployctl.operations.golden import record_answers, signature_of

    line, numbers = 0, iter(lines)

    def asked(record: GoldenRecord) -> Prediction:
        nonlocal line
        line = next(numbers)
        return ask(record)

    try:
        for number, request in lines.items():
            line = number
            signature_of(version, request.signature)
        return record_answers(tuple(lines.values()), version, asked)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{file}:{line} does not fit {version.name}: {error}", hint=error.hint) from error


@contextmanager
def _asked(
    deployment: Deployment, version: Version, target: str | None, *, live: bool
) -> Iterator[Callable[[GoldenRecord], Prediction]]:
    """Gives what asks `version`: the target's server, or a scratch server that lives as long as the block."""
    from deployctl.config.settings import TargetSettings
    from deployctl.domain.names import ModelName
    from deployctl.scratch import scratch_server
    from deployctl.serving.interface import PredictionRequest, ServedSpec

    def request(record: GoldenRecord, spec: ServedSpec) -> PredictionRequest:
        return PredictionRequest(spec, record.signature, record.instances, record.inputs)

    if live and version.manifest is not None:
        runtime = deployment.target(target).runtime
        served = ServedSpec(version.manifest.model, version=version.manifest.version)
        yield lambda record: runtime.predict(request(record, served), grpc=True, timeout_s=_CALL_TIMEOUT_S)
        return
    name = deployment.target_name(target) if deployment.settings.targets else None
    settings = deployment.settings.targets[name] if name else TargetSettings()
    with scratch_server(deployment, settings) as scratch:
        load = scratch.load(version, timeout_s=settings.gate.load.timeout_s)
        if load.error:
            raise ServerError(f"{version.name} cannot be loaded: {load.error}", hint=f"less {load.log_file}")
        spec = ServedSpec(ModelName("candidate"))  # a scratch server knows versions by other names
        yield lambda record: scratch.predict(version, request(record, spec), grpc=True, timeout_s=_CALL_TIMEOUT_S)


def _write(file: Path, records: tuple[GoldenRecord, ...]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{each.to_json()}\n" for each in records), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
