"""The OpenAPI document is true: what schemathesis makes of it is answered as it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks as known

from deployctl.daemon.api.openapi import openapi
from tests.support.api import ApiClient, api_alone

_CHECKS = {
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    """The API of a daemon beside a repository with one model and no server."""
    with api_alone(tmp_path_factory.mktemp("api")) as admin:
        yield admin


@pytest.fixture(scope="module")
def described() -> Any:
    return schemathesis.openapi.from_dict(openapi())


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=6, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_of_those_that_the_document_has(case: Any, served: ApiClient) -> None:
    case.call_and_validate(
        base_url=f"http://{served.host}:{served.port}",
        headers={"Authorization": f"Bearer {served.token}"},
        checks=[each for each in known.CHECKS.get_all() if each.__name__ in _CHECKS],
    )
