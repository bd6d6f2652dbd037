"""tensorflow.ProfilerService: what TensorBoard's profiler asks of a server (tsl/profiler/rpc/profiler_service_impl.cc).

TensorFlow's C API has no profiler. Its wheel has one in an extension module of Python's that needs nothing of
TensorFlow's Python package, and that sees the C library of this process.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from deployctl.modelserver.capi import library_directory
from deployctl.modelserver.interface import Code, StatusError
from deployctl.protos.profiler_pb2 import ProfileRequest, ProfileResponse, TerminateRequest, TerminateResponse, XSpace

logger = logging.getLogger(__name__)

_MODULE = "_pywrap_profiler"
# How soon a cancelled or terminated trace ends.
_POLL_S = 0.05
_LONGEST_S = 3600.0


def profiler_handlers(stopped: threading.Event) -> grpc.GenericRpcHandler:
    """Returns the handlers of Profile and Terminate; traces end when `stopped` is set."""
    profiler = Profiler(stopped)

    def profile(request: ProfileRequest, context: grpc.ServicerContext) -> ProfileResponse:
        try:
            return profiler.profile(request, context.is_active)
        except StatusError as error:
            logger.warning("profiling failed: %s", error.message)
            unimplemented = error.code is Code.UNIMPLEMENTED
            context.abort(grpc.StatusCode.UNIMPLEMENTED if unimplemented else grpc.StatusCode.INTERNAL, error.message)
            raise AssertionError("abort raises") from error

    def terminate(request: TerminateRequest, _: grpc.ServicerContext) -> TerminateResponse:
        profiler.terminate(request.session_id)
        return TerminateResponse()

    return grpc.method_handlers_generic_handler(
        "tensorflow.ProfilerService",
        {
            "Profile": grpc.unary_unary_rpc_method_handler(
                profile, ProfileRequest.FromString, ProfileResponse.SerializeToString
            ),
            "Terminate": grpc.unary_unary_rpc_method_handler(
                terminate, TerminateRequest.FromString, TerminateResponse.SerializeToString
            ),
        },
    )


class Profiler:
    """Traces what TensorFlow does in this process, for one client at a time."""

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped = stopped
        self._tracing = threading.Lock()
        self._session_id = ""
        self._terminated = threading.Event()
        self._module: Any = None

    def profile(self, request: ProfileRequest, wanted: Callable[[], bool]) -> ProfileResponse:
        """Traces for as long as asked, or until `wanted` is False, and writes the trace where asked.

        Raises:
            StatusError: UNIMPLEMENTED where this TensorFlow has no profiler, INTERNAL for the rest.
        """
        target = _target(request)
        # TensorFlow has one tracer for the process; to ask for a second one ends it.
        if not self._tracing.acquire(blocking=False):
            raise StatusError(Code.INTERNAL, "Another profiling session active.")
        try:
            self._terminated.clear()
            self._session_id = request.session_id
            with tempfile.TemporaryDirectory(prefix="deployctl-trace-") as directory:
                trace = self._trace(request, wanted, directory)
        finally:
            self._session_id = ""
            self._tracing.release()
        if wanted():
            _write(target, trace)
        return ProfileResponse(empty_trace=_is_empty(trace))

    def terminate(self, session_id: str) -> None:
        """Ends the trace of that session, if it is the one under way."""
        if session_id == self._session_id:
            self._terminated.set()

    def _trace(self, request: ProfileRequest, wanted: Callable[[], bool], directory: str) -> bytes:
        if self._module is None:
            self._module = _load()
        session = self._module.ProfilerSession()
        # Python's own tracer would slow down every thread of the server.
        options = {
            "host_tracer_level": request.opts.host_tracer_level,
            "device_tracer_level": request.opts.device_tracer_level,
            "python_tracer_level": 0,
        }
        try:
            session.start(directory, options)
        except RuntimeError as error:
            raise StatusError(Code.INTERNAL, str(error)) from error
        deadline = time.monotonic() + min(request.opts.duration_ms / 1000, _LONGEST_S)
        while wanted() and not self._stopped.is_set():
            left = deadline - time.monotonic()
            if left <= 0 or self._terminated.wait(min(left, _POLL_S)):
                break
        # Only to a directory does it write the form that TensorBoard reads.
        try:
            session.export_to_tb()
        except RuntimeError as error:
            raise StatusError(Code.INTERNAL, str(error)) from error
        return b"".join(path.read_bytes() for path in Path(directory).rglob("*.xplane.pb"))


def _load() -> Any:
    path = library_directory() / "python" / "profiler" / "internal" / f"{_MODULE}.so"
    loader = importlib.machinery.ExtensionFileLoader(_MODULE, str(path))
    spec = importlib.util.spec_from_loader(_MODULE, loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise StatusError(Code.UNIMPLEMENTED, f"This TensorFlow has no profiler: {error}") from error
    return module


def _target(request: ProfileRequest) -> Path:
    """Where the trace is to be: <repository_root>/<session>/<host>.xplane.pb, as TensorBoard looks for it.

    The client says where, as upstream lets it; but its names for the session and the host stay names.
    """
    root, names = request.repository_root, (request.session_id, request.host_name)
    if not root or "://" in root:
        raise StatusError(Code.INTERNAL, f"Cannot write a trace to {root!r}: only to directories of this machine")
    for name in names:
        if not name or "/" in name or name in {".", ".."}:
            raise StatusError(Code.INTERNAL, f"Cannot write a trace of session {names[0]!r} and host {names[1]!r}")
    return Path(root, request.session_id, f"{request.host_name}.xplane.pb".replace(":", "_"))


def _write(target: Path, trace: bytes) -> None:
    logger.info("writing a trace to %s", target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(trace)
    except OSError as error:
        raise StatusError(Code.INTERNAL, f"Cannot write {target}: {error.strerror}") from error


def _is_empty(trace: bytes) -> bool:
    return not any(line.events for plane in XSpace.FromString(trace).planes for line in plane.lines)
