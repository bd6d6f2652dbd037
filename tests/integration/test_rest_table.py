"""REST requests and their answers, byte for byte, over real sockets.

The expectations are those of tensorflow_serving/model_servers/http_rest_api_handler_test.cc and
util/json_tensor_test.cc, laid out as rapidjson's PrettyWriter prints.
"""

# ruff: noqa: E501 - tables of upstream's own words
from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from deployctl.errors import PortTakenError, ServerStartError
from deployctl.modelserver.metrics import PROMETHEUS_PATH
from deployctl.modelserver.rest import RestOptions, serve_rest
from tests.support.memory_core import HalfPlusTwo, MemoryCore
from tests.support.rest import MAX_BODY, TIMEOUT_S, call, exchange, rest_options, running

M = "/v1/models/m"
JSON = "application/json"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    core = MemoryCore(
        HalfPlusTwo("m", 122), HalfPlusTwo("m", 123), HalfPlusTwo("a/b c", 1), labels={("m", "stable"): 122}
    )
    with running(core) as server:
        yield server.port


def rows(text: str) -> str:
    return f'{{\n    "predictions": [{text}\n    ]\n}}'


def error(message: str) -> str:
    return f'{{\n    "error": {json.dumps(message)}\n}}'


def echo(dtype: str, values: str, key: str = "instances") -> str:
    return f'{{"signature_name": "echo_{dtype}", "{key}": {values}}}'


STATUS_122 = '  {\n   "version": "122",\n   "state": "AVAILABLE",\n   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  }'
STATUS_123 = STATUS_122.replace("122", "123")
BOTH = f'{{\n "model_version_status": [\n{STATUS_123},\n{STATUS_122}\n ]\n}}\n'
ONE = f'{{\n "model_version_status": [\n{STATUS_122}\n ]\n}}\n'

