"""What a conversion is asked for, as it goes from the command to the process that does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Result(StrEnum):
    """What is written."""

    SAVED_MODEL = "saved_model"
    GRAPH = "graph"
    TFLITE = "tflite"
    ONNX = "onnx"


def labelled(signature: str, tags: Sequence[str], *, several: bool) -> str:
    """Returns how a signature is called where there may be `several` MetaGraphs."""
    return f"{signature} [{','.join(tags)}]" if several else signature


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """One model to read.

    Attributes:
        name: of the part; what its output is called in a bundle.
        path: the file, the directory of a SavedModel or the prefix of a checkpoint.
        kind: a `SourceKind`.
        inputs, outputs: tensor by name, for checkpoints and frozen graphs; {} finds them.
        signature: of a SavedModel; None takes all, or serving_default where one is needed.
        builder: "package.module:function" that makes the graph of a checkpoint.
    """

    name: str
    path: str
    kind: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ("serve",)
    signature: str | None = None
    builder: str | None = None


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """A conversion.

    Attributes:
        sources: one, or several to be put into one model.
        work: a directory for the result, called "result", and for what is made on the way.
        result: what is written.
        meta_graphs: the tags of the MetaGraph that each source becomes; () makes one of all, tagged "serve".
        bundle: put the sources together even where there is one.
        separate: give each source a signature of its own, under its name.
        keeps_signatures: keep every signature of the source, and not the default one alone.
        freeze: make variables constants.
        signature: the key of the result's signature.
        rename_inputs, rename_outputs, rename_signatures: new name by old one.
        merge: signatures to put into one, by the key of the new one.
        drop: signatures to leave out.
        shared_input: what the only input of each source is called.
        tokens: the input that takes string tokens from now on.
        length: tokens in a row; 0 takes the model's own.
        images: by input, "HxW", or "" for the model's own size.
        classify, regress: add these signatures over tf.Example.
        scores: the output that they, and labels, are about.
        batch: the size of each first axis that is free; 0 leaves them free.
        samples: rows in the inputs that parity is measured with.
        sample: expressions by input in place of random values.
    """

    sources: tuple[SourceRequest, ...]
    work: str
    result: Result = Result.SAVED_MODEL
    meta_graphs: tuple[tuple[str, ...], ...] = ()
    bundle: bool = False
    separate: bool = False
    keeps_signatures: bool = False
    freeze: bool = False
    signature: str = "serving_default"
    rename_inputs: Mapping[str, str] = field(default_factory=dict)
    rename_outputs: Mapping[str, str] = field(default_factory=dict)
    rename_signatures: Mapping[str, str] = field(default_factory=dict)
    merge: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    custom: tuple[str, ...] = ()
    allow_lambda: tuple[str, ...] = ()
    shared_input: str | None = None
    tokens: str | None = None
    vocabulary: str | None = None
    vectors: str | None = None
    unknown: str = "mean"
    length: int = 0
    images: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    offset: float = 0.0
    labels: str | None = None
    scores: str | None = None
    classify: bool = False
    regress: bool = False
    quantization: str = "float"
    representative: str | None = None
    batch: int = 0
    samples: int = 3
    seed: int = 0
    sample: Mapping[str, str] = field(default_factory=dict)
    rtol: float = 1e-4
    atol: float = 1e-5

    def to_json(self) -> dict[str, Any]:
        """Returns the request as JSON values; `from_json` gives it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ConversionRequest:
        """Returns what `to_json` was asked for."""
        known = {name: value for name, value in document.items() if name != "verb"}
        known["sources"] = tuple(SourceRequest(**{**each, "tags": tuple(each["tags"])}) for each in document["sources"])
        known["result"] = Result(document["result"])
        known["meta_graphs"] = tuple(tuple(tags) for tags in document["meta_graphs"])
        known["merge"] = {key: tuple(names) for key, names in document["merge"].items()}
        for name in ("drop", "custom", "allow_lambda"):
            known[name] = tuple(document[name])
        return cls(**known)
