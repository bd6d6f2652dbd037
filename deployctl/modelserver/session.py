"""A SavedModel loaded into a TensorFlow session, and calls of it."""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployctl.modelserver import wire
from deployctl.modelserver.background import in_background
from deployctl.modelserver.capi import Buffer, CApi, Output, c_api
from deployctl.modelserver.costs import RecentCosts
from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.runner import Runner
from deployctl.modelserver.signatures import LoadedSignatures, read_signatures
from deployctl.modelserver.tensors import TensorConverter
from deployctl.modelserver.text_ops import text_ops

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Tensor

# tensorflow.RunOptions (tensorflow/core/protobuf/config.proto)
_TIMEOUT_IN_MS, _INTER_OP_THREAD_POOL = 2, 3
# inter_op_thread_pool: -1, which runs a graph in the calling thread; negative numbers are encoded as 64 bits.
_IN_CALLERS_THREAD = wire.varint(_INTER_OP_THREAD_POOL << 3) + wire.varint(2**64 - 1)
# Operations that repeat or wait, so that the shapes of the inputs do not bound how long a call takes.
_UNBOUNDED = re.compile(rb"While|NextIteration|Dequeue|Stage|Barrier|Iterator|PyFunc|Dataset")
_LONGEST_NAME = len("NextIteration")
_PIECE_BYTES = 1 << 16
# tensorflow/core/framework/op.cc
_UNKNOWN_OP = "Op type not registered"
# Output filters make new combinations of a signature's outputs.
_MOST_ENDS = 1024
# tensorflow.ConfigProto
_INTRA_OP_THREADS, _INTER_OP_THREADS = 2, 5


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How sessions are made.

    Attributes:
        tags: the MetaGraph's tag set.
        intra_op_threads: threads inside one operation; 0 lets TensorFlow choose.
        inter_op_threads: operations at the same time; 0 lets TensorFlow choose.
        config: a serialized tensorflow.ConfigProto to which the above are added.
    """

    tags: tuple[str, ...] = ("serve",)
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    config: bytes = b""

    @property
    def config_proto(self) -> bytes:
        """The serialized tensorflow.ConfigProto."""
        config = self.config
        for number, value in ((_INTRA_OP_THREADS, self.intra_op_threads), (_INTER_OP_THREADS, self.inter_op_threads)):
            if value:
                config += wire.varint(number << 3) + wire.varint(value)
        return config


@dataclass(frozen=True, slots=True)
class _Ends:
    """The graph's ends of one combination of feeds and fetches, as TF_SessionRun takes them."""

    inputs: ctypes.Array[Output]
    outputs: ctypes.Array[Output]


