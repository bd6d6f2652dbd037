"""Whether clients of one version can call another: identical, compatible or breaking, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from deployctl.domain.saved_model import Signature, TensorSpec


class Level(StrEnum):
    """How far a change reaches: not at all, no client's request, or some client's request."""

    IDENTICAL = "identical"
    COMPATIBLE = "compatible"
    BREAKING = "breaking"


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """One change of the interface.

    Attributes:
        level: COMPATIBLE or BREAKING.
        subject: e.g. 'input "image" of serving_default'.
        before: what clients know, "" where it was absent.
        after: what they would find, "" where it is absent.
        why: one clause.
    """

    level: Level
    subject: str
    before: str
    after: str
    why: str

    def __str__(self) -> str:
        return f"{self.subject} {self.before or 'absent'} became {self.after or 'absent'}: {self.why}"


@dataclass(frozen=True, slots=True)
class Compatibility:
    """What a client of `before` would notice of `after`; breaking changes first."""

    changes: tuple[Incompatibility, ...]

    @property
    def level(self) -> Level:
        """The farthest-reaching change's level."""
        if not self.changes:
            return Level.IDENTICAL
        return Level.BREAKING if any(each.level is Level.BREAKING for each in self.changes) else Level.COMPATIBLE

    @property
    def breaking(self) -> tuple[Incompatibility, ...]:
        """The changes that break a client."""
        return tuple(each for each in self.changes if each.level is Level.BREAKING)


def compare(before: Mapping[str, Signature], after: Mapping[str, Signature]) -> Compatibility:
    """Returns what clients of the signatures `before` would notice if they were answered by `after`."""
    changes: list[Incompatibility] = []
    for key in sorted({*before, *after}):
        changes += _signature(key, before.get(key), after.get(key))
    return Compatibility(tuple(sorted(changes, key=lambda change: change.level is not Level.BREAKING)))


def _signature(key: str, before: Signature | None, after: Signature | None) -> Iterator[Incompatibility]:
    subject = f"signature {key}"
    if before is None and after is not None:
        yield Incompatibility(Level.COMPATIBLE, subject, "", after.method, "it is new")
    elif before is not None and after is None:
        yield Incompatibility(Level.BREAKING, subject, before.method, "", "clients that call it would fail")
    elif before is not None and after is not None:
        if before.method != after.method:
            why = "clients call it by another method"
            yield Incompatibility(Level.BREAKING, f"method of {key}", before.method, after.method, why)
        yield from _inputs(key, before, after)
        yield from _outputs(key, before, after)


def _inputs(key: str, before: Signature, after: Signature) -> Iterator[Incompatibility]:
    for name in sorted({*before.inputs, *after.inputs}):
        subject = f'input "{name}" of {key}'
        old, new = before.inputs.get(name), after.inputs.get(name)
        if old is None and new is not None:
            optional = name in after.optional_inputs
            level = Level.COMPATIBLE if optional else Level.BREAKING
            why = "it is new and optional" if optional else "clients do not send it"
            yield Incompatibility(level, subject, "", str(new), why)
        elif new is None and old is not None:
            yield Incompatibility(Level.BREAKING, subject, str(old), "", "clients that send it are refused")
        elif old is not None and new is not None:
            yield from _input(subject, old, new)
            if name in before.optional_inputs and name not in after.optional_inputs:
                why = "clients that leave it out are refused"
                yield Incompatibility(Level.BREAKING, subject, "optional", "required", why)
            elif name in before.defaults and before.defaults[name] != after.defaults.get(name, ""):
                why = "clients that leave it out get other answers"
                values = before.defaults[name], after.defaults.get(name, "")
                yield Incompatibility(Level.BREAKING, f"default of {subject}", *values, why)


def _input(subject: str, old: TensorSpec, new: TensorSpec) -> Iterator[Incompatibility]:
    if old.dtype != new.dtype:
        yield Incompatibility(Level.BREAKING, subject, str(old), str(new), "clients send another type")
    elif old.shape != new.shape:
        takes_all = _covers(new.shape, old.shape)
        level = Level.COMPATIBLE if takes_all else Level.BREAKING
        why = "it takes every shape that it took" if takes_all else "shapes that clients send are refused"
        yield Incompatibility(level, subject, str(old), str(new), why)


def _outputs(key: str, before: Signature, after: Signature) -> Iterator[Incompatibility]:
    for name in sorted({*before.outputs, *after.outputs}):
        subject = f'output "{name}" of {key}'
        old, new = before.outputs.get(name), after.outputs.get(name)
        if old is None and new is not None:
            # The REST API leaves the name out where a signature has one output (tensorflow/serving, api_rest.md).
            alone = len(before.outputs) == 1
            level = Level.BREAKING if alone else Level.COMPATIBLE
            why = "a sole output has no name in REST answers, and now it would" if alone else "it is new"
            yield Incompatibility(level, subject, "", str(new), why)
        elif new is None and old is not None:
            yield Incompatibility(Level.BREAKING, subject, str(old), "", "clients that read it would fail")
        elif old is not None and new is not None and old.dtype != new.dtype:
            yield Incompatibility(Level.BREAKING, subject, str(old), str(new), "clients read another type")
        elif old is not None and new is not None and old.shape != new.shape:
            promised = _covers(old.shape, new.shape)
            level = Level.COMPATIBLE if promised else Level.BREAKING
            why = "every shape is one that clients know" if promised else "clients may read another shape"
            yield Incompatibility(level, subject, str(old), str(new), why)


def _covers(wide: tuple[int | None, ...] | None, narrow: tuple[int | None, ...] | None) -> bool:
    """Whether every tensor of shape `narrow` is also one of shape `wide`."""
    if wide is None:
        return True
    if narrow is None or len(wide) != len(narrow):
        return False
    return all(outer is None or outer == inner for outer, inner in zip(wide, narrow, strict=True))
