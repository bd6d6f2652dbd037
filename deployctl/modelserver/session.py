"""A SavedModel loaded into a TensorFlow session, and calls of it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployctl.modelserver import wire
from deployctl.modelserver.capi import Buffer, CApi, Output, c_api
from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.runner import Runner
from deployctl.modelserver.signatures import LoadedSignatures, read_signatures
from deployctl.modelserver.tensors import TensorConverter

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Tensor

# tensorflow.RunOptions.timeout_in_ms (tensorflow/core/protobuf/config.proto)
_TIMEOUT_IN_MS = 2
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


class Session(Runner):
    """One loaded MetaGraph. Calls may come from any thread; the GIL is free while TensorFlow works."""

    def __init__(self, directory: str, options: SessionOptions) -> None:
        """Loads `directory`.

        Raises:
            StatusError: TensorFlow's own code and words.
        """
        self._api = c_api()
        self._converter = TensorConverter(self._api)
        self._lock = threading.Lock()
        self._resolved: dict[str, Output] = {}
        self._graph: int = self._api.new_graph()
        try:
            self._session, self._signatures = _load(self._api, self._graph, directory, options)
        except BaseException:
            self._api.delete_graph(self._graph)
            raise
        self._closed = False

    @property
    def signatures(self) -> LoadedSignatures:
        """The signatures of the MetaGraph."""
        return self._signatures

    def run(
        self, feeds: Sequence[tuple[str, Tensor]], fetches: Sequence[str], *, timeout_s: float | None
    ) -> list[Tensor]:
        """Runs the graph in the calling thread."""
        api = self._api
        inputs = (Output * len(feeds))(*(self._output(name) for name, _ in feeds))
        outputs = (Output * len(fetches))(*(self._output(name) for name in fetches))
        values = (ctypes.c_void_p * len(feeds))()
        results = (ctypes.c_void_p * len(fetches))()
        options = None if timeout_s is None else _run_options(api, timeout_s)
        try:
            for index, (_, value) in enumerate(feeds):
                values[index] = self._converter.to_tensorflow(value)
            status = api.new_status()
            api.session_run(
                self._session,
                options,
                inputs,
                values,
                len(feeds),
                outputs,
                results,
                len(fetches),
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
            if options is not None:
                api.delete_buffer(options)
        return [self._converter.to_numpy(result) for result in results if result is not None]

    def element_type(self, name: str) -> int:
        """Returns the DataType of the tensor `name` ("x:0").

        Raises:
            StatusError: the graph has no such tensor.
        """
        number: int = self._api.output_type(self._output(name))
        return number

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
        return_memory()

    def _output(self, name: str) -> Output:
        output = self._resolved.get(name)
        if output is None:
            output = self._resolved[name] = self._resolve(name)
        return output

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


def _load(api: CApi, graph: int, directory: str, options: SessionOptions) -> tuple[int, LoadedSignatures]:
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
        session = api.load_session(
            session_options, None, directory.encode(), tags, len(tags), graph, meta_graph, status
        )
        api.raise_for(status)
        contents: Buffer = meta_graph.contents
        view = memoryview((ctypes.c_char * contents.length).from_address(contents.data)).cast("B")
        return session, read_signatures(view)
    finally:
        api.delete_buffer(meta_graph)
        api.delete_session_options(session_options)


def _run_options(api: CApi, timeout_s: float) -> object:
    # 0 would mean no limit.
    milliseconds = min(max(1, int(timeout_s * 1000)), 2**31 - 1)
    serialized = wire.varint(_TIMEOUT_IN_MS << 3) + wire.varint(milliseconds)
    return api.new_buffer_from_string(serialized, len(serialized))
