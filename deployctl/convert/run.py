"""Runs a conversion outside of TensorFlow: asks the child, holds the result to its source, and puts it in place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deployctl.convert.child import call
from deployctl.convert.request import ConversionRequest, labelled
from deployctl.convert.workplace import workplace
from deployctl.domain.manifest import MANIFEST_PATH, FileEntry, content_digest
from deployctl.domain.names import Digest
from deployctl.errors import ConversionError, GateRefusedError, UsageError

_WORKER, _LOCAL = "deployctl.convert.worker", "deployctl.modelserver.local"


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one output of the result is from the source's.

    Attributes:
        largest: of all elements, absolute; None where shapes or strings differ.
        within: whether it is within tolerance.
        reason: what differs where `largest` is None.
    """

    signature: str
    output: str
    largest: float | None
    within: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written.

    Attributes:
        path: where.
        source_bytes, result_bytes: sizes before and after.
        shared_bytes: weights that were the same as others and are stored once.
        recorded: golden requests in the result.
        differences: by signature and output; () where the result could not be run.
        not_compared: why it could not be run, "" where it was.
        signatures: names of inputs and outputs by key.
    """

    path: Path
    source_bytes: int
    result_bytes: int
    shared_bytes: int
    recorded: int
    differences: tuple[Difference, ...]
    signatures: Mapping[str, Any]
    not_compared: str = ""


# As `deployctl.convert.child.call`.
Ask = Callable[..., dict[str, Any]]


def convert(request: ConversionRequest, destination: Path, *, timeout_s: float, ask: Ask = call) -> Converted:
    """Converts, compares, and only then puts the result at `destination`, whole.

    `request.work` is chosen here; `ask` runs what needs TensorFlow.

    Raises:
        UsageError: `destination` is there already, or the request does not fit the model.
        ConversionError: the sources cannot be converted.
        GateRefusedError: the result answers otherwise than the source, beyond tolerance.
    """
    if destination.exists() or destination.is_symlink():
        raise UsageError(f"{destination} is there already", hint=f"ls -ld {destination}")
    with ExitStack() as stack:
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            work = stack.enter_context(workplace(destination.parent, f".{destination.name}.deployctl-"))
        except OSError as error:
            raise UsageError(f"cannot write beside {destination}: {error.strerror}") from error
        answer = _converted(replace(request, work=str(work)), ask, timeout_s=timeout_s)
        os.rename(work / "result", destination)
        return replace(answer, path=destination)


def _converted(request: ConversionRequest, ask: Ask, *, timeout_s: float) -> Converted:
    try:
        answer = ask(_WORKER, {"verb": "convert", **request.to_json()}, timeout_s=timeout_s)
    except ConversionError as error:
        if error.kind == "usage":
            raise UsageError(str(error), hint=error.hint) from error
        raise
    result = Path(request.work, "result")
    parity = list(answer.get("parity") or ())
    compare = answer.get("compare") or ()
    for each in compare:
        asked = {"path": str(result), "compare": each["file"], "tags": each["tags"]}
        found = ask(_LOCAL, asked, timeout_s=timeout_s)["outputs"]
        several = len(compare) > 1
        parity += [one | {"signature": labelled(one["signature"], each["tags"], several=several)} for one in found]
    differences = tuple(
        Difference(each["signature"], each["output"], each["max_difference"], each["within"], each["reason"])
        for each in parity
    )
    _refuse(differences, request)
    return Converted(
        path=result,
        source_bytes=answer["source_bytes"],
        result_bytes=answer["result_bytes"],
        shared_bytes=answer.get("shared_bytes", 0),
        recorded=answer.get("recorded", 0),
        differences=differences,
        signatures=answer["signatures"],
        not_compared=answer.get("not_compared", ""),
    )


def _refuse(differences: Sequence[Difference], request: ConversionRequest) -> None:
    off = [each for each in differences if not each.within]
    if not off:
        return
    first = off[0]
    far = first.reason or f"off by up to {first.largest:g}"
    others = f", and {len(off) - 1} more outputs are" if len(off) > 1 else ""
    raise GateRefusedError(
        f"the conversion does not answer as its source: {first.output} is {far}{others} "
        f"(tolerance {request.rtol:g} relative, {request.atol:g} absolute); nothing was written"
    )


def digest_of(path: Path) -> Digest:
    """Returns the digest of a file; of a directory's or a checkpoint's files, as a manifest counts it."""
    if path.is_file():
        return Digest(f"sha256:{_file_digest(path)}")
    base = path if path.is_dir() else path.parent
    files = [file for file in (path.rglob("*") if path.is_dir() else base.glob(f"{path.name}.*")) if file.is_file()]
    names = {file.relative_to(base).as_posix(): file for file in files}
    return content_digest(
        FileEntry(name, file.stat().st_size, _file_digest(file))
        for name, file in names.items()
        if name != MANIFEST_PATH
    )


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
