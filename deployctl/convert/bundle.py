"""Puts several models into one: inputs of one name are shared, each output says whose it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployctl.convert.part import Array, Arrays, Part, Tensors, renamed
from deployctl.errors import ConversionError


def bundled(parts: Sequence[Part], *, shared_input: str | None, prefixed: bool = True) -> Part:
    """Returns the models as one.

    A model with one output gives it under its own name; the outputs of others are NAME_OUTPUT.

    Args:
        parts: with different names.
        shared_input: what the only input of each is called from now on; None keeps their names.
        prefixed: False keeps the names of all outputs.

    Raises:
        ConversionError: two parts or outputs have one name, or inputs of one name differ in type, shape or default.
    """
    _check_names([part.name for part in parts])
    members = [_shared(part, shared_input) for part in parts]
    outputs = {part.name: _output_names(part, prefixed=prefixed) for part in members}
    _check_names([name for names in outputs.values() for name in names.values()])
    inputs = _inputs(members)

    def merged(values: Mapping[str, Any], *, reference: bool) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for part in members:
            given = {name: values[name] for name in part.inputs}
            answer = part.reference(given) if reference else part.function(given)
            answers |= {new: answer[old] for old, new in outputs[part.name].items()}
        return answers

    def function(values: Tensors) -> Tensors:
        return merged(values, reference=False)

    def compared(values: Arrays) -> dict[str, Array]:
        return merged(values, reference=True)

    return Part(
        name="bundle",
        inputs=inputs,
        outputs=tuple(name for names in outputs.values() for name in names.values()),
        function=function,
        reference=compared,
        resources=tuple(each for part in members for each in part.resources),
        variables=tuple(each for part in members for each in part.variables),
        source_bytes=sum(part.source_bytes for part in members),
        defaults=_defaults(members),
    )


def _shared(part: Part, shared_input: str | None) -> Part:
    if shared_input is None:
        return part
    if shared_input in part.inputs:
        return part
    if len(part.inputs) != 1:
        raise ConversionError(
            f"{part.name} takes {', '.join(part.inputs)}, and none of them is the shared input {shared_input!r}",
            kind="usage",
        )
    return renamed(part, {next(iter(part.inputs)): shared_input}, {})


def _output_names(part: Part, *, prefixed: bool) -> dict[str, str]:
    if not prefixed:
        return {name: name for name in part.outputs}
    if len(part.outputs) == 1:
        return {part.outputs[0]: part.name}
    return {name: f"{part.name}_{name}" for name in part.outputs}


def _inputs(parts: Sequence[Part]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for part in parts:
        for name, spec in part.inputs.items():
            if name not in found:
                found[name], owner[name] = spec, part.name
                continue
            other = found[name]
            if other.dtype != spec.dtype or not other.shape.is_compatible_with(spec.shape):
                raise ConversionError(
                    f"the input {name!r} is {other.dtype.name} {other.shape} in {owner[name]} and "
                    f"{spec.dtype.name} {spec.shape} in {part.name}, so that they cannot share it",
                    kind="usage",
                )
            if spec.shape.rank is not None:
                import tensorflow as tf

                merged = other.shape.merge_with(spec.shape)
                found[name] = tf.TensorSpec(merged, spec.dtype, name=name)
    return found


def _defaults(parts: Sequence[Part]) -> dict[str, bytes]:
    """What inputs are where a request leaves them out; one that any model needs has to be given."""
    found: dict[str, bytes] = {}
    owner: dict[str, str] = {}
    for part in parts:
        for name, value in part.defaults.items():
            if found.setdefault(name, value) != value:
                raise ConversionError(
                    f"the input {name!r} may be left out in {owner[name]} and {part.name}, and is not the same there "
                    f"then, so that they cannot share it",
                    kind="usage",
                )
            owner.setdefault(name, part.name)
    needed = {name for part in parts for name in part.inputs if name not in part.defaults}
    return {name: value for name, value in found.items() if name not in needed}


def _check_names(names: Sequence[str]) -> None:
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise ConversionError(
            f"two models or outputs have the name {twice!r}: give them others, NAME=PATH", kind="usage"
        )
