"""Does a conversion, in the child process: reads the sources, writes the result, records what parity is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deployctl.convert.bundle import bundled
from deployctl.convert.export import Export, TaggedExports, size_of, write_saved_model
from deployctl.convert.freezing import frozen, write_graph
from deployctl.convert.golden import Call, ask, main_part, record, write_calls
from deployctl.convert.graph_source import load_checkpoint, load_frozen
from deployctl.convert.keras_source import load_keras
from deployctl.convert.part import Part, renamed, with_batch
from deployctl.convert.request import ConversionRequest, Result, SourceRequest, labelled
from deployctl.convert.saved_source import load_saved_model
from deployctl.convert.steps import classify, images_front, labels_back, regress
from deployctl.convert.words import read_vocabulary, tokens_front
from deployctl.domain.golden import OWN_GOLDEN_PATH
from deployctl.domain.saved_model import DEFAULT_SIGNATURE, SERVE_TAG
from deployctl.errors import ConversionError
from deployctl.modelserver.difference import difference
from deployctl.savedmodel.source import SourceKind


def run(document: dict[str, Any]) -> dict[str, Any]:
    """Answers "convert": a `ConversionRequest`."""
    request = ConversionRequest.from_json(document)
    work = Path(request.work)
    graphs, words = _graphs(request, work)
    result = work / "result"
    answer: dict[str, Any] = {"source_bytes": _source_bytes(request)}
    calls = [ask(request, graph.exports, words) for graph in graphs]
    if request.result is Result.SAVED_MODEL:
        answer["shared_bytes"] = write_saved_model(graphs, result)
        served = [
            call for graph, asked in zip(graphs, calls, strict=True) if graph.tags == (SERVE_TAG,) for call in asked
        ]
        answer["recorded"] = record(result / OWN_GOLDEN_PATH, served)
    else:
        _write_file(request, graphs[0].exports[0].part, result, work)
    if request.result is Result.TFLITE:
        answer["parity"] = _tflite_parity(result, calls[0])
    elif request.result is Result.ONNX:
        answer |= _onnx_parity(result, calls[0])
    else:
        answer["compare"] = [_written(graph, each, request, work) for graph, each in zip(graphs, calls, strict=True)]
    signatures = {
        labelled(each.key, graph.tags, several=len(graphs) > 1): {
            "inputs": sorted(each.part.inputs),
            "outputs": sorted(each.part.outputs),
        }
        for graph in graphs
        for each in graph.exports
    }
    return answer | {"result_bytes": size_of(result), "signatures": signatures}


def _written(graph: TaggedExports, calls: Sequence[Call], request: ConversionRequest, work: Path) -> dict[str, Any]:
    """Writes down what a MetaGraph has to answer, and returns where."""
    file = work / f"parity-{'-'.join(graph.tags)}.json"
    write_calls(file, calls, request.result)
    return {"file": str(file), "tags": list(graph.tags)}


def _graphs(request: ConversionRequest, work: Path) -> tuple[list[TaggedExports], Sequence[str]]:
    """The MetaGraphs to be, and words that string inputs can be made of."""
    found = [_signatures(source, request) for source in request.sources]
    if not request.meta_graphs:
        exports, words = _exports(found, request, work)
        return [TaggedExports((SERVE_TAG,), exports)], words
    every = {key: part for parts in found for key, part in parts.items()}
    _check_known(every, request)
    graphs = []
    for source, tags, parts in zip(request.sources, request.meta_graphs, found, strict=True):
        alone = replace(
            request,
            sources=(source,),
            rename_signatures={old: new for old, new in request.rename_signatures.items() if old in parts},
            merge={new: names for new, names in request.merge.items() if parts.keys() >= set(names)},
            drop=tuple(key for key in request.drop if key in parts),
        )
        graphs.append(TaggedExports(tags, _exports([parts], alone, work)[0]))
    return graphs, ()


def _exports(
    found: Sequence[Mapping[str, Part]], request: ConversionRequest, work: Path
) -> tuple[list[Export], Sequence[str]]:
    """The signatures to be, and words that string inputs can be made of."""
    words: Sequence[str] = ()
    if len(found) == 1 and not request.bundle and request.result is Result.SAVED_MODEL and request.keeps_signatures:
        exports = _rearranged(found[0], request)
    else:
        parts = [_one(each, source) for each, source in zip(found, request.sources, strict=True)]
        if request.separate:
            exports = _separate(parts, request)
        else:
            together = request.bundle or len(parts) > 1
            part = bundled(parts, shared_input=request.shared_input) if together else parts[0]
            part = renamed(part, request.rename_inputs, request.rename_outputs)
            part, words = _with_steps(part, request, work)
            part = with_batch(part, request.batch) if request.batch else part
            exports = [Export(request.signature, part)]
    exports += _over_examples(exports, request)
    if request.labels and (main := main_part(exports)) is not None:
        with_labels = labels_back(main, Path(request.labels), request.scores)
        exports = [Export(each.key, with_labels if each.part is main else each.part) for each in exports]
    if request.freeze and request.result is Result.SAVED_MODEL:
        exports = [Export(each.key, frozen(each.part)) for each in exports]
    return exports, words


def _separate(parts: Sequence[Part], request: ConversionRequest) -> list[Export]:
    """One signature for each model, which share nothing but the file."""
    if len({part.name for part in parts}) < len(parts):
        raise ConversionError("two models have one name: give them others, NAME=PATH", kind="usage")
    return [Export(part.name, renamed(part, request.rename_inputs, request.rename_outputs)) for part in parts]


def _over_examples(exports: Sequence[Export], request: ConversionRequest) -> list[Export]:
    """The Classify and Regress signatures that are asked for."""
    if not request.classify and not request.regress:
        return []
    part = main_part(exports)
    if part is None:
        raise ConversionError("there is no Predict signature to classify or regress with", kind="usage")
    added = []
    if request.classify:
        labels = Path(request.labels) if request.labels else None
        added.append(Export("classify", classify(part, labels, request.scores)))
    if request.regress:
        added.append(Export("regress", regress(part, request.scores)))
    taken = {each.key for each in exports} & {each.key for each in added}
    if taken:
        raise ConversionError(f"there is a signature {taken.pop()!r} already", kind="usage")
    return added


def _signatures(source: SourceRequest, request: ConversionRequest) -> dict[str, Part]:
    path = Path(source.path)
    kind = SourceKind(source.kind)
    if kind in (SourceKind.KERAS, SourceKind.KERAS_H5):
        return {
            DEFAULT_SIGNATURE: load_keras(path, source.name, custom=request.custom, allow_lambda=request.allow_lambda)
        }
    if kind is SourceKind.CHECKPOINT:
        loaded = load_checkpoint(path, inputs=source.inputs, outputs=source.outputs, builder=source.builder)
        return {DEFAULT_SIGNATURE: loaded.part(source.name, _checkpoint_bytes(path))}
    if kind is SourceKind.FROZEN_GRAPH:
        loaded = load_frozen(path, inputs=source.inputs, outputs=source.outputs)
        return {DEFAULT_SIGNATURE: loaded.part(source.name, path.stat().st_size)}
    if kind is SourceKind.SAVED_MODEL:
        return load_saved_model(path, source.name, tags=source.tags, signature=source.signature)
    from deployctl.convert.tflite_source import load_tflite

    return {DEFAULT_SIGNATURE: load_tflite(path, source.name)}


def _one(parts: Mapping[str, Part], source: SourceRequest) -> Part:
    if len(parts) == 1:
        return next(iter(parts.values()))
    if DEFAULT_SIGNATURE in parts:
        return parts[DEFAULT_SIGNATURE]
    raise ConversionError(f"{source.path} has several signatures: name one of {', '.join(parts)}", kind="usage")


def _rearranged(parts: Mapping[str, Part], request: ConversionRequest) -> list[Export]:
    """The signatures of one model under new names, some merged, some left out."""
    _check_known(parts, request)
    kept = [(request.rename_signatures.get(key, key), part) for key, part in parts.items() if key not in request.drop]
    for new, names in request.merge.items():
        members = [replace(parts[name], name=name) for name in names]
        kept.append((new, bundled(members, shared_input=None, prefixed=False)))
    if not kept:
        raise ConversionError("no signature would be left", kind="usage")
    keys = [key for key, _ in kept]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConversionError(f"two signatures would have the name {twice!r}", kind="usage")
    return [Export(key, _renamed_where_it_has(part, request)) for key, part in kept]


def _check_known(parts: Mapping[str, Part], request: ConversionRequest) -> None:
    merged = tuple(name for names in request.merge.values() for name in names)
    for key in (*request.drop, *request.rename_signatures, *merged):
        if key not in parts:
            raise ConversionError(f"there is no signature {key!r}, only {', '.join(parts)}", kind="usage")


def _renamed_where_it_has(part: Part, request: ConversionRequest) -> Part:
    inputs = {old: new for old, new in request.rename_inputs.items() if old in part.inputs}
    outputs = {old: new for old, new in request.rename_outputs.items() if old in part.outputs}
    return renamed(part, inputs, outputs)


def _with_steps(part: Part, request: ConversionRequest, work: Path) -> tuple[Part, Sequence[str]]:
    words: Sequence[str] = ()
    if request.vocabulary or request.vectors:
        given = request.tokens or request.shared_input or (next(iter(part.inputs)) if len(part.inputs) == 1 else "")
        _check_input(part, given, "--tokens")
        listed, vectors = (Path(each) if each else None for each in (request.vocabulary, request.vectors))
        vocabulary = read_vocabulary(listed, vectors, work, unknown=request.unknown)
        part = tokens_front(part, given, vocabulary, request.length or None)
        with vocabulary.file.open(encoding="utf-8", errors="replace") as lines:
            words = [*(line.rstrip("\n") for line, _ in zip(lines, range(50), strict=False)), "", "\x00none"]
    for given, size in request.images.items():
        _check_input(part, given, "--decode-image")
        height, _, width = size.partition("x")
        wanted = (int(height), int(width)) if size else None
        part = images_front(part, given, size=wanted, scale=request.scale, offset=request.offset)
    return part, words


def _check_input(part: Part, name: str, option: str) -> None:
    if name not in part.inputs:
        raise ConversionError(f"{option} has to name one of {', '.join(part.inputs)}, not {name!r}", kind="usage")


def _write_file(request: ConversionRequest, part: Part, file: Path, work: Path) -> None:
    if request.result is Result.GRAPH:
        write_graph(part, file)
    elif request.result is Result.TFLITE:
        from deployctl.convert.tflite import write_tflite

        representative = Path(request.representative) if request.representative else None
        write_tflite(
            part, file, work, quantization=request.quantization, representative=representative, seed=request.seed
        )
    else:
        from deployctl.convert.onnx import write_onnx

        write_onnx(part, file)


def _tflite_parity(file: Path, calls: Sequence[Call]) -> list[dict[str, Any]]:
    from deployctl.convert.tflite import run_file

    return _measured(calls[0], run_file(file, calls[0].inputs))


def _onnx_parity(file: Path, calls: Sequence[Call]) -> dict[str, Any]:
    from deployctl.convert.onnx import NotRunError, run_onnx

    try:
        return {"parity": _measured(calls[0], run_onnx(file, calls[0].inputs))}
    except NotRunError as error:
        return {"not_compared": str(error)}


def _measured(call: Call, actual: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, expected in call.outputs.items():
        if name not in actual:
            raise ConversionError(f"the result has no output {name!r}, only {', '.join(actual)}")
        measured = difference(expected, np.asarray(actual[name]), rtol=call.rtol, atol=call.atol)
        found.append({"signature": call.signature, "output": name} | measured)
    return found


def _source_bytes(request: ConversionRequest) -> int:
    # One may be there for several of its MetaGraphs.
    kinds = {Path(source.path): source.kind for source in request.sources}
    return sum(
        _checkpoint_bytes(path) if kind == SourceKind.CHECKPOINT else size_of(path) for path, kind in kinds.items()
    )


def _checkpoint_bytes(prefix: Path) -> int:
    files = [file for file in prefix.parent.glob(f"{prefix.name}*") if file.suffix != ".meta" and file.is_file()]
    return sum(file.stat().st_size for file in files)
