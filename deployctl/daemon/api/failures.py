"""Errors as HTTP answers: one shape, and a status for each exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from deployctl.errors import (
    DeniedError,
    DeployctlError,
    LockedError,
    UnauthenticatedError,
)

# By exit code; what an error of the command line is to a client over HTTP.
STATUSES: Mapping[int, int] = {1: 422, 2: 400, 3: 422, 4: 504, 5: 500, 6: 500, 7: 409, 8: 412, 9: 404, 10: 503}
_KINDS: Mapping[int, str] = {
    400: "BadRequest",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    413: "TooLarge",
    415: "UnsupportedMediaType",
    429: "TooManyFailures",
    431: "TooLarge",
    500: "Bug",
    503: "Busy",
}


def status_of(error: DeployctlError) -> int:
    """Returns the HTTP status that tells of `error`."""
    if isinstance(error, UnauthenticatedError):
        return 401
    if isinstance(error, DeniedError):
        return 403
    return STATUSES.get(error.exit_code, 500)


def error_document(error: DeployctlError) -> dict[str, Any]:
    """Returns an error as every answer tells it."""
    return {
        "error": str(error),
        "hint": error.hint,
        "exit_code": error.exit_code,
        "kind": type(error).__name__,
        "retryable": error.retryable,
    }


def failure(error: DeployctlError) -> Response:
    """Returns the answer that tells of `error`."""
    headers = {}
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, LockedError) and error.retryable:
        headers["Retry-After"] = "5"
    return json_answer(error_document(error), status=status_of(error), headers=headers)


def refusal(status: int, words: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """Returns the answer to a request that never reached an operation."""
    document = {
        "error": words,
        "hint": None,
        "exit_code": 2 if status < 500 else 10,
        "kind": _KINDS.get(status, "BadRequest"),
        "retryable": status in {429, 503},
    }
    return json_answer(document, status=status, headers=headers)


def json_answer(document: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Returns a JSON document as an answer."""
    return Response(json.dumps(document), status, headers, "application/json")
