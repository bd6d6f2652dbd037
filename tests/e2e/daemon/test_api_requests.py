"""What clients send is read as it is meant, or refused in words: bodies, sizes, names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.api import ApiClient, api_alone


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    """The API of a daemon beside a repository with one model and no server."""
    with api_alone(tmp_path_factory.mktemp("api")) as admin:
        yield admin


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"reference": "half@1"',
        b'{"reference": 7}',
        b'{"reference": "half@1", "other": 1}',
        b'{"reference": "half@1", "reference": "half@2"}',
        b'{"reference": "../half@1"}',
        b'{"reference": "half@1", "target": "../x"}',
        b'{"reference": "half@1", "if_current": 1.5}',
        b'{"reference": "half@1", "if_current": NaN}',
        b'{"reference": "half@1", "if_current": -Infinity}',
        b'{"reference": "half@1", "if_current": 1e400}',
        b'{"reference": "half@1", "if_current": -1}',
        b'{"reference": "half@1", "if_current": ' + b"9" * 5000 + b"}",
        b'{"reference": "half@1", "if_current": true}',
        b'{"reference": "half@1", "reason": {"a": [[[[[[[[[[]]]]]]]]]]}}',
        b'{"a":' * 50_000,
        b'{"reference": "half@1", "__proto__": {}}',
        b'{"reference": "half@1\\n"}',
        b'{"reference": "half@-1"}',
        b'{"reference": "half@1/../../secret/1"}',
        b'{"reference": "half@%2e%2e"}',
        b'{"reference": "half@1", "reason": "\\u0000"}',
        b'{"reference": "half@1", "reason": "\\ud800"}',
        b'{"reference": "half@1", "reason": "' + b"a" * 3000 + b'"}',
        b"[" * 10_000,
        b"\xff\xfe",
    ],
    ids=lambda raw: repr(raw[:60]),
)
def test_a_body_that_is_none_is_refused(admin: ApiClient, raw: bytes) -> None:
    answer = admin.ask("POST", "/v1/promote?wait=60", raw=raw)

    assert answer.status == 400, answer
    assert answer.json["exit_code"] == 2


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "", "json"]
)
def test_a_body_says_that_it_is_json(admin: ApiClient, content_type: str) -> None:
    # A page in a browser can send these elsewhere without being asked, and no others.
    answer = admin.ask("POST", "/v1/gc?wait=60", {"dry_run": True}, headers={"Content-Type": content_type})

    assert answer.status == 415, answer


def test_a_body_has_a_size_whether_it_tells_it_or_not(admin: ApiClient) -> None:
    large = b'{"reference": "' + b"a" * (2 << 20) + b'"}'
    headers = {"Transfer-Encoding": "chunked"}
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)

    assert admin.ask("POST", "/v1/promote", headers={"Content-Length": "3000000"}).status == 413
    assert admin.ask("POST", "/v1/promote", raw=chunked, headers=headers).status == 413


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/%2e%2e/versions",
        "/v1/models/..%2f..%2fetc/versions",
        "/v1/models/half%00/versions",
        "/v1/versions/..%2fhalf@1",
        "/v1/versions/half@..",
        "/v1/operations/..%2f..%2fdeployctl",
        "/v1/operations/%2e%2e",
        "/v1/operations/*",
        "/v1/status?model=../x",
        "/v1/status?model=half&model=secret",
        "/v1/history?limit=0",
        "/v1/history?limit=99999999999999999999",
        "/v1/targets/%2e%2e/freezes",
        "/v1/targets/..%2flocal/logs",
        "/v1/targets/local/logs?since=-1s",
        "/v1/models/..%2fsecret/quarantines",
        "/v1/%2e%2e/metrics",
        "/v1/../metrics",
        "/static/../../etc/passwd",
    ],
)
def test_a_name_leads_nowhere(admin: ApiClient, path: str) -> None:
    answer = admin.ask("GET", path)

    assert answer.status in {400, 404}, answer
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize("name", ["%2e%2e", "..%2f..%2fdeployctl.toml", "*", "%00", "a" * 100])
def test_the_name_of_an_upload_or_a_command_leads_nowhere(admin: ApiClient, method: str, name: str) -> None:
    path = f"/v1/uploads/{name}" if method == "PUT" else f"/v1/commands/{name}"
    answer = admin.ask(method, path, raw=b"x")

    assert answer.status in {400, 404, 415}, answer
    assert answer.json["error"]


def test_nothing_but_the_method_that_is_meant_does_anything(admin: ApiClient) -> None:
    for path in ("/v1/promote", "/v1/gc", "/v1/locks/release", "/v1/commands", "/v1/uploads"):
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
            answer = admin.ask(method, path, headers={"X-HTTP-Method-Override": "POST"})
            assert answer.status == 405, (method, path)
    for path in ("/v1/status", "/v1/history", "/v1/tokens", "/healthz", "/readyz", "/metrics"):
        assert admin.ask("POST", path, {}).status == 405, path
