"""The OpenAPI document, written from the table that serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deployctl import __version__
from deployctl.daemon.api import schemas
from deployctl.daemon.api.changes import changes
from deployctl.daemon.api.endpoints import Endpoint, role_of
from deployctl.daemon.api.fields import Field, Kind
from deployctl.daemon.api.reads import reads
from deployctl.daemon.api.records import records
from deployctl.daemon.api.safekeeping import safekeeping

_OPERATION = Field("operation", Kind.OPERATION, "an operation's id", required=True)
_ERRORS: Mapping[int, str] = {
    400: "The request is wrong.",
    401: "There is no token, or it opens nothing.",
    403: "The token is not for that.",
    404: "What is named does not exist.",
    409: "Another operation holds the lock, the target is frozen, or too much runs already.",
    412: "Another revision than `if_current` is current.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    422: "A gate refused it, or it failed and nothing changed.",
    429: "Too many tokens that open nothing came from this address.",
    500: "It failed after something had changed: exit code 5 where that was undone, 6 where it was not.",
    503: "A server, the store or the database is unavailable.",
    504: "The outcome is unknown.",
}
_BODY = frozenset({409, 412, 413, 415, 422, 500, 504})


def endpoints() -> tuple[Endpoint, ...]:
    """Returns the whole table."""
    return (*reads(), *records(), *changes(), *safekeeping())


def openapi() -> dict[str, Any]:
    """Returns the document."""
    paths: dict[str, Any] = {}
    for endpoint in endpoints():
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    paths["/v1/operations/{operation}"] = {"get": _of_operation("getOperation", "An operation and its phases.")}
    events = _of_operation("streamOperation", "An operation's phases, steps and warnings as they come, then its end.")
    events["responses"]["200"] = {"description": "Events.", "content": {"text/event-stream": {"schema": schemas.TEXT}}}
    events["parameters"].append(
        _header("Last-Event-ID", "The id of the last event that was heard.", r"^(\d{1,6}\.\d{1,9})?$")
    )
    paths["/v1/operations/{operation}/events"] = {"get": events}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "deployctl daemon",
            "version": __version__,
            "description": "Publish, promote and roll back TensorFlow models, as the command line does.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": schemas.ERROR, "Operation": schemas.document("operation", schemas.OPERATION)},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    schema = schemas.document(endpoint.noun, dict(endpoint.schema))
    found: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "x-role": role_of(endpoint.verb).value,
        "parameters": [
            *(_parameter("path", field) for field in endpoint.in_path),
            *(_parameter("query", field) for field in endpoint.query),
        ],
        "responses": {"200": _answer("Done.", schema), **dict(_failures(changes_something=endpoint.changes))},
    }
    if endpoint.changes:
        found["parameters"].append(
            _header("Idempotency-Key", "The same key begins nothing twice.", "^[A-Za-z0-9._-]{0,128}$")
        )
        found["responses"]["202"] = _answer("Begun.", {"$ref": "#/components/schemas/Operation"})
        found["requestBody"] = {
            "required": any(field.required for field in endpoint.in_body),
            "content": {"application/json": {"schema": _body(endpoint.in_body)}},
        }
    if endpoint.name == "resume":
        rollback = schemas.document("promote", schemas.ROLLBACK)
        found["responses"]["200"] = _answer("Done.", {"anyOf": [schema, rollback]})
    return found


def _of_operation(name: str, summary: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "x-role": "viewer",
        "parameters": [_parameter("path", _OPERATION)],
        "responses": {
            "200": _answer("It is known.", {"$ref": "#/components/schemas/Operation"}),
            **dict(_failures(changes_something=False)),
        },
    }


def _failures(*, changes_something: bool) -> Iterator[tuple[str, Any]]:
    for status, words in _ERRORS.items():
        if changes_something or status not in _BODY or status == 422:
            yield str(status), _answer(words, {"$ref": "#/components/schemas/Error"})


def _answer(words: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def _parameter(place: str, field: Field) -> dict[str, Any]:
    return {
        "name": field.name,
        "in": place,
        "required": field.required,
        "description": field.doc,
        "schema": field.schema(),
    }


def _header(name: str, words: str, pattern: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "required": False, "description": words, "schema": schema}


def _body(fields: Sequence[Field]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {field.name: field.schema() | {"description": field.doc} for field in fields},
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }
