"""What every command of `convert` ends with: the conversion, the publication, and what is told of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from deployctl.cli.conversion_checks import check_options
from deployctl.cli.conversion_options import Ending, own, tag_sets
from deployctl.cli.options import Output, session
from deployctl.cli.render import size, write, write_json
from deployctl.errors import UsageError

if TYPE_CHECKING:
    from deployctl.convert.request import ConversionRequest, Result, SourceRequest
    from deployctl.convert.run import Converted
    from deployctl.operations.publish import Published

_TIMEOUT_S = 3600.0
_NOUNS = {"saved_model": "SavedModel", "graph": "frozen graph", "tflite": "TFLite file", "onnx": "ONNX file"}
_SUFFIXES = {"saved_model": "", "graph": ".pb", "tflite": ".tflite", "onnx": ".onnx"}


def convert_and_tell(
    context: typer.Context,
    ending: Ending,
    models: Mapping[str, Path],
    *,
    result: str | None = None,
    kinds: tuple[str, ...] | None = None,
    tolerances: tuple[float, float] = (1e-4, 1e-5),
    **more: Any,
) -> None:
    """Converts, publishes where that is asked for, and tells what was done.

    Args:
        context: of the command.
        ending: what all commands are told.
        models: to be converted, by name.
        result: a `Result`; None for a SavedModel, or a frozen graph where --out ends with .pb.
        kinds: the `SourceKind`s that are taken; None takes all.
        tolerances: relative and absolute, where none are given.
        more: fields of the `ConversionRequest`, and what applies to every one of its sources.
    """
    from deployctl.convert.request import Result
    from deployctl.convert.run import convert
    from deployctl.domain.duration import parse_duration
    from deployctl.domain.names import parse_model_name

    chosen = Result(result) if result is not None else _result(ending)
    if chosen is not Result.SAVED_MODEL and ending.publish is not None:
        raise UsageError(f"--publish takes a SavedModel, and the result is another: {_NOUNS[chosen.value]}")
    check_options(ending, models, more)
    if ending.publish is not None:
        parse_model_name(ending.publish)
        # What cannot be published is told now, and not when all has been converted.
        with session(context).open():
            pass
    request = _request(ending, models, chosen, tolerances, kinds, more)
    timeout_s = parse_duration(ending.timeout) if ending.timeout else _TIMEOUT_S
    with _destination(ending, models, chosen) as destination:
        converted = convert(request, destination, timeout_s=timeout_s)
        published = _published(context, ending, request, destination) if ending.publish is not None else None
    _tell(ending, request, converted, published)


def _result(ending: Ending) -> Result:
    from deployctl.convert.request import Result

    return Result.GRAPH if ending.out is not None and ending.out.suffix == ".pb" else Result.SAVED_MODEL


def _request(
    ending: Ending,
    models: Mapping[str, Path],
    result: Result,
    tolerances: tuple[float, float],
    kinds: tuple[str, ...] | None,
    more: dict[str, Any],
) -> ConversionRequest:
    from deployctl.convert.request import ConversionRequest, Result

    about_sources = {name: more.pop(name, None) for name in ("inputs", "outputs", "builder", "source_signature")}
    tags = tag_sets(more.pop("tags", None))
    sources = tuple(
        _source(name, path, kinds, about_sources | {"tags": each}) for name, path in models.items() for each in tags
    )
    if len(tags) > 1:
        if result is not Result.SAVED_MODEL:
            named = " and ".join(map(",".join, tags))
            raise UsageError(f"--tags names the MetaGraphs {named}, and a {_NOUNS[result.value]} is made of one")
        more["meta_graphs"] = tags
    rtol, atol = (
        given if given is not None else default
        for given, default in zip((ending.rtol, ending.atol), tolerances, strict=True)
    )
    for name in ("labels", "vocabulary", "vectors", "representative"):
        path = more.get(name)
        more[name] = os.path.abspath(path) if path is not None else None
    for name in ("custom", "allow_lambda", "drop"):
        more[name] = tuple(more.get(name) or ())
    return ConversionRequest(
        sources=sources,
        work="",
        result=result,
        samples=ending.samples,
        seed=ending.seed,
        sample=_samples(ending.sample),
        rtol=rtol,
        atol=atol,
        **more,
    )


def _source(name: str, path: Path, kinds: tuple[str, ...] | None, about: Mapping[str, Any]) -> SourceRequest:
    from deployctl.convert.request import SourceRequest
    from deployctl.savedmodel.source import identify

    source = identify(path)
    if kinds is not None and source.kind.value not in kinds:
        noun, wanted = (kind.replace("_h5", "").replace("_", " ") for kind in (source.kind.value, kinds[0]))
        raise UsageError(f"{path} is a {noun}, not a {wanted}", hint=f"deployctl inspect {path}")
    return SourceRequest(
        name=name,
        path=str(source.path.absolute()),
        kind=source.kind.value,
        inputs=own(name, about["inputs"] or {}),
        outputs=own(name, about["outputs"] or {}),
        tags=about["tags"],
        signature=about["source_signature"],
        builder=about["builder"],
    )


def _samples(words: list[str] | None) -> dict[str, str]:
    from deployctl.cli.provenance import pairs

    return pairs("--sample", words)


@contextmanager
def _destination(ending: Ending, models: Mapping[str, Path], result: Result) -> Iterator[Path]:
    """Where the result goes: --out, else a place that is gone after publishing, else the source's name here."""
    if ending.out is not None:
        yield ending.out
    elif ending.publish is not None:
        from deployctl.convert.workplace import workplace

        with workplace(Path(tempfile.gettempdir()), "deployctl-convert-") as folder:
            yield folder / "export"
    else:
        name = next(iter(models)) if len(models) == 1 else "bundle"
        yield Path(f"{name}{_SUFFIXES[result.value]}")