class Session(Runner):
    """One loaded MetaGraph. Calls may come from any thread; the GIL is free while TensorFlow works.

    A call that has lately been quick runs in the calling thread: handing a graph to TensorFlow's threads takes longer
    than a small graph. There a time limit is not enforced, so graphs that may loop or wait never run that way.
    """

    def __init__(self, directory: str, options: SessionOptions, *, background: bool = False) -> None:
        """Loads `directory`, with `background` behind whatever else wants the processors.

        Raises:
            StatusError: TensorFlow's own code and words.
        """
        self._api = c_api()
        self._converter = TensorConverter(self._api)
        self._lock = threading.Lock()
        self._ends: dict[tuple[tuple[str, ...], tuple[str, ...]], _Ends] = {}
        self._costs = RecentCosts()
        self._graph: int = self._api.new_graph()
        try:
            self._session, self._signatures, self._bounded = _load(
                self._api, self._graph, directory, options, background=background
            )
        except BaseException:
            self._api.delete_graph(self._graph)
            raise
        self._in_callers_thread = self._api.new_buffer_from_string(_IN_CALLERS_THREAD, len(_IN_CALLERS_THREAD))
        self._closed = False

    @property
    def signatures(self) -> LoadedSignatures:
        """The signatures of the MetaGraph."""
        return self._signatures

    def run(
        self, feeds: Sequence[tuple[str, Tensor]], fetches: Sequence[str], *, timeout_s: float | None
    ) -> list[Tensor]:
        """Runs the graph."""
        names = tuple([name for name, _ in feeds]), tuple(fetches)
        ends = self._ends.get(names) or self._resolve_ends(names)
        kind = (names, sum([value.nbytes for _, value in feeds]).bit_length())
        inline = self._bounded and self._costs.quick(kind)
        options = self._in_callers_thread if inline else None
        started, busy = time.perf_counter(), time.thread_time()
        if inline or timeout_s is None:
            results = self._run(ends, feeds, options)
        else:
            options = _time_limit(self._api, timeout_s)
            try:
                results = self._run(ends, feeds, options)
            finally:
                self._api.delete_buffer(options)
        inline_busy = time.thread_time() - busy if inline else None
        self._costs.record(kind, time.perf_counter() - started, inline_busy=inline_busy)
        return results

    def _run(self, ends: _Ends, feeds: Sequence[tuple[str, Tensor]], options: object) -> list[Tensor]:
        api = self._api
        fetched = len(ends.outputs)
        values = (ctypes.c_void_p * len(feeds))()
        results = (ctypes.c_void_p * fetched)()
        try:
            for index, (_, value) in enumerate(feeds):
                values[index] = self._converter.to_tensorflow(value)
            status = api.new_status()
            api.session_run(
                self._session,
                options,
                ends.inputs,
                values,
                len(feeds),
                ends.outputs,
                results,
                fetched,
                None,
                0,
                None,
                status,
            )
            api.raise_for(status)
        finally:
            for handle in values:
                if handle:
                    api.delete_tensor(handle)
        return [self._converter.to_numpy(result) for result in results if result is not None]

    def close(self) -> None:
        """Frees the session, its graph and its variables, and gives the memory back to the system."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        api = self._api
        for end in (api.close_session, api.delete_session):
            status = api.new_status()
            end(self._session, status)
            # Closing releases everything even when it reports an error, and there is nobody to tell.
            api.delete_status(status)
        api.delete_graph(self._graph)
        api.delete_buffer(self._in_callers_thread)
        return_memory()

    def element_type(self, name: str) -> int:
        """Returns the DataType of the tensor `name` ("x:0").

        Raises:
            StatusError: the graph has no such tensor.
        """
        number: int = self._api.output_type(self._resolve(name))
        return number

    def _resolve_ends(self, names: tuple[tuple[str, ...], tuple[str, ...]]) -> _Ends:
        inputs, outputs = names
        ends = _Ends(
            (Output * len(inputs))(*map(self._resolve, inputs)), (Output * len(outputs))(*map(self._resolve, outputs))
        )
        if len(self._ends) < _MOST_ENDS:
            self._ends[names] = ends
        return ends

    def _resolve(self, name: str) -> Output:
        operation, _, index = name.partition(":")
        pointer = self._api.operation_by_name(self._graph, operation.encode())
        if not operation or not pointer:
            raise StatusError(Code.NOT_FOUND, f"Tensor {name or '(unnamed)'}, specified in the signature, not found")
        number = int(index or 0)
        if number >= self._api.operation_num_outputs(pointer):
            raise StatusError(Code.INVALID_ARGUMENT, f"Tensor {name} has no such output")
        return Output(pointer, number)


def return_memory() -> None:
    """Gives freed memory back to the system: glibc keeps it for the next allocation otherwise.

    Without it a server that has unloaded a large version stays as large as it was.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _load(
    api: CApi, graph: int, directory: str, options: SessionOptions, *, background: bool
) -> tuple[int, LoadedSignatures, bool]:
    """Returns the session, its signatures, and whether the inputs' shapes bound how long a call takes."""
    try:
        return _load_once(api, graph, directory, options, background=background)
    except StatusError as error:
        if _UNKNOWN_OP not in error.message or not text_ops().register(api):
            raise
    return _load_once(api, graph, directory, options, background=background)


def _load_once(
    api: CApi, graph: int, directory: str, options: SessionOptions, *, background: bool
) -> tuple[int, LoadedSignatures, bool]:
    session_options = api.new_session_options()
    meta_graph = api.new_buffer()
    try:
        config = options.config_proto
        if config:
            status = api.new_status()
            api.set_config(session_options, config, len(config), status)
            api.raise_for(status)
        tags = (ctypes.c_char_p * len(options.tags))(*(tag.encode() for tag in options.tags))
        status = api.new_status()

        def load() -> int:
            session: int = api.load_session(
                session_options, None, directory.encode(), tags, len(tags), graph, meta_graph, status
            )
            return session

        # A configuration may give the session threads of its own, which would keep the loading thread's priority.
        session = in_background(load) if background and not options.config else load()
        api.raise_for(status)
        contents: Buffer = meta_graph.contents
        view = memoryview((ctypes.c_char * contents.length).from_address(contents.data)).cast("B")
        return session, read_signatures(view), not _may_loop(view)
    finally:
        api.delete_buffer(meta_graph)
        api.delete_session_options(session_options)


def _may_loop(meta_graph_def: memoryview) -> bool:
    # In pieces, between which other threads run: constants may make a graph as large as its weights.
    starts = range(0, len(meta_graph_def), _PIECE_BYTES)
    return any(_UNBOUNDED.search(meta_graph_def[start : start + _PIECE_BYTES + _LONGEST_NAME]) for start in starts)


def _time_limit(api: CApi, timeout_s: float) -> object:
    """A serialized RunOptions, which the caller deletes."""
    # 0 would mean no limit.
    milliseconds = min(max(1, int(timeout_s * 1000)), 2**31 - 1)
    serialized = wire.varint(_TIMEOUT_IN_MS << 3) + wire.varint(milliseconds)
    return api.new_buffer_from_string(serialized, len(serialized))
