"""The server's command line."""

from __future__ import annotations

from typing import Any

import pytest

from deployctl.errors import UsageError
from deployctl.modelserver.flags import channel_arguments, parse_flags, usage


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ([], "port", 8500),
        ([], "model_name", "default"),
        ([], "max_num_load_retries", 5),
        ([], "load_retry_interval_micros", 60_000_000),
        ([], "host", "127.0.0.1"),
        (["--port=1"], "port", 1),
        (["--port", "1"], "port", 1),
        (["--port=1", "--port=2"], "port", 2),
        (["--load_retry_interval_micros=-1"], "load_retry_interval_micros", -1),
        (["--model_base_path=/a=b"], "model_base_path", "/a=b"),
        (["--enable_batching"], "enable_batching", True),
        (["--enable_batching=true"], "enable_batching", True),
        (["--enable_batching=0"], "enable_batching", False),
        (["--enable_model_warmup=false"], "enable_model_warmup", False),
        (["--load_timeout=1.5"], "load_timeout", 1.5),
        (["--enable_batching", "--port=3"], "port", 3),
    ],
)
def test_reads(words: list[str], name: str, value: Any) -> None:
    assert getattr(parse_flags(words), name) == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prot=1"], "unknown argument: --prot=1"),
        (["port=1"], "unknown argument: port=1"),
        (["-port=1"], "unknown argument: -port=1"),
        (["--port"], "--port needs a value"),
        (["--port=x"], "--port: 'x' is not of type int"),
        (["--enable_batching=maybe"], "--enable_batching: 'maybe' is not of type bool"),
        (["--enable_batching", "true"], "unknown argument: true"),
    ],
)
def test_refuses(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_flags(words)

    assert str(raised.value) == message


def test_flags_that_change_nothing_here_are_named() -> None:
    flags = parse_flags(["--use_alts_credentials", "--mixed_precision=bfloat16", "--port=1", "--enable_profiler=true"])

    assert flags.without_effect() == ("use_alts_credentials", "mixed_precision")


def test_channel_arguments_are_numbers_or_text() -> None:
    text = "grpc.max_connection_age_ms=2000,grpc.lb_policy_name=grpclb,big=99999999999"

    assert channel_arguments(text) == (
        ("grpc.max_connection_age_ms", 2000),
        ("grpc.lb_policy_name", "grpclb"),
        ("big", "99999999999"),
    )


def test_help_has_a_line_for_every_flag() -> None:
    assert "--rest_api_timeout_in_ms=30000" in usage()
    assert "--drain_timeout" in usage()
