"""Files of clients elsewhere, over HTTP: what is lacking is told, and taken from where an earlier try ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployctl.daemon.api.commands import json_body, uploads_of
from deployctl.daemon.api.upload_files import SentFile, Uploads, check_sha256, parse_files
from deployctl.domain.names import ModelName, parse_model_name
from deployctl.errors import DeployctlError, UsageError

if TYPE_CHECKING:
    from deployctl.daemon.interface import Work

# How many of a model's newest versions are looked through for files that a new one has too.
_VERSIONS = 20
_BUFFER = 1 << 20


def upload_routes(work: Work) -> Iterator[Route]:
    """Yields the routes that take files."""

    async def begin(request: Request) -> Response:
        authority = request.state.authority
        document = await json_body(request)
        if not isinstance(document, dict) or set(document) != {"model", "files"}:
            raise UsageError("an upload is an object with model and files")
        model = None if document["model"] is None else parse_model_name(document["model"])
        if model is not None:
            authority.require("publish", model=model)
        files = tuple({each.sha256: each for each in _parse(document["files"])}.values())
        uploads = uploads_of(work, authority)
        return JSONResponse({"lacking": await run_in_threadpool(_lacking, work, uploads, model, files)})

    async def take(request: Request) -> Response:
        authority = request.state.authority
        sha256 = check_sha256(request.path_params["sha256"])
        offset, size = (_number(request.query_params.get(name)) for name in ("offset", "size"))
        with uploads_of(work, authority).receiving(SentFile("", sha256, size), offset) as receiver:
            buffer = bytearray()
            async for chunk in request.stream():
                buffer += chunk
                if len(buffer) >= _BUFFER:
                    await run_in_threadpool(receiver.take, bytes(buffer))
                    buffer.clear()
            await run_in_threadpool(receiver.take, bytes(buffer))
        return JSONResponse({"sha256": sha256, "size": size})

    yield Route("/v1/uploads", begin, methods=["POST"], name="begin_upload")
    yield Route("/v1/uploads/{sha256}", take, methods=["PUT"], name="take_file")


def _parse(document: object) -> tuple[SentFile, ...]:
    """Returns the files, of which several may be sent by themselves."""
    if not isinstance(document, list):
        raise UsageError("the files are no list")
    return tuple(file for each in document for file in parse_files([each]))


def _number(text: str | None) -> int:
    if text is None or not text.isdecimal() or len(text) > 18:
        raise UsageError(f"{text!r} is no number of bytes")
    return int(text)


def _lacking(work: Work, uploads: Uploads, model: ModelName | None, files: Sequence[SentFile]) -> dict[str, int]:
    # What lay here since an earlier command is read again: a version is to have the bytes that the client has.
    missing = [each for each in files if not uploads.holds_good(each)]
    if model is not None:
        _offer_versions(work, uploads, model, missing)
    return uploads.lacking(files)


def _offer_versions(work: Work, uploads: Uploads, model: ModelName, files: Sequence[SentFile]) -> None:
    """Takes what versions of the model have already: a token that may publish to a model may see its versions."""
    wanted = {each.sha256: each for each in files}
    repository = work.shared.repository
    try:
        versions = repository.versions(model)[-_VERSIONS:] if wanted else ()
        for version in reversed(versions):
            manifest = repository.manifest(model, version)
            if manifest is None or not wanted or not repository.is_local(model, version):
                continue
            directory = repository.local_path(model, version)
            for entry in manifest.files:
                file = wanted.get(entry.sha256)
                if file is not None and uploads.offer(file, directory / entry.path):
                    del wanted[entry.sha256]
    except DeployctlError:
        # What a version would have spared is sent.
        return
