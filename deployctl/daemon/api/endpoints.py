"""The table of what the API takes: the same rows serve requests and write the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployctl.daemon.api.failures import failure, refusal
from deployctl.daemon.api.fields import Field, Kind, check_seen, read_body, read_texts
from deployctl.daemon.api.jobs import Job, Jobs
from deployctl.documents.operations import operation_document
from deployctl.documents.text import as_text
from deployctl.domain.clock import Observer
from deployctl.domain.event import Actor
from deployctl.domain.operation import OperationRequest
from deployctl.errors import UsageError

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.daemon.interface import Work
    from deployctl.domain.authority import Authority

WAIT = Field("wait", Kind.INTEGER, "seconds to wait for the outcome, 0 to 600", most=600)
_KEY = re.compile(r"[A-Za-z0-9._-]{0,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, its values read and its targets and models seen to be the token's."""

    deployment: Deployment
    authority: Authority
    values: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a value, `default` where it was not said."""
        return self.values.get(name, default)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the table.

    Attributes:
        name: the operationId.
        verb: what is asked of the token, see `deployctl.domain.authority.ROLES`.
        noun: of the answer's schema.
        schema: the answer's JSON schema.
        act: makes the answer, in a thread.
        changes: whether it is an operation, which a POST begins.
    """

    name: str
    method: str
    path: str
    summary: str
    verb: str
    noun: str
    schema: Mapping[str, Any]
    act: Callable[[Call], dict[str, Any]]
    in_path: tuple[Field, ...] = ()
    in_query: tuple[Field, ...] = ()
    in_body: tuple[Field, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether it begins an operation."""
        return self.method == "POST"

    @property
    def query(self) -> tuple[Field, ...]:
        """What may stand in the query."""
        return (*self.in_query, WAIT) if self.changes else self.in_query


def reading(name: str, path: str, summary: str, noun: str, schema: Any, act: Any, **fields: Any) -> Endpoint:
    """Returns a row that only tells; `places` and `query` are its fields."""
    in_path, in_query = fields.get("places", ()), fields.get("query", ())
    return Endpoint(name, "GET", path, summary, "view", noun, schema, act, in_path=in_path, in_query=in_query)


def changing(
    name: str, path: str, summary: str, noun: str, schema: Any, act: Any, fields: tuple[Field, ...]
) -> Endpoint:
    """Returns a row that begins an operation, whose verb is its name."""
    return Endpoint(name, "POST", path, summary, name, noun, schema, act, in_body=fields)


def endpoint_routes(work: Work, jobs: Jobs, endpoints: Sequence[Endpoint]) -> Iterator[Route]:
    """Yields a route for each row."""
    for endpoint in endpoints:
        answer = partial(_begin, work, jobs, endpoint) if endpoint.changes else partial(_read, work, endpoint)
        yield Route(endpoint.path, answer, methods=[endpoint.method], name=endpoint.name)


async def _read(work: Work, endpoint: Endpoint, request: Request) -> Response:
    authority: Authority = request.state.authority
    values = _values(endpoint, request, b"")
    check_seen(authority, (*endpoint.in_path, *endpoint.query), values)

    def look() -> dict[str, Any]:
        actor = Actor(authority.name, authority.address, "", f"api: {endpoint.name}")
        with work.operation(endpoint.name, actor=actor, observer=Observer(), authority=authority) as deployment:
            if endpoint.verb != "view":
                deployment.context.permit(endpoint.verb)
            return endpoint.act(Call(deployment, authority, values))

    return document_answer(endpoint.noun, await run_in_threadpool(look))


async def _begin(work: Work, jobs: Jobs, endpoint: Endpoint, request: Request) -> Response:
    authority: Authority = request.state.authority
    raw = await request.body()
    if raw and request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return refusal(415, "the body must be application/json")
    values = _values(endpoint, request, raw)
    check_seen(authority, (*endpoint.in_path, *endpoint.in_body), values)
    key = request.headers.get("idempotency-key", "")
    if not _KEY.fullmatch(key):
        raise UsageError("the Idempotency-Key is not 1 to 128 letters, digits, '.', '_' or '-'")
    job = await run_in_threadpool(_job, jobs, endpoint, authority, values, key)
    ended = await run_in_threadpool(jobs.wait, job, values.get("wait", 0))
    if ended or not job.operation:
        if job.error is not None:
            return failure(job.error)
        return document_answer(endpoint.noun, job.document or {}, operation=job.operation)
    return document_answer("operation", operation_document(job.record()), status=202, operation=job.operation)


def _job(jobs: Jobs, endpoint: Endpoint, authority: Authority, values: dict[str, Any], key: str) -> Job:
    said = (endpoint.name, {name: value for name, value in values.items() if name != "wait"})
    known = jobs.begun(authority, key)
    if known is not None:
        if known.said != said:
            raise UsageError(f"the Idempotency-Key {key!r} was used for another request")
        return known
    reference = values.get("reference")
    model = reference.model if reference is not None else values.get("model")
    subject = str(reference or model or values.get("source") or values.get("operation") or values.get("target") or "")
    request = OperationRequest(endpoint.verb, subject, values.get("target"), model)
    # Refused at once, and not as an operation that failed; what it does is asked again as it does it.
    authority.check_role(role_of(endpoint.verb), endpoint.verb)
    return jobs.begin(
        request,
        lambda deployment: endpoint.act(Call(deployment, authority, values)),
        authority=authority,
        command=f"api: {endpoint.verb} {subject}".rstrip(),
        key=key,
        said=said,
    )


def role_of(verb: str) -> Any:
    """Returns the least role for a verb."""
    from deployctl.domain.authority import ROLES, Role

    return Role.VIEWER if verb == "view" else ROLES.get(verb, Role.ADMIN)


def _values(endpoint: Endpoint, request: Request, raw: bytes) -> dict[str, Any]:
    in_path = {field.name: field.from_text(request.path_params[field.name]) for field in endpoint.in_path}
    in_query = read_texts(request.query_params.multi_items(), endpoint.query)
    return {**in_path, **in_query, **(read_body(raw, endpoint.in_body) if endpoint.changes else {})}


def document_answer(noun: str, document: dict[str, Any], *, status: int = 200, operation: str = "") -> Response:
    """Returns the document that the command writes with `-o json`, as an answer."""
    headers = {"Location": f"/v1/operations/{operation}", "Deployctl-Operation": operation} if operation else {}
    text = as_text(noun, document)
    return Response(text, status, headers, "application/json")
