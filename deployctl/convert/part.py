"""One model to be exported: a function from named tensors to named tensors, and how to run what it was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from deployctl.domain.saved_model import PREDICT_METHOD
from deployctl.errors import ConversionError

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Tensors = Mapping[str, Any]

# A model that changes its variables when it is called must keep its own.
_ASSIGNING_OPS = frozenset(
    ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "Assign", "AssignAdd", "AssignSub")
)


@dataclass(frozen=True)
class Part:
    """A model.

    Attributes:
        name: what the user calls it, or its file's name.
        inputs: tf.TensorSpec by the name that clients use.
        outputs: the names that clients get.
        function: the model in TensorFlow's terms, to be traced.
        reference: runs the source itself, not what was made of it; what parity is measured against.
        resources: trackable objects (tables, assets) that have to be saved with it.
        variables: its tf.Variables.
        source_bytes: the size of what it was read from.
        method: what clients call it by; see the methods in `domain.saved_model`.
        defaults: a serialized TensorProto for each input that requests may leave out.
    """

    name: str
    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]
    function: Callable[[Tensors], Tensors]
    reference: Callable[[Arrays], dict[str, Array]]
    resources: tuple[Any, ...] = ()
    variables: tuple[Any, ...] = ()
    source_bytes: int = 0
    method: str = PREDICT_METHOD
    defaults: Mapping[str, bytes] = field(default_factory=dict)

    def traced(self) -> Any:
        """Returns the function as a ConcreteFunction of one dictionary."""
        specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in self.inputs.items()}
        return tf.function(lambda inputs: dict(self.function(inputs)), autograph=False).get_concrete_function(specs)


def renamed(part: Part, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Part:
    """Returns `part` with inputs and outputs under new names, given by their old ones.

    Raises:
        ConversionError: an old name is unknown, or two would have one name.
    """
    new_inputs = _new_names(part.inputs, inputs, "input")
    new_outputs = _new_names(part.outputs, outputs, "output")

    def inwards(values: Mapping[str, Any]) -> dict[str, Any]:
        return {old: values[new] for old, new in new_inputs.items()}

    def outwards(values: Mapping[str, Any]) -> dict[str, Any]:
        return {new: values[old] for old, new in new_outputs.items()}

    return replace(
        part,
        inputs={new: part.inputs[old] for old, new in new_inputs.items()},
        outputs=tuple(new_outputs.values()),
        function=lambda values: outwards(part.function(inwards(values))),
        reference=lambda values: outwards(part.reference(inwards(values))),
        defaults={new: part.defaults[old] for old, new in new_inputs.items() if old in part.defaults},
    )


def with_batch(part: Part, rows: int) -> Part:
    """Returns `part` with `rows` as the size of each first axis that is free."""

    def pinned(spec: Any) -> Any:
        if not spec.shape.rank or spec.shape[0] is not None:
            return spec
        return tf.TensorSpec([rows, *spec.shape[1:]], spec.dtype, name=spec.name)

    return replace(part, inputs={name: pinned(spec) for name, spec in part.inputs.items()})


def _new_names(names: Iterable[str], changes: Mapping[str, str], noun: str) -> dict[str, str]:
    known = list(names)
    for old in changes:
        if old not in known:
            raise ConversionError(f"there is no {noun} {old!r} to rename, only {', '.join(known)}", kind="usage")
    new = {name: changes.get(name, name) for name in known}
    twice = next((name for name in new.values() if list(new.values()).count(name) > 1), None)
    if twice is not None:
        raise ConversionError(f"two {noun}s would have the name {twice!r}", kind="usage")
    return new


class VariablePool:
    """The variables of several parts, each value once.

    Two variables with the same bytes are one in the export, as long as no part that has them assigns to any.
    """

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._digests: dict[int, bytes] = {}
        self.variables: list[Any] = []
        self.saved_bytes = 0

    def adopt(self, part: Part) -> Any:
        """Returns the part's ConcreteFunction, bound to variables of the pool."""
        concrete = part.traced()
        assigns = _assigns(concrete)
        captured = []
        for handle in concrete.captured_inputs:
            variable = _variable_of(handle, part.variables)
            captured.append(handle if variable is None else self._shared(variable, alone=assigns).handle)
        concrete.set_external_captures(captured)
        return concrete

    def _shared(self, variable: Any, *, alone: bool) -> Any:
        if any(variable is each for each in self.variables):
            return variable
        same = None if alone else next((each for each in self._kept if self._same(each, variable)), None)
        if same is not None:
            self.saved_bytes += int(np.prod(variable.shape)) * variable.dtype.size
            return same
        self.variables.append(variable)
        if not alone:
            self._kept.append(variable)
        return variable

    def _same(self, one: Any, other: Any) -> bool:
        # Values are read only where type and shape are the same already: one may be most of the memory.
        return one.dtype == other.dtype and one.shape == other.shape and self._digest(one) == self._digest(other)

    def _digest(self, variable: Any) -> bytes:
        if id(variable) not in self._digests:
            self._digests[id(variable)] = _digest(variable)
        return self._digests[id(variable)]


def _assigns(concrete: Any) -> bool:
    graph = concrete.graph.as_graph_def()
    nodes = [node.op for node in graph.node]
    nodes += [node.op for function in graph.library.function for node in function.node_def]
    return not _ASSIGNING_OPS.isdisjoint(nodes)


def _variable_of(handle: Any, variables: Sequence[Any]) -> Any:
    return next((variable for variable in variables if variable.handle is handle), None)


def _digest(variable: Any) -> bytes:
    value = np.ascontiguousarray(variable.numpy())
    content = repr(value.tolist()).encode() if value.dtype.hasobject else value.reshape(-1).view(np.uint8).data
    return hashlib.sha256(content).digest()


def wrapped(
    part: Part,
    *,
    inputs: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    before: Callable[[Tensors], Tensors] | None = None,
    after: Callable[[Tensors], Tensors] | None = None,
    resources: Sequence[Any] = (),
    variables: Sequence[Any] = (),
) -> Part:
    """Returns `part` with steps before and after it.

    The steps are functions of tensors. In the reference they run eagerly around the source, so that what parity
    compares is the same whole.
    """

    def run(values: Tensors, inner: Callable[[Tensors], Tensors]) -> dict[str, Any]:
        answer = inner(before(values) if before else values)
        return dict(after(answer) if after else answer)

    def reference(arrays: Arrays) -> dict[str, Array]:
        def source(values: Tensors) -> Tensors:
            return part.reference({name: np.asarray(value) for name, value in values.items()})

        tensors = {name: tf.constant(value) for name, value in arrays.items()}
        answer = run(tensors, lambda values: {name: tf.constant(each) for name, each in source(values).items()})
        return {name: np.asarray(value) for name, value in answer.items()}

    taken = inputs if inputs is not None else part.inputs
    return replace(
        part,
        inputs=taken,
        outputs=tuple(outputs if outputs is not None else part.outputs),
        function=lambda values: run(values, part.function),
        reference=reference,
        resources=(*part.resources, *resources),
        variables=(*part.variables, *variables),
        defaults={name: value for name, value in part.defaults.items() if taken.get(name) is part.inputs[name]},
    )