GOOD: list[tuple[str, str, str | None, str]] = [
    ("POST", f"{M}:predict", '{"instances": [1.0, 2.0, 5.0]}', rows("2.5, 3.0, 4.5")),
    ("POST", f"{M}:predict", '{"instances": [[1.0, 2.0], [3.0, 4.0]]}', rows("[2.5, 3.0], [3.5, 4.0]")),
    ("POST", f"{M}:predict", '{"instances": [{"x": 1.0}, {"x": 2.0}]}', rows("2.5, 3.0")),
    ("POST", f"{M}:predict", '{"instances": [{"x": [1]}, {"x": [2]}]}', rows("[2.5], [3.0]")),
    ("POST", f"{M}:predict", '{"signature_name": "serving_default", "instances": [3.0, 4.0]}', rows("3.5, 4.0")),
    ("POST", f"{M}:predict", '{"signature_name": "", "instances": [3.0]}', rows("3.5")),
    ("POST", f"{M}:predict", '{"inputs": [3.0, 4.0]}', '{\n    "outputs": [\n        3.5,\n        4.0\n    ]\n}'),
    ("POST", f"{M}:predict", '{"inputs": {"x": [3.0]}}', '{\n    "outputs": [\n        3.5\n    ]\n}'),
    ("POST", f"{M}:predict", '{"inputs": {"x": [3.0], "ignored": 1}}', '{\n    "outputs": [\n        3.5\n    ]\n}'),
    ("POST", f"{M}:predict", '{"inputs": 3.0}', '{\n    "outputs": 3.5\n}'),
    ("POST", f"{M}:predict", '{"inputs": {"x": 3}}', '{\n    "outputs": 3.5\n}'),
    ("POST", f"{M}:predict", '{"inputs": [[1], [2]]}', '{\n    "outputs": [\n        [\n            2.5\n        ],\n        [\n            3.0\n        ]\n    ]\n}'),
    ("POST", f"{M}:predict", '{"inputs": []}', '{\n    "outputs": []\n}'),
    ("POST", f"{M}:predict", '{"instances": [[], []]}', rows("[], []")),
    ("POST", f"{M}:predict", '{"instances": [NaN, Infinity, -Infinity]}', rows("NaN, Infinity, -Infinity")),
    ("POST", f"{M}:predict", '{"instances": [1], "extra": {"a": [null]}}', rows("2.5")),
    ("POST", f"{M}:predict", ' \r\n\t{ "instances" : [ 1 ] } \n', rows("2.5")),
    ("POST", f"{M}:predict", '{"inst\\u0061nces": [1]}', rows("2.5")),
    ("POST", f"{M}:predict", '\ufeff{"instances": [1]}', rows("2.5")),
    ("POST", f"{M}/versions/122:predict", '{"instances": [1]}', rows("2.5")),
    ("POST", f"{M}/versions/000122:predict", '{"instances": [1]}', rows("2.5")),
    ("POST", f"{M}/labels/stable:predict", '{"instances": [1]}', rows("2.5")),
    ("POST", f"{M}/labels/sta%62le:predict", '{"instances": [1]}', rows("2.5")),
    ("POST", "/V1/Models/m:predict", '{"instances": [1]}', rows("2.5")),
    ("POST", "/v1/models/%6d:predict", '{"instances": [1]}', rows("2.5")),
    ("POST", "/v1/models/a%2Fb%20c:predict", '{"instances": [1]}', rows("2.5")),
    ("POST", f"{M}:predict", echo("float32", "[9000000, 999999, 0.5, 0.0003, 0.00003, 555557.5]"), rows("9e+06, 999999.0, 0.5, 0.0003, 3e-05, 555557.5")),
    ("POST", f"{M}:predict", echo("float32", "[0.1, 0.333333333, 16777215, 1e-45, -0.0]"), rows("0.1, 0.333333343, 16777215.0, 1.4013e-45, -0.0")),
    ("POST", f"{M}:predict", echo("float64", "[0.1, 0.3333333333333333, 1e300, 9007199254740991, 123456.5]"), rows("0.1, 0.33333333333333331, 1e+300, 9007199254740991.0, 123456.5")),
    ("POST", f"{M}:predict", echo("int8", "[-128, 127, 128]"), rows("-128, 127, -128")),
    ("POST", f"{M}:predict", echo("int16", "[-32768, 32768]"), rows("-32768, -32768")),
    ("POST", f"{M}:predict", echo("int32", "[-2147483648, 2147483647]"), rows("-2147483648, 2147483647")),
    ("POST", f"{M}:predict", echo("int64", "[-9223372036854775808, 9223372036854775807]"), rows("-9223372036854775808, 9223372036854775807")),
    ("POST", f"{M}:predict", echo("uint8", "[0, 255, 300]"), rows("0, 255, 44")),
    ("POST", f"{M}:predict", echo("uint32", "[0, 4294967295]"), rows("0, 4294967295")),
    ("POST", f"{M}:predict", echo("uint64", "[0, 18446744073709551615]"), rows("0, 18446744073709551615")),
    ("POST", f"{M}:predict", echo("bool", "[true, false]"), rows("true, false")),
    ("POST", f"{M}:predict", echo("bool", "[[true], [false]]"), rows("[true], [false]")),
    ("POST", f"{M}:predict", echo("string", '["a", "\\u00e9\\n", {"b64": "aGVsbG8="}]'), rows('"a", "é\\n", "hello"')),
    ("POST", f"{M}:predict", echo("string", '["/", "\\\\", "\\"", "\\u0001", "\\ud834\\udd1e"]'), rows('"/", "\\\\", "\\"", "\\u0001", "𝄞"')),
    ("POST", f"{M}:predict", echo("string", '""', "inputs"), '{\n    "outputs": ""\n}'),
    ("POST", f"{M}:predict", echo("b64", '["hello"]'), rows('{\n            "b64": "aGVsbG8="\n        }')),
    ("POST", f"{M}:predict", echo("b64", '{"b64": "/w"}', "inputs"), '{\n    "outputs": {\n        "b64": "/w=="\n    }\n}'),
    ("POST", f"{M}:predict", '{"signature_name": "sum", "instances": [{"a": 1, "b": 2}, {"a": 0.5, "b": 3}]}', rows('\n        {\n            "count_bytes": {\n                "b64": "Mg=="\n            },\n            "total": 3.0\n        },\n        {\n            "count_bytes": {\n                "b64": "Mw=="\n            },\n            "total": 3.5\n        }')),
    ("POST", f"{M}:predict", '{"signature_name": "sum", "inputs": {"a": [1], "b": [2]}}', '{\n    "outputs": {\n        "count_bytes": [\n            {\n                "b64": "Mg=="\n            }\n        ],\n        "total": [\n            3.0\n        ]\n    }\n}'),
    ("POST", f"{M}:predict", '{"signature_name": "ragged", "inputs": [1, 2]}', '{\n    "outputs": {\n        "one": [\n            1.0,\n            2.0\n        ],\n        "two": [\n            1.0\n        ]\n    }\n}'),
    ("POST", f"{M}:predict", '{"signature_name": "scalar", "inputs": [1, 2]}', '{\n    "outputs": 3.0\n}'),
    ("POST", f"{M}:regress", '{"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}]}', '{\n    "results": [42.0]\n}'),
    ("POST", f"{M}:regress", '{"signature_name": "regress_x_to_y", "examples": [{"x": [80.0]}, {"x": 2.0}]}', '{\n    "results": [42.0, 3.0]\n}'),
    ("POST", f"{M}:regress", '{"signature_name": "regress_x_to_y", "context": {"x": 10.0}, "examples": [{}]}', '{\n    "results": [7.0]\n}'),
    ("POST", f"{M}:regress", '{"signature_name": "regress_x_to_y", "examples": [{"x": Infinity}, {"x": NaN}]}', '{\n    "results": [Infinity, NaN]\n}'),
    ("POST", f"{M}/labels/stable:regress", '{"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}]}', '{\n    "results": [42.0]\n}'),
    ("POST", f"{M}:classify", '{"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}]}', '{\n    "results": [[["", 12.0]]\n    ]\n}'),
    ("POST", f"{M}:classify", '{"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}, {"x": 10.0}]}', '{\n    "results": [[["", 12.0]], [["", 7.0]]\n    ]\n}'),
    ("POST", f"{M}/versions/123:classify", '{"signature_name": "classify_x_to_y", "examples": [{"x": 10.0}]}', '{\n    "results": [[["", 7.0]]\n    ]\n}'),
    ("GET", M, None, BOTH),
    ("GET", "/V1/MODELS/m", None, BOTH),
    ("GET", f"{M}/versions/122", None, ONE),
    ("GET", f"{M}/labels/stable", None, BOTH),
    ("GET", f"{M}/labels/unknown", None, BOTH),
    ("GET", f"{M}/METADATA", None, BOTH),
    ("GET", "/v1/models/%6D", None, BOTH),
    ("GET", "/v1/models/a%2fb%20c", None, ONE.replace("122", "1")),
]  # fmt: skip

