"""Paths, bodies and codes without a socket."""

from __future__ import annotations

import gzip
import json
import os
import re

import pytest

from deployctl.modelserver.interface import Code, ModelSpec, StatusError, VersionReport
from deployctl.modelserver.json_outputs import metadata_json, status_json
from deployctl.modelserver.metrics import Counter, Histogram, Metrics
from deployctl.modelserver.rest_routes import (
    HTTP_STATUS,
    Reply,
    RestRoutes,
    Route,
    is_api_path,
    parse_route,
    uncompressed,
)
from tests.support.memory_core import HalfPlusTwo, MemoryCore

MODEL = "saved_model_half_plus_two"


def routes(metrics: Metrics | None = None) -> RestRoutes:
    core = MemoryCore(HalfPlusTwo(MODEL, 122), HalfPlusTwo(MODEL, 123), labels={(MODEL, "stable"): 122})
    return RestRoutes(core, metrics or Metrics(), timeout_s=0.2)


def post(path: str, body: str | bytes) -> Reply:
    return routes().answer(parse_route("POST", path), body.encode() if isinstance(body, str) else body)


@pytest.mark.parametrize("path", ["/v1/models", "/V1/x", "/v1/"])
def test_only_paths_below_v1_belong_to_the_api(path: str) -> None:
    assert is_api_path(path)
    assert not is_api_path("/statuspage")
    assert not is_api_path("/v1")
    assert not is_api_path("/x" + path)


@pytest.mark.parametrize(
    ("method", "path", "call", "spec"),
    [
        ("POST", "/v1/models/m:predict", "predict", ModelSpec("m")),
        ("POST", "/V1/MODELS/M:predict", "predict", ModelSpec("M")),
        ("POST", "/v1/models/m/versions/7:classify", "classify", ModelSpec("m", 7)),
        ("POST", "/v1/models/m/VERSIONS/007:classify", "classify", ModelSpec("m", 7)),
        ("POST", "/v1/models/m/versions/9223372036854775807:predict", "predict", ModelSpec("m", 2**63 - 1)),
        ("POST", "/v1/models/m/labels/stable:regress", "regress", ModelSpec("m", None, "stable")),
        ("POST", "/v1/models/a%2Fb%3Ac/labels/my%20label:predict", "predict", ModelSpec("a/b:c", None, "my label")),
        ("POST", "/v1/models/100%25%zz:predict", "predict", ModelSpec("100%%zz")),
        ("GET", "/v1/models/m", "status", ModelSpec("m")),
        ("GET", "/v1/models/m/versions/3", "status", ModelSpec("m", 3)),
        ("GET", "/v1/models/m/labels/x", "status", ModelSpec("m", None, "x")),
        ("GET", "/v1/models/m/metadata", "metadata", ModelSpec("m")),
        ("GET", "/v1/models/m/versions/3/metadata", "metadata", ModelSpec("m", 3)),
        ("GET", "/v1/models/m/METADATA", "status", ModelSpec("m")),
        ("GET", "/v1/models/m?verbose=1", "status", ModelSpec("m?verbose=1")),
    ],
)
def test_a_path_names_a_call_and_a_servable(method: str, path: str, call: str, spec: ModelSpec) -> None:
    assert parse_route(method, path) == Route(call, spec)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/foo"),
        ("POST", "/v1/foo"),
        ("GET", "/v1/models/debug/model_name"),
        ("POST", "/v1/models"),
        ("GET", "/v1/models/foo:predict"),
        ("GET", "/v1/models/foo/version/50:predict"),
        ("POST", "/v1/models/foo/version/50:regress"),
        ("POST", "/v1/models/foo/versions/HELLO:regress"),
        ("POST", "/v1/models/foo/versions/-1:regress"),
        ("POST", "/v1/models/foo/versions/\u0661:regress"),
        ("POST", "/v1/models/foo/metadata"),
        ("POST", "/v1/models/foo/label/some_label:regress"),
        ("POST", "/v1/models/foo/versions/50/labels/some_label:regress"),
        ("POST", "/v1/models/foo:predict/"),
        ("POST", "/v1/models/foo:predict?x=1"),
        ("POST", "/v1/models/foo:PREDICT"),
        ("POST", "/v1/models/foo:multi_inference"),
        ("GET", "/v1/models/foo/"),
        ("HEAD", "/v1/models/foo"),
        ("PUT", "/v1/models/foo:predict"),
        ("DELETE", "/v1/models/foo"),
        ("OPTIONS", "/v1/models/foo:predict"),
    ],
)
def test_any_other_path_is_malformed(method: str, path: str) -> None:
    with pytest.raises(StatusError, match=re.escape(f"Malformed request: {method} {path}")) as caught:
        parse_route(method, path)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/metadata/metadata/", "/v1/models/versions/1"])
