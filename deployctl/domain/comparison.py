"""What differs between two versions: signatures as clients see them, ops, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deployctl.domain.manifest import FileEntry
from deployctl.domain.saved_model import Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; `before` or `after` is "" where the thing is absent on that side.

    Attributes:
        subject: e.g. 'input "x" of serving_default', "op MatMul", "file variables/variables.index".
    """

    subject: str
    before: str
    after: str


def signature_changes(before: Mapping[str, Signature], after: Mapping[str, Signature]) -> tuple[Change, ...]:
    """Returns what a client of the signatures would notice, in name order."""
    changes: list[Change] = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if old is None or new is None:
            changes.append(Change(f"signature {key}", _presence(old), _presence(new)))
            continue
        if old.method != new.method:
            changes.append(Change(f"method of {key}", old.method, new.method))
        changes += _tensor_changes("input", key, old.inputs, new.inputs)
        changes += _tensor_changes("output", key, old.outputs, new.outputs)
    return tuple(changes)


def op_changes(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[Change, ...]:
    """Returns the ops whose number of occurrences differs, in name order."""
    return tuple(
        Change(f"op {op}", _count(before.get(op)), _count(after.get(op)))
        for op in sorted({*before, *after})
        if before.get(op) != after.get(op)
    )


def file_changes(before: tuple[FileEntry, ...], after: tuple[FileEntry, ...]) -> tuple[Change, ...]:
    """Returns the files whose bytes differ, in path order; sides tell the size and the start of the hash."""
    old, new = ({entry.path: entry for entry in entries} for entries in (before, after))
    return tuple(
        Change(f"file {path}", _file(old.get(path)), _file(new.get(path)))
        for path in sorted({*old, *new})
        if old.get(path) != new.get(path)
    )


def _tensor_changes(
    noun: str, key: str, before: Mapping[str, TensorSpec], after: Mapping[str, TensorSpec]
) -> list[Change]:
    def text(specs: Mapping[str, TensorSpec], name: str) -> str:
        return str(specs[name]) if name in specs else ""

    return [
        Change(f'{noun} "{name}" of {key}', text(before, name), text(after, name))
        for name in sorted({*before, *after})
        if text(before, name) != text(after, name)
    ]


def _presence(signature: Signature | None) -> str:
    return "" if signature is None else signature.method


def _count(count: int | None) -> str:
    return "" if count is None else str(count)


def _file(entry: FileEntry | None) -> str:
    return "" if entry is None else f"{entry.size} bytes, sha256:{entry.sha256[:12]}"
