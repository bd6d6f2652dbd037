from __future__ import annotations

import pytest

from deployctl.domain.names import ModelName
from deployctl.errors import ServerError
from deployctl.serving.interface import RequestCounts
from deployctl.serving.request_counts import parse_counts

HALF = ModelName("half")

PAGE = """# TYPE :tensorflow:serving:request_count counter
:tensorflow:serving:request_count{model_name="half",status="OK"} 90
:tensorflow:serving:request_count{model_name="half",status="INVALID_ARGUMENT"} 10
:tensorflow:serving:request_count{model_name="other",status="OK"} 7
# TYPE :tensorflow:serving:request_latency histogram
:tensorflow:serving:request_latency_bucket{model_name="half",API="predict",entrypoint="REST",le="10"} 0
:tensorflow:serving:request_latency_sum{model_name="half",API="predict",entrypoint="REST"} 1.5e+06
:tensorflow:serving:request_latency_count{model_name="half",API="predict",entrypoint="REST"} 60
:tensorflow:serving:request_latency_sum{model_name="half",API="predict",entrypoint="GRPC"} 500000
:tensorflow:serving:request_latency_count{model_name="half",API="predict",entrypoint="GRPC"} 30
"""


def test_counts_of_one_model_are_summed_over_apis_and_statuses() -> None:
    assert parse_counts(PAGE)[HALF] == RequestCounts(total=100, failed=10, latency_s=2.0, timed=90)


def test_a_model_that_nobody_called_has_none() -> None:
    assert ModelName("hal") not in parse_counts(PAGE)
    assert parse_counts("") == {}


def test_what_is_no_number_is_an_error() -> None:
    with pytest.raises(ServerError, match="'many'"):
        parse_counts(':tensorflow:serving:request_count{model_name="half",status="OK"} many')
