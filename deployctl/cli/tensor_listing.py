"""Tensors and ops of a model as lines and as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployctl.cli.render import size, write
from deployctl.domain.saved_model import Signature, TensorSpec

_OPS_SHOWN = 8
_LARGEST_SHOWN = 5

# key, name, spec, bytes
Stored = tuple[str, str, TensorSpec, int]


def write_signatures(signatures: Mapping[str, Signature]) -> None:
    """Writes signatures with one line for each tensor."""
    for key, signature in signatures.items():
        write(f"signature   {key}   {signature.method or 'no method'}")
        rows = [("in", name, spec, name in signature.optional_inputs) for name, spec in signature.inputs.items()]
        rows += [("out", name, spec, False) for name, spec in signature.outputs.items()]
        width = max((len(row[1]) for row in rows), default=0)
        for side, name, spec, optional in rows:
            write(f"  {side:<4} {name:<{width}}  {spec}{'  optional' if optional else ''}  {spec.tensor}".rstrip())


def write_stored(stored: Sequence[Stored], *, every: bool, noun: str = "stored") -> None:
    """Writes the largest tensors, or `every` one of them, after a line on all."""
    total = sum(row[3] for row in stored)
    write(f"{noun:<11} {plural(len(stored), 'tensor')}, {size(total)}")
    shown = stored if every else stored[:_LARGEST_SHOWN]
    width = max((len(row[1]) for row in shown), default=0)
    for _, name, spec, count in shown:
        write(f"            {name:<{width}}  {size(count):>7}  {spec}")
    if len(shown) < len(stored):
        write(f"            and {len(stored) - len(shown)} smaller ones; --variables lists them")


def stored_documents(stored: Sequence[Stored]) -> list[dict[str, Any]]:
    """Returns tensors as JSON values."""
    return [{"key": key, "name": name, **spec_document(spec), "size_bytes": count} for key, name, spec, count in stored]


def spec_document(spec: TensorSpec) -> dict[str, Any]:
    """Returns a type and shape as JSON values."""
    return {"dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}


def spec_documents(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """Returns types and shapes by name as JSON values."""
    return {name: spec_document(spec) for name, spec in specs.items()}


def write_sides(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
    """Writes inputs and outputs that belong to no signature."""
    for side, specs in (("in", inputs), ("out", outputs)):
        for name, spec in specs.items():
            shown = str(spec) if spec.shape is not None or not spec.dtype else spec.dtype
            write(f"  {side:<4} {name}  {shown if spec.dtype else ''}".rstrip())


def write_ops(ops: Mapping[str, int], *, inside_functions: int, every: bool) -> None:
    """Writes the ops, the most frequent ones or `every` one, and what of them is control flow."""
    from deployctl.savedmodel.frozen import control_flow

    library = f", {inside_functions} of them in functions" if inside_functions else ""
    frequent = "" if every else _most_frequent(ops)
    write(f"ops         {sum(ops.values())} of {plural(len(ops), 'kind')}{library}{frequent}")
    if every:
        for op, count in ops.items():
            write(f"            {op} {count}")
    branches = control_flow(ops)
    if branches:
        write(f"control     {', '.join(f'{op} {count}' for op, count in branches.items())}")


def _most_frequent(ops: Mapping[str, int]) -> str:
    frequent = sorted(ops, key=lambda op: (-ops[op], op))[:_OPS_SHOWN]
    more = ", …" if len(ops) > _OPS_SHOWN else ""
    return f": {', '.join(frequent)}{more}" if frequent else ""


def plural(count: int, noun: str) -> str:
    """Returns "1 tensor" or "2 tensors"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
