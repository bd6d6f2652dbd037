"""The server's command line."""

from __future__ import annotations

import os
from dataclasses import asdict
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


CPUS = os.cpu_count() or 1
# tensorflow_serving/model_servers/main.cc, with the defaults of Server::Options.
UPSTREAM = {
    "port": 8500, "grpc_socket_path": "", "rest_api_port": 0, "rest_api_num_threads": 4 * CPUS,
    "rest_api_timeout_in_ms": 30000, "rest_api_enable_cors_support": False, "enable_batching": False,
    "batching_parameters_file": "", "enable_per_model_batching_parameters": False,
    "allow_version_labels_for_unavailable_models": False, "model_config_file": "",
    "model_config_file_poll_wait_seconds": 0, "model_name": "default", "model_base_path": "", "num_load_threads": 0,
    "num_unload_threads": 0, "max_num_load_retries": 5, "load_retry_interval_micros": 60_000_000,
    "file_system_poll_wait_seconds": 1, "flush_filesystem_caches": True, "tensorflow_session_parallelism": 0,
    "tensorflow_intra_op_parallelism": 0, "tensorflow_inter_op_parallelism": 0, "tensorflow_session_config_file": "",
    "platform_config_file": "", "use_alts_credentials": False, "ssl_config_file": "",
    "per_process_gpu_memory_fraction": 0.0, "saved_model_tags": "serve", "grpc_channel_arguments": "",
    "grpc_max_threads": 4 * CPUS, "enable_model_warmup": True, "num_request_iterations_for_warmup": 0,
    "version": False, "monitoring_config_file": "", "remove_unused_fields_from_bundle_metagraph": True,
    "prefer_tflite_model": False, "num_tflite_pools": CPUS, "num_tflite_interpreters_per_pool": 1,
    "enable_signature_method_name_check": False, "xla_cpu_compilation_enabled": False,
    "xla_gpu_compilation_enabled": False, "enable_profiler": True, "thread_pool_factory_config_file": "",
    "mixed_precision": "", "skip_initialize_tpu": False, "enable_grpc_healthcheck_service": False,
    "enable_serialization_as_tensor_content": False,
}  # fmt: skip
OURS = {"host", "load_timeout", "drain_timeout"}


def test_every_flag_of_tensorflow_serving_has_its_default_and_there_are_three_of_ours() -> None:
    flags = asdict(parse_flags([]))

    assert {name: flags.pop(name) for name in UPSTREAM} == UPSTREAM
    assert flags.keys() == OURS


@pytest.mark.parametrize("name", UPSTREAM)
def test_every_flag_of_tensorflow_serving_is_accepted_with_a_value(name: str) -> None:
    default = UPSTREAM[name]
    given: Any = not default if isinstance(default, bool) else "a=7" if isinstance(default, str) else 7

    assert getattr(parse_flags([f"--{name}={str(given).lower()}"]), name) == given


@pytest.mark.parametrize(("host", "address"), [("::1", "[::1]:80"), ("[::1]", "[::1]:80"), ("a.b", "a.b:80")])
def test_an_ipv6_host_is_in_brackets_before_its_port(host: str, address: str) -> None:
    assert parse_flags([f"--host={host}"]).address(80) == address


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prot=1"], "unknown argument: --prot=1"),
        (["port=1"], "unknown argument: port=1"),
        (["-port=1"], "unknown argument: -port=1"),
        (["--port"], "--port needs a value"),
        (["--port=x"], "--port: 'x' is not of type int"),
        (["--enable_batching=maybe"], "--enable_batching: 'maybe' is not of type bool"),
        (["--drain_timeout=nan"], "--drain_timeout: 'nan' is not of type float"),
        (["--grpc_channel_arguments=a=1,foo"], "--grpc_channel_arguments: 'foo' is not key=value"),
        (["--enable_batching", "true"], "unknown argument: true"),
    ],
)
def test_refuses(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_flags(words)

    assert str(raised.value) == message
    assert raised.value.hint == "deployctl-model-server --help"


def test_flags_that_change_nothing_here_are_named() -> None:
    flags = parse_flags(["--use_alts_credentials", "--skip_initialize_tpu", "--port=1", "--enable_profiler=true"])

    assert flags.without_effect() == ("use_alts_credentials", "skip_initialize_tpu")


def test_channel_arguments_are_numbers_or_text() -> None:
    text = "grpc.max_connection_age_ms=2000,grpc.lb_policy_name=grpclb,big=99999999999,odd=\u00b2"

    assert channel_arguments(text) == (
        ("grpc.max_connection_age_ms", 2000),
        ("grpc.lb_policy_name", "grpclb"),
        ("big", "99999999999"),
        ("odd", "\u00b2"),
    )


def test_help_has_a_line_for_every_flag() -> None:
    assert "--rest_api_timeout_in_ms=30000" in usage()
    assert "--drain_timeout" in usage()