def test_a_read_needs_a_model(path: str) -> None:
    with pytest.raises(StatusError, match=r"Missing model name in request\.|Malformed"):
        parse_route("GET", path)


@pytest.mark.parametrize("version", [str(2**63), str(2**64), "9" * 5000])
def test_a_version_beyond_int64_is_refused(version: str) -> None:
    with pytest.raises(StatusError, match="Failed to convert version: 9.* to numeric|Failed to convert version: 1844"):
        parse_route("POST", f"/v1/models/foo/versions/{version}:regress")


def test_every_code_has_its_http_status() -> None:
    assert set(HTTP_STATUS) == set(Code)


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_a_calls_error_becomes_a_reply(code: Code) -> None:
    reply = post(f"/v1/models/{MODEL}:predict", f'{{"signature_name": "failing", "inputs": [{code.value}]}}')
    assert reply == Reply(HTTP_STATUS[code], b'{\n    "error": "as asked: \\"quoted\\"\\n"\n}')


def test_a_fault_of_ours_is_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    reply = post(f"/v1/models/{MODEL}:predict", '{"signature_name": "hostile", "inputs": [1]}')
    assert reply.status == 500
    assert json.loads(reply.body) == {"error": "RuntimeError: a fault of ours"}
    assert "predict of saved_model_half_plus_two failed" in caplog.text


def test_a_call_past_its_time_is_a_gateway_timeout() -> None:
    assert post(f"/v1/models/{MODEL}:predict", '{"signature_name": "slow", "inputs": [1]}').status == 504


def test_the_document_is_read_before_the_model_is_looked_up() -> None:
    assert post("/v1/models/none:predict", "").status == 400
    missing = post("/v1/models/none:predict", '{"inputs": 1}')
    assert missing.status == 404
    assert json.loads(missing.body) == {"error": "Servable not found for request: Latest(none)"}


def test_an_unknown_signature_is_named() -> None:
    reply = post(f"/v1/models/{MODEL}:predict", '{"signature_name": "nope", "inputs": 1}')
    assert json.loads(reply.body) == {"error": 'Serving signature name: "nope" not found in signature def'}


def test_versions_and_labels_choose_the_servable() -> None:
    for which in ("", "/versions/122", "/labels/stable"):
        reply = post(f"/v1/models/{MODEL}{which}:predict", '{"instances": [1.0, 2.0]}')
        assert reply.body == b'{\n    "predictions": [2.5, 3.0\n    ]\n}'


def test_status_is_printed_as_protobuf_prints_it() -> None:
    from deployctl.domain.serving import VersionState

    reports = (
        VersionReport(2, VersionState.LOADING),
        VersionReport(1, VersionState.END, Code.NOT_FOUND, 'no "file"'),
    )
    assert status_json(reports).decode() == (
        '{\n "model_version_status": [\n'
        '  {\n   "version": "2",\n   "state": "LOADING",\n   "status": {\n'
        '    "error_code": "OK",\n    "error_message": ""\n   }\n  },\n'
        '  {\n   "version": "1",\n   "state": "END",\n   "status": {\n'
        '    "error_code": "NOT_FOUND",\n    "error_message": "no \\"file\\""\n   }\n  }\n ]\n}\n'
    )


def test_metadata_that_does_not_parse_is_an_internal_error() -> None:
    with pytest.raises(StatusError) as caught:
        metadata_json("m", 1, b"\xff\xff")
    assert caught.value.code is Code.INTERNAL


def test_a_gzip_body_is_unpacked_up_to_the_limit() -> None:
    assert uncompressed(gzip.compress(b"a" * 1000), limit=1000) == b"a" * 1000
    with pytest.raises(OverflowError):
        uncompressed(gzip.compress(b"a" * 1_000_000), limit=1000)
    for broken in (b"plain", gzip.compress(b"a" * 1000)[:-9], b""):
        with pytest.raises(StatusError, match="uncompress"):
            uncompressed(broken, limit=1000)


