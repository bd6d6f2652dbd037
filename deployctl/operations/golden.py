"""Golden record: what a version answers now is what later versions must answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from deployctl.domain.golden import GoldenRecord, columns, not_finite
from deployctl.domain.saved_model import DEFAULT_SIGNATURE, Signature, TensorSpec
from deployctl.errors import InvalidRequestError
from deployctl.gates.interface import Version
from deployctl.serving.interface import Prediction

# Sizes of axes that a signature leaves free: of the first, which is the batch, and of the others.
_BATCH, _FREE = 2, 4
_WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot")
_MAX_ELEMENTS = 4_000_000


def record_answers(
    requests: Sequence[GoldenRecord], version: Version, ask: Callable[[GoldenRecord], Prediction]
) -> tuple[GoldenRecord, ...]:
    """Returns each request with what `ask` says the version answers to it, and the types of its outputs.

    Raises:
        InvalidRequestError: a request names no signature of the version, or is answered with what is no number.
        ServerError: see `ServingRuntime.predict`.
    """
    recorded = []
    for number, request in enumerate(requests, start=1):
        signature = signature_of(version, request.signature)
        answer = columns(ask(request).outputs, rows=request.instances is not None, outputs=sorted(signature.outputs))
        for output, value in answer.items():
            wrong = not_finite(value)
            if wrong is not None:
                raise InvalidRequestError(f"request {number} is answered with {wrong} in output {output!r}")
        dtypes = {name: spec.dtype for name, spec in signature.outputs.items()}
        recorded.append(replace(request, outputs=answer, dtypes=dtypes))
    return tuple(recorded)


def random_requests(version: Version, signature: str, count: int, seed: int) -> tuple[GoldenRecord, ...]:
    """Returns `count` requests that fit a signature, always the same ones for a seed.

    Raises:
        InvalidRequestError: there is no such signature, or it takes what no random values fit.
    """
    found = signature_of(version, signature)
    generator = random.Random(seed)
    return tuple(
        GoldenRecord(
            signature=signature,
            inputs={name: _values(name, spec, generator) for name, spec in sorted(found.inputs.items())},
        )
        for _ in range(count)
    )


def signature_of(version: Version, name: str) -> Signature:
    """Returns a signature of a version; "" is the default one.

    Raises:
        InvalidRequestError: it has none of that name.
    """
    wanted = name or DEFAULT_SIGNATURE
    if wanted not in version.signatures:
        known = ", ".join(version.signatures) or "none"
        raise InvalidRequestError(f"{version.name} has no signature {wanted!r}, only {known}")
    return version.signatures[wanted]


def _values(name: str, spec: TensorSpec, generator: random.Random) -> Any:
    shape = (
        [_BATCH]
        if spec.shape is None
        else [size if size is not None else (_BATCH if axis == 0 else _FREE) for axis, size in enumerate(spec.shape)]
    )
    element = _element(name, spec.dtype)
    total = 1
    for size in shape:
        total *= size
    if total > _MAX_ELEMENTS:
        raise InvalidRequestError(f"input {name!r} is {spec}, which is too large for random values: use --from FILE")

    def nested(sizes: Sequence[int]) -> Any:
        return [nested(sizes[1:]) for _ in range(sizes[0])] if sizes else element(generator)

    return nested(shape)


def _element(name: str, dtype: str) -> Callable[[random.Random], Any]:
    if dtype.startswith(("float", "bfloat")):
        return lambda generator: round(generator.uniform(-1.0, 1.0), 4)
    if dtype.startswith(("int", "uint")):
        return lambda generator: generator.randrange(10)
    if dtype == "bool":
        return lambda generator: generator.random() < 0.5
    if dtype == "string":
        return lambda generator: generator.choice(_WORDS)
    raise InvalidRequestError(f"input {name!r} is {dtype}, for which there are no random values: use --from FILE")
