"""`predict`: ask a target's server as its clients do, or run a model here without any server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployctl.cli import completion
from deployctl.cli.options import Output, OutputOption, TargetOption, TimeoutOption, session
from deployctl.cli.render import write, write_json
from deployctl.domain.duration import parse_duration
from deployctl.domain.json_values import finite
from deployctl.errors import ConversionError, InvalidRequestError, UsageError

if TYPE_CHECKING:
    from deployctl.savedmodel.source import Source

_PREDICT_TIMEOUT_S = 30.0
_LOCAL_TIMEOUT_S = 600.0


def register(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command()(predict)


def predict(
    context: typer.Context,
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL[@REF]",
            help="Model, and which version; default: the one that the target's clients reach.",
            autocompletion=completion.references,
        ),
    ] = None,
    instances: Annotated[
        str | None, typer.Option(metavar="JSON", help='Row format: a list, e.g. "[1.0, 2.0]".')
    ] = None,
    inputs: Annotated[str | None, typer.Option(metavar="JSON", help="Column format: a value, or one by input.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help='A JSON file {"instances": …} or {"inputs": …}, as REST takes it; "-" reads stdin.'),
    ] = None,
    signature: Annotated[str, typer.Option(help="Signature; default: serving_default.")] = "",
    grpc: Annotated[bool, typer.Option("--grpc", help="Call by gRPC instead of REST.")] = False,
    target: TargetOption = None,
    local: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Run this SavedModel, frozen graph or TFLite file, no server.")
    ] = None,
    tags: Annotated[str, typer.Option(help="With --local: the MetaGraph's tags, with commas between.")] = "serve",
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="With --local: zeros(…), ones(…), rand(seed,…), arange(…), a literal, or @FILE (.npy, .npz, image).",
        ),
    ] = None,
    fetch: Annotated[
        list[str] | None, typer.Option(metavar="TENSOR", help="With --local: ask for tensors by name; repeatable.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --local: write outputs to .npz or .npy.")
    ] = None,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask a target's server, as a client would, or run a model without any server."""
    only_local = {"--input": input_, "--fetch": fetch, "--save": save}
    if local is not None:
        if reference is not None or target is not None or grpc:
            raise UsageError("--local runs a path without a server: leave out MODEL, --target and --grpc")
        request: dict[str, Any] = {"tags": tags.split(","), "fetch": fetch or [], "expressions": _words(input_)}
        request |= {"save": str(save) if save else None}
        request |= _body((instances, inputs, file), signature, optional=bool(input_))
        _predict_here(local, request, timeout, output)
        return
    if reference is None:
        raise UsageError("give a MODEL to ask its server, or --local PATH")
    stray = [name for name, value in only_local.items() if value]
    if stray:
        raise UsageError(f"{stray[0]} needs --local")
    _ask(context, reference, (instances, inputs, file), signature, grpc=grpc, target=target, timeout=timeout, to=output)


def _ask(
    context: typer.Context,
    reference: str,
    given: tuple[str | None, str | None, Path | None],
    signature: str,
    *,
    grpc: bool,
    target: str | None,
    timeout: str | None,
    to: Output,
) -> None:
    from deployctl.cli.requests import read_request
    from deployctl.domain.reference import Latest, parse_reference
    from deployctl.operations.predict import predict as ask
    from deployctl.operations.predict import served_spec, usual_spec

    body = read_request(*given, signature=signature)
    timeout_s = parse_duration(timeout) if timeout else _PREDICT_TIMEOUT_S
    with session(context).open() as deployment:
        place = deployment.target(target)
        parsed = parse_reference(reference, default=Latest())
        spec = served_spec(place, parsed) if "@" in reference else usual_spec(place, parsed.model)
        prediction = ask(place, body.to_request(spec), grpc=grpc, timeout_s=timeout_s)
    key = "predictions" if body.instances is not None else "outputs"
    if to is Output.JSON:
        write_json("predict", {"model": parsed.model, "version": prediction.version, key: prediction.outputs})
    else:
        write(json.dumps(finite({key: prediction.outputs})))


def _body(given: tuple[str | None, str | None, Path | None], signature: str, *, optional: bool) -> dict[str, Any]:
    from deployctl.cli.requests import read_request

    if not optional:
        body = read_request(*given, signature=signature)
        return {"signature": body.signature, "instances": body.instances, "inputs": body.inputs}
    if any(each is not None for each in given):
        raise InvalidRequestError("give either --input or one of --instances, --inputs and --file")
    return {"signature": signature}


def _words(words: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise InvalidRequestError(f"--input {word!r} is not NAME=VALUE")
        if name in found:
            raise InvalidRequestError(f"--input gives {name!r} twice")
        found[name] = value
    return found


def _predict_here(path: Path, request: dict[str, Any], timeout: str | None, output: Output) -> None:
    from deployctl.convert.child import call
    from deployctl.savedmodel.source import SourceKind, identify

    source = identify(path)
    module = "deployctl.modelserver.local"
    if source.kind is SourceKind.TFLITE:
        module, request = "deployctl.convert.worker", request | {"verb": "run_tflite"}
    elif source.kind is SourceKind.FROZEN_GRAPH:
        request = request | {"fetch": request["fetch"] or _outputs_of(source)}
    elif source.kind is not SourceKind.SAVED_MODEL:
        kind = source.kind.value.replace("_h5", "")
        raise UsageError(
            f"{path} has to be converted before it can be run", hint=f"deployctl convert {kind} {path} --out DIR"
        )
    timeout_s = parse_duration(timeout) if timeout else _LOCAL_TIMEOUT_S
    try:
        answer = call(module, request | {"path": str(source.path)}, timeout_s=timeout_s)
    except ConversionError as error:
        if error.kind == "request":
            raise InvalidRequestError(str(error), hint=error.hint or f"deployctl inspect {path}") from error
        raise
    key = "predictions" if request.get("instances") is not None else "outputs"
    if output is Output.JSON:
        write_json("predict", {"path": path, key: answer["outputs"], "shapes": answer["shapes"]})
    else:
        write(json.dumps(finite({key: answer["outputs"]})))


def _outputs_of(source: Source) -> list[str]:
    from deployctl.savedmodel.frozen import read_frozen

    outputs = list(read_frozen(source.path).outputs)
    if len(outputs) != 1:
        names = ", ".join(outputs) or "none"
        raise InvalidRequestError(
            f"{source.path} has no single output: name one with --fetch; nothing takes {names}",
            hint=f"deployctl inspect {source.path}",
        )
    return outputs
