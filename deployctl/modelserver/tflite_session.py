"""TFLite models, run by the interpreter that TensorFlow's wheel carries, without importing TensorFlow.

tensorflow_serving/servables/tensorflow/tflite_session.cc and tflite_interpreter_pool.cc. The interpreter is an
extension module of its own (tensorflow/lite/python/interpreter_wrapper/interpreter_wrapper_pybind11.cc) that needs
nothing of the Python package around it, and shares no symbol with TensorFlow's C library.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from deployctl.modelserver.capi import library_directory
from deployctl.modelserver.dtypes import BY_NUMBER, STRING, dtype_of
from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.runner import Runner
from deployctl.modelserver.tflite_file import TfliteTensor, known_name, read_tflite_signatures
from deployctl.modelserver.tflite_options import TfliteOptions

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Tensor
    from deployctl.modelserver.signatures import LoadedSignatures

logger = logging.getLogger(__name__)

_WRAPPER = "_pywrap_tensorflow_interpreter_wrapper"
# BuiltinOpResolver with its default delegate, XNNPACK (tensorflow/lite/python/interpreter.py, OpResolverType).
_BUILTIN_OPS = 1


def load_interpreter_module() -> ModuleType:
    """Loads TFLite's interpreter, once for the process.

    Raises:
        StatusError: UNAVAILABLE when this TensorFlow has none.
    """
    path = library_directory() / "lite" / "python" / f"{_WRAPPER}.so"
    loader = importlib.machinery.ExtensionFileLoader(_WRAPPER, str(path))
    spec = importlib.util.spec_from_loader(_WRAPPER, loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise StatusError(Code.UNAVAILABLE, f"This TensorFlow has no TFLite interpreter: {error}") from error
    return module


class TfliteSession(Runner):
    """One loaded TFLite file. Calls may come from any thread; the GIL is free while an interpreter works."""

    def __init__(self, path: Path, options: TfliteOptions, module: ModuleType) -> None:
        """Loads the file at `path` and makes the first interpreter; the others are made when calls need them.

        Raises:
            StatusError: it cannot be read, or is no model that the interpreter takes.
        """
        try:
            # Not mapped: a file that is cut short under a running server would end the process.
            self._content = path.read_bytes()
        except OSError as error:
            raise StatusError(Code.NOT_FOUND, f"{path}; {error.strerror}") from error
        self._module = module
        self._options = options
        self._free = threading.Condition()
        self._idle: list[_Interpreter] = []
        self._made = 1
        first = self._new_interpreter()
        try:
            self._inputs, self._outputs = first.inputs(), first.outputs()
        except ValueError as error:
            raise StatusError(Code.INVALID_ARGUMENT, f"A tensor of {path} has no proper name: {error}") from error
        self._signatures = read_tflite_signatures(self._content, self._inputs, self._outputs)
        self._idle.append(first)

    @property
    def content(self) -> bytes:
        """The file."""
        return self._content

    @property
    def signatures(self) -> LoadedSignatures:
        """The signatures that were added to the file, or one over all its inputs and outputs."""
        return self._signatures

    def run(
        self, feeds: Sequence[tuple[str, Tensor]], fetches: Sequence[str], *, timeout_s: float | None
    ) -> list[Tensor]:
        """Runs the model; `timeout_s` limits the wait for a free interpreter, not the run."""
        values = [(self._inputs[known_name(name, self._inputs)], value) for name, value in feeds]
        for tensor, value in values:
            _check_type(tensor, value)
        wanted = [self._outputs[known_name(name, self._outputs)].index for name in fetches]
        interpreter: _Interpreter | None = self._take(timeout_s)
        try:
            assert interpreter is not None
            return interpreter.run([(tensor.index, value) for tensor, value in values], wanted)
        except (RuntimeError, ValueError) as error:
            # Its tensors may be half resized: a new one takes its place when it is needed.
            interpreter = None
            raise StatusError(Code.INTERNAL, f"Failed to invoke TfLite interpreter: {error}") from error
        finally:
            self._give_back(interpreter)

    def close(self) -> None:
        """Frees the interpreters."""
        with self._free:
            self._idle.clear()

    def _take(self, timeout_s: float | None) -> _Interpreter:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._free:
            while not self._idle and self._made >= max(1, self._options.pools):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise StatusError(Code.DEADLINE_EXCEEDED, "Timed out waiting for a TfLite interpreter")
                self._free.wait(left)
            if self._idle:
                return self._idle.pop()
            self._made += 1
        try:
            return self._new_interpreter()
        except BaseException:
            self._give_back(None)
            raise

    def _give_back(self, interpreter: _Interpreter | None) -> None:
        with self._free:
            if interpreter is None:
                self._made -= 1
            else:
                self._idle.append(interpreter)
            self._free.notify()

    def _new_interpreter(self) -> _Interpreter:
        try:
            wrapper = self._module.CreateWrapperFromBuffer(self._content, _BUILTIN_OPS, [], False, False)
        except ValueError as error:
            raise StatusError(Code.INVALID_ARGUMENT, f"Cannot build FlatBufferModel from buffer: {error}") from error
        try:
            return _Interpreter(wrapper, threads=max(1, self._options.threads))
        except (RuntimeError, ValueError) as error:
            raise StatusError(Code.INTERNAL, f"Cannot build Interpreter from buffer: {error}") from error


class _Interpreter:
    """One interpreter, which runs one call at a time and keeps the shapes of the last."""

    def __init__(self, wrapper: Any, *, threads: int) -> None:
        self._wrapper = wrapper
        wrapper.SetNumThreads(threads)
        self._shapes = {tensor.index: tensor.shape for tensor in self.inputs().values()}
        wrapper.AllocateTensors()

    def inputs(self) -> dict[str, TfliteTensor]:
        """The inputs by name."""
        return self._described("Input", self._wrapper.InputIndices())

    def outputs(self) -> dict[str, TfliteTensor]:
        """The outputs by name."""
        return self._described("Output", self._wrapper.OutputIndices())

    def run(self, values: Sequence[tuple[int, Tensor]], wanted: Sequence[int]) -> list[Tensor]:
        wrapper = self._wrapper
        resized = [(index, value) for index, value in values if self._shapes[index] != value.shape]
        for index, value in resized:
            wrapper.ResizeInputTensor(index, np.array(value.shape, dtype=np.int32), False)
            self._shapes[index] = value.shape
        if resized:
            wrapper.AllocateTensors()
        for index, value in values:
            wrapper.SetTensor(index, value)
        wrapper.Invoke()
        return [_as_strings(wrapper.GetTensor(index)) for index in wanted]

    def _described(self, side: str, indices: Sequence[int]) -> dict[str, TfliteTensor]:
        tensors: dict[str, TfliteTensor] = {}
        for index in map(int, indices):
            name = self._wrapper.TensorName(index, 0)
            if name in tensors:
                raise StatusError(Code.ALREADY_EXISTS, f"{side} tensor name: {name} has multiple indices")
            dtype = np.dtype(self._wrapper.TensorType(index, 0))
            try:
                number = dtype_of(np.empty(0, dtype)).number
            except KeyError:
                raise StatusError(Code.INTERNAL, f"Unknown TfLite type: {dtype}") from None
            shape = tuple(int(size) for size in self._wrapper.TensorSize(index, 0))
            tensors[name] = TfliteTensor(index, name, number, shape)
        return dict(sorted(tensors.items()))


def _check_type(tensor: TfliteTensor, value: Tensor) -> None:
    given = dtype_of(value).number
    if given != tensor.dtype:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"Expects input {tensor.name} to be {BY_NUMBER[tensor.dtype].enum_name} "
            f"but got {BY_NUMBER[given].enum_name}",
        )


def _as_strings(value: Tensor) -> Tensor:
    return value.astype(object) if dtype_of(value).number == STRING else value
