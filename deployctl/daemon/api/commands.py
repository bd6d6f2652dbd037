"""Commands of clients elsewhere, over HTTP: given, listened to, interrupted."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shlex
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from deployctl import __version__
from deployctl.acting import ACTING_VARIABLE
from deployctl.bootstrap import AUTHORITY_VARIABLE, OPERATION_VARIABLE
from deployctl.daemon.api.command_files import Command, Commands
from deployctl.daemon.api.command_request import CommandRequest, parse_command, place_of
from deployctl.daemon.api.upload_files import Uploads
from deployctl.domain.authority import Authority, Role
from deployctl.domain.secret import masked
from deployctl.errors import DeployctlError, TimedOutError, UsageError
from deployctl.system import new_operation

if TYPE_CHECKING:
    from deployctl.daemon.interface import Work

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.1
# How often a client hears something while the command has nothing to say.
_BEAT_S = 5.0
_VIEWERS_BYTES = 16 << 20
_END = re.compile(rb'(?:^|\n)\{"exit": -?\d+\}\n$')
_LOST = b'{"lost": true}\n'
"""A frame of its own kind: the runner is gone, and how the command ended is not known."""


def command_routes(work: Work) -> Iterator[Route]:
    """Yields the routes that give commands."""
    commands = Commands(remote_directory(work) / "commands")

    async def give(request: Request) -> Response:
        wanted = parse_command(await json_body(request))
        command = await run_in_threadpool(_given, work, commands, request.state.authority, wanted)
        frames = _frames(work, request.state.authority, command, wanted.offset)
        return StreamingResponse(frames, media_type="application/x-ndjson")

    async def interrupt(request: Request) -> Response:
        owner = owner_of(request.state.authority)
        command = commands.owned(owner, request.path_params["command"])
        await run_in_threadpool(command.interrupt)
        return JSONResponse({"command": command.id}, status_code=202)

    yield Route("/v1/commands", give, methods=["POST"], name="give_command")
    yield Route("/v1/commands/{command}", interrupt, methods=["DELETE"], name="interrupt_command")


def remote_directory(work: Work) -> Path:
    """Returns where what belongs to clients elsewhere is kept."""
    return (work.settings.state_path / "remote").resolve()


def owner_of(authority: Authority) -> str:
    """Returns what tells one token's things from another's."""
    return authority.id


def uploads_of(work: Work, authority: Authority) -> Uploads:
    """Returns what a token has sent; who may publish nothing may send what requests for predictions need."""
    name = sha256(owner_of(authority).encode()).hexdigest()[:32]
    bound = work.settings.daemon.max_upload
    if not authority.role.includes(Role.DEPLOYER):
        bound = min(bound, _VIEWERS_BYTES) or _VIEWERS_BYTES
    return Uploads(remote_directory(work) / "uploads" / name, max_bytes=bound)


async def json_body(request: Request) -> Any:
    """Returns the JSON document that a request brings.

    Raises:
        UsageError: it brings none.
    """
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the body of the request is not JSON: {error}") from error


def tidy(work: Work) -> None:
    """Removes what is no longer wanted of commands and uploads."""
    Commands(remote_directory(work) / "commands").tidy()
    for directory in (remote_directory(work) / "uploads").glob("*"):
        Uploads(directory, max_bytes=0).discard_old()


def _given(work: Work, commands: Commands, authority: Authority, wanted: CommandRequest) -> Command:
    """Returns the command that is asked for, which is begun unless it was before."""
    owner = owner_of(authority)
    known = commands.find(owner, wanted.key)
    if known is not None:
        return known
    if wanted.again:
        raise TimedOutError("the daemon does not know the command any more: what became of it, is not known")
    prepared = commands.prepare(owner, wanted.key)
    try:
        _build_files(work, authority, wanted, prepared)
    except BaseException:
        shutil.rmtree(prepared, ignore_errors=True)
        raise
    place = commands.place(owner, wanted.key)
    operation = new_operation(work.shared.context.clock.now())
    actor = _actor(authority, wanted)
    told = wanted.for_runner(place, operation, actor)
    told["environment"] |= {
        OPERATION_VARIABLE: operation,
        AUTHORITY_VARIABLE: json.dumps(authority.to_json()),
        ACTING_VARIABLE: json.dumps(told.pop("acting")),
    }
    began = {"command": place.name, "operation": operation, "version": __version__}
    (prepared / "frames").write_text(json.dumps({"began": began}) + "\n", encoding="utf-8")
    return commands.begin(owner, wanted.key, prepared, told)


def _build_files(work: Work, authority: Authority, wanted: CommandRequest, prepared: Path) -> None:
    uploads = uploads_of(work, authority)
    for index, each in enumerate(wanted.inputs):
        place = place_of(prepared, "in", index, each)
        place.parent.mkdir(parents=True)
        if each.files is not None:
            uploads.build(each.files, place)
    for index, each in enumerate(wanted.outputs):
        place_of(prepared, "out", index, each).parent.mkdir(parents=True)


def _actor(authority: Authority, wanted: CommandRequest) -> Mapping[str, str]:
    """Returns who acts: the token; where, and in which CI job, is what its holder says."""
    names = {f"{side}:{index}": each.shown for side in ("in", "out") for index, each in _numbered(wanted, side)}
    words = [_named(word, names) for word in wanted.words]
    command = masked(shlex.join(["deployctl", *words])).encode(errors="backslashreplace").decode()
    return {"user": authority.name, "host": wanted.host or authority.address, "ci": wanted.ci, "command": command}


def _numbered(wanted: CommandRequest, side: str) -> Iterator[tuple[int, Any]]:
    yield from enumerate(wanted.inputs if side == "in" else wanted.outputs)


def _named(word: str, names: Mapping[str, str]) -> str:
    option, equals, value = word.partition("=")
    return f"{option}={names[value]}" if equals and value in names else names.get(word, word)


async def _frames(work: Work, authority: Authority, command: Command, offset: int) -> AsyncIterator[bytes]:
    """Yields what the command writes from byte `offset` on until it has ended, the daemon has, or the token."""
    pause_s, tail, looked_at, said_at = _FIRST_PAUSE_S, b"\n", -math.inf, time.monotonic()
    while not work.stopping.is_set():
        if time.monotonic() - looked_at > _BEAT_S:
            looked_at = time.monotonic()
            if not await run_in_threadpool(_is_in_force, work, authority):
                command.end_reading()
                return
            command.heard()
        running = command.is_running()
        data = command.read(offset)
        if data:
            yield data
            offset, tail = offset + len(data), (tail + data)[-64:]
            pause_s, said_at = _FIRST_PAUSE_S, time.monotonic()
            if _END.search(tail):
                return
            continue
        if not running:
            yield _LOST
            return
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        if time.monotonic() - said_at > _BEAT_S and tail.endswith(b"\n"):
            said_at = time.monotonic()
            yield b"\n"


def _is_in_force(work: Work, authority: Authority) -> bool:
    """Whether a token was neither revoked nor has expired since a command was given with it."""
    shared = work.shared
    try:
        return any(
            each.id == authority.id for each in shared.lineage.tokens() if each.in_force(shared.context.clock.now())
        )
    except DeployctlError:
        # Whoever was let in stays for as long as the database is away.
        return True
