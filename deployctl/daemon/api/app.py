"""The HTTP API: the routes of every module, behind the one guard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployctl.daemon.api.commands import command_routes
from deployctl.daemon.api.endpoints import endpoint_routes
from deployctl.daemon.api.events import operation_routes
from deployctl.daemon.api.failures import failure, json_answer, refusal
from deployctl.daemon.api.guard import Guard
from deployctl.daemon.api.jobs import Jobs
from deployctl.daemon.api.openapi import endpoints, openapi
from deployctl.daemon.api.probes import probe_routes
from deployctl.daemon.api.uploads import upload_routes
from deployctl.errors import DeployctlError

if TYPE_CHECKING:
    from deployctl.daemon.interface import Work


def application(work: Work, jobs: Jobs) -> Guard:
    """Returns the application that answers for `work`; a route that is added here cannot pass by the guard."""

    async def describe(_: Request) -> Response:
        return json_answer(openapi())

    routes = [
        *probe_routes(work),
        Route("/v1/openapi.json", describe, methods=["GET"], name="openapi"),
        *endpoint_routes(work, jobs, endpoints()),
        *operation_routes(work, jobs),
        *command_routes(work),
        *upload_routes(work),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={DeployctlError: _tell, HTTPException: _refuse, Exception: _bug},
    )
    app.router.redirect_slashes = False
    return Guard(app, work)


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, DeployctlError)
    # Where it is one that the guard notes.
    request.state.refused = str(error)
    return failure(error)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {
        404: f"there is nothing at {request.url.path}",
        405: f"{request.url.path} does not take {request.method}",
    }
    return refusal(error.status_code, words.get(error.status_code, error.detail), headers=error.headers)


async def _bug(_: Request, error: Exception) -> Response:
    # Its trace is in the daemon's log, and nobody else's business.
    del error
    return refusal(500, "this is a bug of deployctl; its trace is in the daemon's log")
