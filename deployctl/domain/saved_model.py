"""What a SavedModel declares, as values; `savedmodel/` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
SERVE_TAG = "serve"
DEFAULT_SIGNATURE = "serving_default"
# Signatures that start so are TensorFlow's own (the op that restores variables), never a client's.
INTERNAL_SIGNATURE_PREFIX = "__"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a signature.

    Attributes:
        dtype: TensorFlow's name for the element type, e.g. "float32" (`tf.DType.name`).
        shape: sizes by axis, None for an axis of free size (-1 in TensorShapeProto), so
            (None, 224, 224, 3) is any batch of images; None when the rank is unknown.
        tensor: the graph's name for it, e.g. "serving_default_x:0"; "" when it has none
            (composite tensors).
    """

    dtype: str
    shape: tuple[int | None, ...] | None
    tensor: str = ""

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} (any shape)"
        axes = ",".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} ({axes})"


@dataclass(frozen=True, slots=True)
class Signature:
    """A SignatureDef: inputs and outputs by the names clients use, in name order.

    Attributes:
        defaults: what the server takes for each optional input that is left out, as text; manifests do not hold it.
    """

    method: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    optional_inputs: frozenset[str] = frozenset()
    defaults: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that the graph declares; `shape` as in TensorSpec."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class MetaGraph:
    """One MetaGraphDef of a SavedModel.

    Attributes:
        tags: sorted.
        signatures: by key, internal ones (`__saved_model_init_op`) included.
        graph_ops: how often each op occurs in the graph itself.
        function_ops: how often each op occurs in the function library.
        variables: declared ones, in name order.
        restores_variables: whether loading it reads `variables/variables.index`.
        assets: file names below `assets/`, sorted.
        tensorflow_version: the version that wrote it, "" if unrecorded.
        stripped_default_attrs: as recorded by the writer.
        restored_keys: the keys of the checkpoint that loading reads, sorted, as far as they are constants.
    """

    tags: tuple[str, ...]
    signatures: Mapping[str, Signature]
    graph_ops: Mapping[str, int]
    function_ops: Mapping[str, int]
    variables: tuple[Variable, ...]
    restores_variables: bool
    assets: tuple[str, ...]
    tensorflow_version: str
    tensorflow_git_version: str = ""
    stripped_default_attrs: bool = False
    restored_keys: tuple[str, ...] = ()

    @property
    def ops(self) -> Mapping[str, int]:
        """Every op of the graph and of the function library, with its number of occurrences."""
        total = dict(self.graph_ops)
        for op, count in self.function_ops.items():
            total[op] = total.get(op, 0) + count
        return dict(sorted(total.items()))

    @property
    def callable_signatures(self) -> Mapping[str, Signature]:
        """The signatures that a client can call."""
        return {
            key: signature
            for key, signature in self.signatures.items()
            if not key.startswith(INTERNAL_SIGNATURE_PREFIX) and signature.outputs
        }


@dataclass(frozen=True, slots=True)
class SavedModel:
    """What a SavedModel directory declares.

    Attributes:
        format: "pb" or "pbtxt".
        schema_version: `saved_model_schema_version`.
        meta_graphs: in file order.
        checkpoint: what `variables/` holds by its index, by key; None when there is no index that can be read.
    """

    format: str
    schema_version: int
    meta_graphs: tuple[MetaGraph, ...]
    checkpoint: Mapping[str, TensorSpec] | None = field(default=None)

    def tagged(self, *tags: str) -> MetaGraph | None:
        """The MetaGraph whose tag set is exactly `tags` (as the loader compares), or None."""
        wanted = tuple(sorted(tags))
        return next((graph for graph in self.meta_graphs if graph.tags == wanted), None)
