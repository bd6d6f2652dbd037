"""What TensorBoard's profiler gets of the server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from deployctl.protos.profiler_pb2 import (
    ProfileOptions,
    ProfileRequest,
    ProfileResponse,
    TerminateRequest,
    TerminateResponse,
    XSpace,
)
from tests.support.model_server import ROOT, ModelServerProcess, ModelServers
from tests.support.rest import call

TIMEOUT_S = 60.0
MODEL = ROOT / "tests/data/tensorflow_serving/saved_model_half_plus_two_cpu"
TRACE = """
import sys
import tensorflow as tf
tf.profiler.experimental.client.trace(sys.argv[1], sys.argv[2], 500, "", 10)
"""

pytestmark = [pytest.mark.tensorflow]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServerProcess]:
    servers = ModelServers(tmp_path_factory.mktemp("profiler"))
    try:
        yield servers.start("--model_name=m", f"--model_base_path={MODEL}")
    finally:
        servers.stop_all()


@pytest.fixture
def asked(server: ModelServerProcess) -> Iterator[None]:
    """Somebody asks the model all the time."""
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            call(server.rest_port, "POST", "/v1/models/m:predict", b'{"instances": [2.0]}')
            examples = b'{"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}]}'
            call(server.rest_port, "POST", "/v1/models/m:classify", examples)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    done.set()
    thread.join(TIMEOUT_S)


@pytest.fixture
def profile(server: ModelServerProcess) -> Iterator[Callable[..., Any]]:
    """Starts a trace in a directory, and returns the future of its answer."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        method = channel.unary_unary(
            "/tensorflow.ProfilerService/Profile",
            request_serializer=ProfileRequest.SerializeToString,
            response_deserializer=ProfileResponse.FromString,
        )

        def start(root: object, *, session: str = "one", host: str = "localhost:8500", ms: int = 200) -> Any:
            options = ProfileOptions(host_tracer_level=2, device_tracer_level=1, duration_ms=ms)
            request = ProfileRequest(opts=options, repository_root=str(root), session_id=session, host_name=host)
            return method.future(request, timeout=TIMEOUT_S)

        yield start


def refused(future: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError):
        future.result()
    return future.code(), future.details()


@pytest.mark.usefixtures("asked")
def test_tensorflows_own_client_gets_a_trace_with_the_models_operations(
    server: ModelServerProcess, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRACE, server.grpc_address, str(tmp_path)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )

    assert done.returncode == 0, done.stderr
    (trace,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    assert b"ParseExample" in trace.read_bytes()


@pytest.mark.usefixtures("asked")
def test_one_trace_after_another_is_written_where_the_client_says(profile: Callable[..., Any], tmp_path: Path) -> None:
    for session in ("one", "two"):
        assert not profile(tmp_path, session=session).result().empty_trace
        written = XSpace.FromString((tmp_path / session / "localhost_8500.xplane.pb").read_bytes())
        assert any(line.events for plane in written.planes for line in plane.lines)


def started(profile: Callable[..., Any], tmp_path: Path, session: str) -> tuple[Any, Any]:
    """Returns the call of a long trace that is under way, and one that was refused for it.

    The first may be refused instead: calls overtake each other.
    """
    while True:
        first = profile(tmp_path, session=session, ms=3_600_000)
        while not first.done():
            second = profile(tmp_path, session="second", ms=1)
            if second.exception() is not None:
                return first, second


def test_a_trace_ends_when_its_client_says_so_and_there_is_one_at_a_time(
    server: ModelServerProcess, profile: Callable[..., Any], tmp_path: Path
) -> None:
    first, second = started(profile, tmp_path, "first")
    assert (second.code(), second.details()) == (grpc.StatusCode.INTERNAL, "Another profiling session active.")
    with grpc.insecure_channel(server.grpc_address) as channel:
        terminate = channel.unary_unary(
            "/tensorflow.ProfilerService/Terminate",
            request_serializer=TerminateRequest.SerializeToString,
            response_deserializer=TerminateResponse.FromString,
        )
        terminate(TerminateRequest(session_id="another"), timeout=TIMEOUT_S)
        assert not first.done()
        terminate(TerminateRequest(session_id="first"), timeout=TIMEOUT_S)
    first.result()
    assert (tmp_path / "first" / "localhost_8500.xplane.pb").exists()


def test_a_trace_whose_client_has_left_ends_and_leaves_nothing(profile: Callable[..., Any], tmp_path: Path) -> None:
    left = profile(tmp_path, session="left", ms=3_600_000)
    left.cancel()
    deadline = time.monotonic() + TIMEOUT_S
    while profile(tmp_path, session="next", ms=1).exception() is not None:
        assert time.monotonic() < deadline
    assert not (tmp_path / "left").exists()


@pytest.mark.parametrize(
    ("session", "host"), [("..", "x"), ("a/b", "x"), ("", "x"), ("a", "../x"), ("a", ""), ("/tmp", "x")]
)
def test_names_that_lead_elsewhere_are_refused(
    profile: Callable[..., Any], tmp_path: Path, session: str, host: str
) -> None:
    code, words = refused(profile(tmp_path / "inner", session=session, host=host))
    assert code is grpc.StatusCode.INTERNAL
    assert words.startswith("Cannot write a trace of session")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", ["", "gs://bucket/logs"])
def test_traces_are_written_to_directories_only(profile: Callable[..., Any], root: str) -> None:
    assert refused(profile(root))[1] == f"Cannot write a trace to {root!r}: only to directories of this machine"


def test_a_directory_that_cannot_be_written_is_told(profile: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    code, words = refused(profile(tmp_path / "file"))
    assert (code, words.rpartition(": ")[2]) == (grpc.StatusCode.INTERNAL, "Not a directory")


def test_a_flag_turns_it_off(model_servers: ModelServers, tmp_path: Path) -> None:
    server = model_servers.start("--model_name=m", f"--model_base_path={MODEL}", "--enable_profiler=false")
    with grpc.insecure_channel(server.grpc_address) as channel:
        method = channel.unary_unary("/tensorflow.ProfilerService/Profile")
        assert refused(method.future(b"", timeout=TIMEOUT_S))[0] is grpc.StatusCode.UNIMPLEMENTED