def _published(context: typer.Context, ending: Ending, request: ConversionRequest, export: Path) -> Published:
    from deployctl.convert.run import digest_of
    from deployctl.domain.manifest import Provenance
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.publish import Publish, PublishRequest

    paths = _paths(request)
    provenance = Provenance(
        source=", ".join(str(path) for path in paths), parents=tuple(digest_of(path) for path in paths)
    )
    asked = PublishRequest(
        export=export, model=parse_model_name(str(ending.publish)), provenance=provenance, reason=ending.reason
    )
    with session(context).open() as deployment:
        return Publish(deployment.repository, deployment.reader, deployment.lineage, deployment.context)(asked)


def _paths(request: ConversionRequest) -> list[Path]:
    """Returns what is converted; a source of several MetaGraphs once."""
    return list(dict.fromkeys(Path(source.path) for source in request.sources))


def _tell(ending: Ending, request: ConversionRequest, converted: Converted, published: Published | None) -> None:
    kept = ending.out is not None or published is None
    if ending.output is Output.JSON:
        write_json("convert", _document(request, converted, published) | {"path": converted.path if kept else None})
        return
    name = f"{published.model}@{published.version}" if published is not None else ""
    if ending.output is Output.NAME:
        write(name or str(converted.path))
        return
    if kept:
        write(f"{converted.path}   {_NOUNS[request.result.value]}")
    smaller = converted.result_bytes < converted.source_bytes
    change = f" ({converted.result_bytes / converted.source_bytes:.0%})" if smaller else ""
    write(f"size        {size(converted.source_bytes)} -> {size(converted.result_bytes)}{change}")
    if converted.shared_bytes and len(request.sources) > 1:
        write(f"shared      {size(converted.shared_bytes)} of weights that were there already")
    for key, sides in converted.signatures.items():
        write(f"signature   {key}   {', '.join(sides['inputs'])} -> {', '.join(sides['outputs'])}")
    for each in converted.differences:
        write(f"parity      {each.signature} {each.output}: off by up to {each.largest or 0:.2g}")
    if not converted.differences:
        write(f"parity      not compared: {converted.not_compared}")
    if published is not None:
        state = "published" if published.created else "already published (same bytes)"
        write(f"{name}  {state}   {size(published.size_bytes)}")


def _document(request: ConversionRequest, converted: Converted, published: Published | None) -> dict[str, Any]:
    from deployctl.convert.run import digest_of

    paths = _paths(request)
    facts = ("signature", "output", "largest", "within")
    return {
        "result": request.result.value,
        "sources": [{"path": path, "digest": digest_of(path)} for path in paths],
        "source_bytes": converted.source_bytes,
        "result_bytes": converted.result_bytes,
        "shared_bytes": converted.shared_bytes,
        "signatures": dict(converted.signatures),
        "parity": [{name: getattr(each, name) for name in facts} for each in converted.differences],
        "not_compared": converted.not_compared,
        "golden_requests": converted.recorded,
        "published": {name: getattr(published, name) for name in ("model", "version", "digest", "created")}
        if published is not None
        else None,
    }