IN_ROW = "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "

BAD: list[tuple[str, str, str | bytes | None, int, str]] = [
    ("GET", "/v1/foo", None, 400, "Malformed request: GET /v1/foo"),
    ("POST", "/v1/foo", "", 400, "Malformed request: POST /v1/foo"),
    ("GET", "/v1/", None, 400, "Malformed request: GET /v1/"),
    ("GET", "/v1/models", None, 400, "Missing model name in request."),
    ("GET", "/v1/models/metadata/", None, 400, "Malformed request: GET /v1/models/metadata/"),
    ("GET", f"{M}/", None, 400, f"Malformed request: GET {M}/"),
    ("GET", f"{M}:predict", None, 400, f"Malformed request: GET {M}:predict"),
    ("GET", f"{M}/version/1", None, 400, f"Malformed request: GET {M}/version/1"),
    ("GET", f"{M}/versions/1/labels/x", None, 400, f"Malformed request: GET {M}/versions/1/labels/x"),
    ("GET", f"{M}/versions/99999999999999999999", None, 400, "Failed to convert version: 99999999999999999999 to numeric."),
    ("GET", f"{M}/versions/7", None, 404, "Could not find version 7 of model m"),
    ("GET", "/v1/models/none", None, 404, "Could not find any versions of model none"),
    ("GET", "/v1/models/m?x=1", None, 404, "Could not find any versions of model m?x=1"),
    ("GET", "/v1/models/none/metadata", None, 404, "Servable not found for request: Latest(none)"),
    ("GET", f"{M}/versions/7/metadata", None, 404, "Servable not found for request: Specific(m, 7)"),
    ("POST", M, "{}", 400, f"Malformed request: POST {M}"),
    ("POST", f"{M}/metadata", "{}", 400, f"Malformed request: POST {M}/metadata"),
    ("POST", f"{M}:predict/", "{}", 400, f"Malformed request: POST {M}:predict/"),
    ("POST", f"{M}:predict?a=b", "{}", 400, f"Malformed request: POST {M}:predict?a=b"),
    ("POST", f"{M}:PREDICT", "{}", 400, f"Malformed request: POST {M}:PREDICT"),
    ("POST", f"{M}:multiInference", "{}", 400, f"Malformed request: POST {M}:multiInference"),
    ("POST", f"{M}/versions/HELLO:regress", "{}", 400, f"Malformed request: POST {M}/versions/HELLO:regress"),
    ("POST", f"{M}/versions/18446744073709551615:regress", "", 400, "Failed to convert version: 18446744073709551615 to numeric."),
    ("PUT", f"{M}:predict", "{}", 400, f"Malformed request: PUT {M}:predict"),
    ("DELETE", M, None, 400, f"Malformed request: DELETE {M}"),
    ("PATCH", M, "{}", 400, f"Malformed request: PATCH {M}"),
    ("OPTIONS", f"{M}:predict", None, 400, f"Malformed request: OPTIONS {M}:predict"),
    ("POST", "/v1/models/none:predict", '{"instances": [1]}', 404, "Servable not found for request: Latest(none)"),
    ("POST", f"{M}/versions/50:predict", '{"instances": [1]}', 404, "Servable not found for request: Specific(m, 50)"),
    ("POST", f"{M}/labels/nope:predict", '{"instances": [1]}', 400, "Unrecognized servable version label: nope"),
    ("POST", f"{M}:predict", "", 400, "JSON Parse error: The document is empty"),
    ("POST", f"{M}:predict", "   ", 400, "JSON Parse error: The document is empty. at offset: 3"),
    ("POST", f"{M}:predict", "instances = [1, 2]", 400, "JSON Parse error: Invalid value. at offset: 0"),
    ("POST", f"{M}:predict", '{"instances": [1, 2', 400, "JSON Parse error: Missing a comma or ] after an array element. at offset: 19"),
    ("POST", f"{M}:predict", '{"instances": [1],}', 400, "JSON Parse error: Missing a name for object member. at offset: 18"),
    ("POST", f"{M}:predict", '{"instances": [01]}', 400, "JSON Parse error: Missing a comma or ] after an array element. at offset: 16"),
    ("POST", f"{M}:predict", '{"instances": [1e400]}', 400, "JSON Parse error: Number too big to be stored in double. at offset: 15"),
    ("POST", f"{M}:predict", b'{"instances": [1]} \xff', 400, "JSON Parse error: The document root must not be followed by other values. at offset: 19"),
    ("POST", f"{M}:predict", b'{"instances": [\xff]}', 400, "JSON Parse error: Invalid value. at offset: 15"),
    ("POST", f"{M}:predict", "[]", 400, "JSON Value: [] Is not object"),
    ("POST", f"{M}:predict", '"text"', 400, 'JSON Value: "text" Is not object'),
    ("POST", f"{M}:predict", "{}", 400, "Missing 'inputs' or 'instances' key"),
    ("POST", f"{M}:predict", '{"instances": []}', 400, "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
    ("POST", f"{M}:predict", '{"instances": {}}', 400, "JSON Value: {\n    \"instances\": {}\n} Excepting 'instances' to be an list/array"),
    ("POST", f"{M}:predict", '{"instances": 1, "inputs": 1}', 400, "JSON Value: {\n    \"instances\": 1,\n    \"inputs\": 1\n} Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "),
    ("POST", f"{M}:predict", '{"signature_name": 100}', 400, "JSON Value: {\n    \"signature_name\": 100\n} not formatted correctly. 'signature_name' key must be a string value."),
    ("POST", f"{M}:predict", '{"signature_name": "nope", "instances": [1]}', 400, 'Serving signature name: "nope" not found in signature def'),
    ("POST", f"{M}:predict", '{"signature_name": "empty", "instances": [1]}', 400, "Failed to get input map for signature: empty"),
    ("POST", f"{M}:predict", '{"instances": ["x", "y"]}', 400, IN_ROW + 'JSON Value: "x" Type: String is not of expected type: float'),
    ("POST", f"{M}:predict", '{"inputs": null}', 400, "JSON Value: null Type: Null is not of expected type: float"),
    ("POST", f"{M}:predict", '{"inputs": {"y": 1}}', 400, "Missing named input: x in 'inputs' object."),
    ("POST", f"{M}:predict", '{"instances": [{"y": 1}]}', 400, "Failed to process element: 0 key: y of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: y"),
    ("POST", f"{M}:predict", '{"instances": [16777217]}', 400, IN_ROW + "Cannot convert JSON value: 16777217 to float without loss of precision."),
    ("POST", f"{M}:predict", echo("int32", "[1.5]"), 400, IN_ROW + "JSON Value: 1.5 Type: Number is not of expected type: int32"),
    ("POST", f"{M}:predict", echo("int32", "[[1, 2], [3]]", "inputs"), 400, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    ("POST", f"{M}:predict", echo("uint32", "[-1]", "inputs"), 400, "JSON Value: -1 Type: Number is not of expected type: uint32"),
    ("POST", f"{M}:predict", echo("string", '[{"b64": "a!"}]', "inputs"), 400, "Unable to base64 decode"),
    ("POST", f"{M}:predict", echo("string", '[{"b65": "aa"}]', "inputs"), 400, 'JSON Value: {\n    "b65": "aa"\n} not formatted correctly for base64 data'),
    ("POST", f"{M}:predict", echo("float16", "[1]", "inputs"), 501, "Conversion of JSON Value: 1 to type: half"),
    ("POST", f"{M}:predict", echo("complex64", "[1]", "inputs"), 501, "Conversion of JSON Value: 1 to type: complex64"),
    ("POST", f"{M}:predict", echo("uint16", "[1]", "inputs"), 501, "Conversion of JSON Value: 1 to type: uint16"),
    ("POST", f"{M}:predict", '{"signature_name": "ragged", "instances": [1, 2]}', 400, "Tensor name: two has inconsistent batch size: 1 expecting: 2"),
    ("POST", f"{M}:predict", '{"signature_name": "scalar", "instances": [1, 2]}', 400, "Tensor name: y has no shape information "),
    ("POST", f"{M}:predict", '{"signature_name": "failing", "inputs": [8]}', 429, 'as asked: "quoted"\n'),
    ("POST", f"{M}:predict", '{"signature_name": "failing", "inputs": [14]}', 503, 'as asked: "quoted"\n'),
    ("POST", f"{M}:predict", '{"signature_name": "hostile", "inputs": [1]}', 500, "RuntimeError: a fault of ours"),
    ("POST", f"{M}:regress", "{}", 400, "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
    ("POST", f"{M}:regress", '{"examples": 1}', 400, "JSON Value: {\n    \"examples\": 1\n} Expecting 'examples' value to be an list/array"),
    ("POST", f"{M}:classify", '{"examples": []}', 400, "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
    ("POST", f"{M}:classify", '{"examples": [1]}', 400, "Example must be JSON object but got JSON Number"),
    ("POST", f"{M}:classify", '{"examples": [{"a": [1, "b"]}]}', 400, "Unexpected element type in feature: a expecting type: int64"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "expected"), GOOD)
def test_a_right_request_gets_upstreams_answer(
    port: int, method: str, path: str, body: str | None, expected: str
) -> None:
    answer = call(port, method, path, None if body is None else body.encode())
    assert answer.text == expected
    assert answer.status == 200
    assert answer.headers["content-type"] == JSON
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize(("method", "path", "body", "status", "message"), BAD)
def test_a_wrong_request_gets_upstreams_error(
    port: int, method: str, path: str, body: str | bytes | None, status: int, message: str
) -> None:
    answer = call(port, method, path, body.encode() if isinstance(body, str) else body)
    assert answer.text == error(message)
    assert answer.status == status
    assert answer.headers["content-type"] == JSON


def test_the_tables_are_as_long_as_they_should_be() -> None:
    assert len(GOOD) >= 60
    assert len(BAD) >= 40


def test_metadata_has_upstreams_shape(port: int) -> None:
    answer = call(port, "GET", f"{M}/labels/stable/metadata")
    assert answer.status == 200
    assert answer.text.startswith(
        '{\n"model_spec":{\n "name": "m",\n "signature_name": "",\n "version": "122"\n}\n,\n"metadata": {"signature_def": {\n "signature_def": {\n'
    )
    document = json.loads(answer.body)
    assert set(document) == {"model_spec", "metadata"}
    signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature == {
        "inputs": {"x": {"name": "x:0", "dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}}},
        "outputs": {"y": {"name": "y:0", "dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}}},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/statuspage", "/v1", "/v2/models/m", "/metrics"])
def test_other_paths_get_libevents_page(port: int, path: str) -> None:
    answer = call(port, "GET", path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "text/html"
    assert (
        answer.text == "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
    )


def test_a_method_unknown_to_upstream_is_not_implemented(port: int) -> None:
    assert call(port, "TRACE", M).status == 501


def test_head_is_malformed_and_has_no_body(port: int) -> None:
    answer = call(port, "HEAD", M)
    assert (answer.status, answer.body) == (400, b"")


def test_bytes_that_are_no_utf_8_pass_through_a_string_tensor(port: int) -> None:
    answer = call(port, "POST", f"{M}:predict", b'{"signature_name": "echo_string", "instances": ["\xff\xfe"]}')
    assert answer.body == b'{\n    "predictions": ["\xff\xfe"\n    ]\n}'


@pytest.mark.parametrize("depth", [1100, 50_000])
@pytest.mark.parametrize("key", ["instances", "inputs", "other"])
def test_deep_nesting_is_refused_and_the_server_lives_on(port: int, depth: int, key: str) -> None:
    body = f'{{"{key}": {"[" * depth}{"]" * depth}}}'.encode()
    for data in (body, body[: len(body) // 2], body.replace(b"[]", b"[NaN]")):
        answer = call(port, "POST", f"{M}:predict", data)
        assert answer.status == 400
        assert "JSON Parse error: Nested deeper than 1024 levels" in answer.text
    assert call(port, "POST", f"{M}:predict", b'{"instances": [1]}').status == 200


class TestProtocol:
    def test_one_connection_serves_many_requests(self, port: int) -> None:
        request = b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n"
        with closing(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)) as connection:
            for _ in range(3):
                connection.sendall(request)
                received = b""
                while not received.endswith(BOTH.encode()):
                    received += connection.recv(65536)
                assert received.startswith(b"HTTP/1.1 200 OK\r\n")

    def test_pipelined_requests_are_answered_in_order(self, port: int) -> None:
        sent = b""
        for number in range(20):
            body = b'{"instances": [%d]}' % (number * 2)
            sent += b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        received = exchange(port, sent, until=b"[21.0\n    ]\n}")
        found = [part.split(b"\n", 1)[0] for part in received.split(b'"predictions": [')[1:]]
        assert found == [b"%d.0" % (number + 2) for number in range(20)]

    def test_a_chunked_body_is_read(self, port: int) -> None:
        head = (
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        body = b'{"instances": [1.0, 2.0]}'
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        assert exchange(port, head + chunks).endswith(rows("2.5, 3.0").encode())

    def test_a_slow_client_is_waited_for_while_others_are_served(self, port: int) -> None:
        body = b'{"instances": [1.0]}'
        head = (
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            % len(body)
        )
        with closing(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in head + body[:-1]:
                connection.sendall(bytes([byte]))
            assert call(port, "GET", M).status == 200
            connection.sendall(body[-1:])
            received = b""
            while piece := connection.recv(65536):
                received += piece
        assert received.endswith(rows("2.5").encode())

    def test_a_client_that_goes_away_half_way_harms_nobody(self, port: int) -> None:
        for cut in (10, 80, 120):
            with closing(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)) as connection:
                request = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n" + b"[" * 50
                connection.sendall(request[:cut])
        assert call(port, "GET", M).status == 200

    def test_the_old_protocol_is_spoken(self, port: int) -> None:
        received = exchange(port, b"GET /v1/models/m HTTP/1.0\r\n\r\n")
        assert received.endswith(BOTH.encode())

    def test_bytes_that_are_no_http_are_refused(self, port: int) -> None:
        assert exchange(port, b"\x16\x03\x01\x02\x00\x01\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert call(port, "GET", M).status == 200

    def test_a_body_may_be_gzipped(self, port: int) -> None:
        packed = gzip.compress(b'{"instances": [1.0]}')
        answer = call(port, "POST", f"{M}:predict", packed, {"Content-Encoding": "gzip"})
        assert answer.text == rows("2.5")
        broken = call(port, "POST", f"{M}:predict", b"plain", {"Content-Encoding": "gzip"})
        assert (broken.status, broken.text) == (400, error("Failed to uncompress the gzipped body"))

    def test_a_body_that_is_too_long_is_refused(self, port: int) -> None:
        long = b'{"instances": [' + b"1," * MAX_BODY + b"1]}"
        for sent, headers in ((gzip.compress(long), {"Content-Encoding": "gzip"}), (b" " * (MAX_BODY + 1), {})):
            answer = call(port, "POST", f"{M}:predict", sent, headers)
            assert answer.status == 413
            assert answer.text == error(f"The request body is longer than {MAX_BODY} bytes")

    def test_a_chunked_body_that_is_too_long_is_refused_before_its_end(self, port: int) -> None:
        head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        received = exchange(port, head + chunk * (MAX_BODY // 65536 + 1))
        assert received.startswith(b"HTTP/1.1 413")

    def test_many_clients_at_once_each_get_their_own_answer(self, port: int) -> None:
        def one(number: int) -> bool:
            body = json.dumps({"instances": [number] * (number % 50 + 1)}).encode()
            expected = rows(
                ", ".join([f"{number / 2 + 2:g}" if number % 2 else f"{number / 2 + 2:.1f}"] * (number % 50 + 1))
            )
            return call(port, "POST", f"{M}:predict", body).text == expected

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(one, range(400)))


class TestOptions:
    def test_cors_headers_come_with_every_answer(self) -> None:
        with running(MemoryCore(HalfPlusTwo("m", 1)), rest_options(cors=True)) as server:
            for path in (M, "/v1/foo"):
                answer = call(server.port, "GET", path, headers={"Origin": "http://a.example"})
                assert answer.headers["access-control-allow-origin"] == "*"
                assert answer.headers["access-control-allow-methods"] == "POST, GET"
                assert answer.headers["access-control-allow-headers"] == "Content-Type"

    def test_a_preflight_needs_an_origin(self) -> None:
        with running(MemoryCore(HalfPlusTwo("m", 1)), rest_options(cors=True)) as server:
            good = call(server.port, "OPTIONS", f"{M}:predict", headers={"Origin": "https://a.example"})
            assert (good.status, good.body) == (200, b"")
            assert good.headers["access-control-allow-origin"] == "*"
            assert call(server.port, "OPTIONS", f"{M}:predict").status == 400

    def test_no_cors_headers_without_the_option(self, port: int) -> None:
        answer = call(port, "GET", M, headers={"Origin": "http://a.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]

    def test_metrics_are_served_at_their_path(self, port: int) -> None:
        call(port, "POST", f"{M}:predict", b'{"instances": [1]}')
        answer = call(port, "GET", PROMETHEUS_PATH)
        assert answer.headers["content-type"] == "text/plain"
        assert (
            ':tensorflow:serving:request_latency_count{model_name="m",API="predict",entrypoint="REST"}' in answer.text
        )
        wrong = call(port, "GET", PROMETHEUS_PATH + "?x=1")
        assert (wrong.status, wrong.text) == (
            400,
            f"Unexpected path: {PROMETHEUS_PATH}?x=1. Should be {PROMETHEUS_PATH}",
        )

    def test_no_metrics_without_a_path(self) -> None:
        with running(MemoryCore(), rest_options(metrics_path=None)) as server:
            assert call(server.port, "GET", PROMETHEUS_PATH).status == 404

    def test_a_call_past_its_time_is_a_gateway_timeout(self) -> None:
        with running(MemoryCore(HalfPlusTwo("m", 1)), rest_options(timeout_s=0.1)) as server:
            answer = call(server.port, "POST", f"{M}:predict", b'{"signature_name": "slow", "instances": [1]}')
            assert (answer.status, answer.text) == (504, error("Timed out waiting for notification"))

    def test_a_taken_port_is_an_error_of_its_own(self, port: int) -> None:
        with pytest.raises(PortTakenError, match=f"port {port} is in use"):
            serve_rest(MemoryCore(), RestOptions("127.0.0.1", port, 1, None, False, None, MAX_BODY))

    def test_an_address_that_is_not_ours_is_an_error_of_its_own(self) -> None:
        with pytest.raises(ServerStartError, match="cannot listen on 203.0.113.1:0"):
            serve_rest(MemoryCore(), RestOptions("203.0.113.1", 0, 1, None, False, None, MAX_BODY))

    def test_every_address_is_served_without_a_host(self) -> None:
        options = RestOptions("", 0, 1, None, False, None, MAX_BODY)
        with running(MemoryCore(HalfPlusTwo("m", 1)), options) as server:
            assert call(server.port, "GET", M).status == 200


class TestStopping:
    @pytest.mark.parametrize("inline", [True, False])
    def test_a_slow_call_does_not_hold_up_others(self, *, inline: bool) -> None:
        model = HalfPlusTwo("m", 1)
        with running(MemoryCore(model), rest_options(inline=inline)) as server, ThreadPoolExecutor(1) as pool:
            slow = pool.submit(
                call, server.port, "POST", f"{M}:predict", b'{"signature_name": "slow", "instances": [1]}'
            )
            assert model.entered.wait(TIMEOUT_S)
            assert call(server.port, "GET", M).status == 200
            model.gate.set()
            assert slow.result(TIMEOUT_S).text == rows("2.5")

    def test_a_slow_signature_of_a_quick_model_does_not_hold_up_others(self) -> None:
        model = HalfPlusTwo("m", 1)
        with running(MemoryCore(model)) as server, ThreadPoolExecutor(1) as pool:
            for _ in range(50):
                assert call(server.port, "POST", f"{M}:predict", b'{"instances": [1]}').status == 200
            slow = pool.submit(
                call, server.port, "POST", f"{M}:predict", b'{"signature_name": "slow", "instances": [1]}'
            )
            assert model.entered.wait(TIMEOUT_S)
            assert call(server.port, "GET", M).status == 200
            model.gate.set()
            assert slow.result(TIMEOUT_S).text == rows("2.5")

    def test_a_request_in_flight_is_finished_and_new_ones_are_refused(self) -> None:
        model = HalfPlusTwo("m", 1)
        server = serve_rest(MemoryCore(model), rest_options())
        with ThreadPoolExecutor(2) as pool:
            slow = pool.submit(
                call, server.port, "POST", f"{M}:predict", b'{"signature_name": "slow", "instances": [1]}'
            )
            assert model.entered.wait(TIMEOUT_S)
            stopping = pool.submit(server.stop, 15.0)
            deadline = time.monotonic() + TIMEOUT_S
            while _accepts(server.port):
                assert time.monotonic() < deadline
            assert not stopping.done()
            model.gate.set()
            answer = slow.result(TIMEOUT_S)
            stopping.result(TIMEOUT_S)
        assert (answer.status, answer.text) == (200, rows("2.5"))

    def test_a_request_that_outlasts_the_grace_is_dropped(self) -> None:
        model = HalfPlusTwo("m", 1)
        server = serve_rest(MemoryCore(model), rest_options())
        with ThreadPoolExecutor(2) as pool:
            slow = pool.submit(
                call, server.port, "POST", f"{M}:predict", b'{"signature_name": "slow", "instances": [1]}'
            )
            assert model.entered.wait(TIMEOUT_S)
            pool.submit(server.stop, 0.3).result(TIMEOUT_S)
            assert slow.exception(TIMEOUT_S) is not None or slow.result().status >= 500
            model.gate.set()

    def test_stopping_an_idle_server_with_open_connections_is_quick(self) -> None:
        server = serve_rest(MemoryCore(HalfPlusTwo("m", 1)), rest_options())
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)) as connection:
            connection.sendall(b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            with ThreadPoolExecutor(1) as pool:
                # Not after its grace, which is longer than the test waits.
                pool.submit(server.stop, 3 * TIMEOUT_S).result(TIMEOUT_S)
            assert connection.recv(1) == b""
        assert not any(thread.name == "rest" for thread in threading.enumerate() if not thread.is_alive())


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False