class TestMetrics:
    def test_requests_are_counted_by_model_and_code(self) -> None:
        metrics = Metrics()
        served = routes(metrics)
        for body in (b'{"inputs": [1]}', b'{"inputs": [2]}', b"{"):
            served.answer(Route("predict", ModelSpec(MODEL)), body)
        served.answer(Route("status", ModelSpec("none")), b"")
        page = metrics.render().decode()
        assert "# TYPE :tensorflow:serving:request_count counter\n" in page
        assert f':tensorflow:serving:request_count{{model_name="{MODEL}",status="OK"}} 2\n' in page
        assert f':tensorflow:serving:request_count{{model_name="{MODEL}",status="INVALID_ARGUMENT"}} 1\n' in page
        assert ':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"} 1\n' in page
        latency = f':tensorflow:serving:request_latency_count{{model_name="{MODEL}",API="predict",entrypoint="REST"}} 2'
        assert latency in page
        assert "# HELP" not in page

    def test_labels_are_escaped_and_the_page_is_utf_8(self) -> None:
        metrics = Metrics()
        metrics.loaded(os.fsdecode(b'/models/\xff"\\\n/1'), succeeded=False, micros=1)

        page = metrics.render().decode("utf-8")

        assert '{model_path="/models/\ufffd\\"\\\\\\n/1",status="fail"} 1' in page

    def test_a_histogram_prints_cumulative_buckets(self) -> None:
        histogram = Histogram("/a/b", "l", buckets=(1.0, 2.0, 3))
        for value in (0.5, 1.0, 3.0, 4.0):
            histogram.add(value, 'x"\\')
        assert histogram.lines() == [
            "# TYPE :a:b histogram",
            ':a:b_bucket{l="x\\"\\\\",le="1"} 1',
            ':a:b_bucket{l="x\\"\\\\",le="2"} 2',
            ':a:b_bucket{l="x\\"\\\\",le="4"} 3',
            ':a:b_bucket{l="x\\"\\\\",le="+Inf"} 4',
            ':a:b_sum{l="x\\"\\\\"} 8.5',
            ':a:b_count{l="x\\"\\\\"} 4',
        ]

    def test_the_limits_of_latency_are_upstreams(self) -> None:
        metrics = Metrics()
        metrics.request_timed("m", api="predict", entrypoint="REST", micros=100)
        limits = re.findall(r'request_latency_bucket\{[^}]*le="([^"]*)"', metrics.render().decode())
        assert limits[:6] == ["10", "18", "32.4", "58.32", "104.976", "188.957"]
        assert len(limits) == 34
        assert limits[-1] == "+Inf"

    def test_every_metric_is_listed_before_it_has_a_value(self) -> None:
        names = re.findall(r"^# TYPE (\S+) (\w+)$", Metrics().render().decode(), re.MULTILINE)
        assert names == sorted(names)
        assert (":tensorflow:cc:saved_model:load_attempt_count", "counter") in names
        assert (":tensorflow:serving:model_warmup_latency", "histogram") in names

    def test_loads_warm_ups_and_examples_are_recorded(self) -> None:
        metrics = Metrics()
        metrics.loaded("/models/m/1", succeeded=True, micros=54436)
        metrics.loaded("/models/m/2", succeeded=False, micros=1)
        metrics.warmed_up("/models/m/1", status="OK", micros=5.0)
        metrics.examples_received("m", 3)
        metrics.runtime_timed("m", api="Predict", runtime="TF1", micros=5.0)
        page = metrics.render().decode()
        assert ':tensorflow:cc:saved_model:load_attempt_count{model_path="/models/m/1",status="success"} 1' in page
        assert ':tensorflow:cc:saved_model:load_attempt_count{model_path="/models/m/2",status="fail"} 1' in page
        assert ':tensorflow:cc:saved_model:load_latency{model_path="/models/m/1"} 54436' in page
        assert ':tensorflow:serving:request_example_count_total{model="m"} 3' in page

    def test_clients_cannot_add_label_values_without_end(self) -> None:
        counter = Counter("/c", "model")
        for number in range(20_000):
            counter.add(1, str(number))
        assert len(counter.lines()) < 11_000
