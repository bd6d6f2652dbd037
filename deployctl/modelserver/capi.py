"""TensorFlow's C API by ctypes, without importing TensorFlow's Python package.

The wheel carries the C API in `libtensorflow_cc.so.2`, which needs `libtensorflow_framework.so.2` loaded first. Header:
tensorflow/c/c_api.h.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint, c_void_p
from pathlib import Path

from deployctl.modelserver.interface import Code, StatusError

# void (*deallocator)(void* data, size_t len, void* arg)
Deallocator = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_void_p)


class Output(ctypes.Structure):
    """TF_Output: one output of an operation of a graph."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


class Buffer(ctypes.Structure):
    """TF_Buffer: a serialized message."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p))


class CApi:
    """The functions used here, typed.

    Short functions keep the GIL (PyDLL): letting it go for half a microsecond would queue the caller behind every
    other Python thread. The long ones (loading, running, closing) let it go.
    """

    def __init__(self, library: Path) -> None:
        # Not RTLD_GLOBAL: the framework brings its own BoringSSL, and whatever is linked against OpenSSL and loaded
        # later (hashlib, and through it numpy.random) would then take those functions, and crash.
        ctypes.CDLL(str(library / "libtensorflow_framework.so.2"), mode=ctypes.RTLD_LOCAL)
        path = str(library / "libtensorflow_cc.so.2")
        quick, slow = ctypes.PyDLL(path), ctypes.CDLL(path)

        def bind(dll: ctypes.CDLL, name: str, result: object, *arguments: object) -> ctypes._NamedFuncPointer:
            function = dll[name]
            function.restype = result  # type: ignore[assignment]
            function.argtypes = arguments  # type: ignore[assignment]
            return function

        self.version = bind(quick, "TF_Version", c_char_p)
        self.new_status = bind(quick, "TF_NewStatus", c_void_p)
        self.delete_status = bind(quick, "TF_DeleteStatus", None, c_void_p)
        self.get_code = bind(quick, "TF_GetCode", c_int, c_void_p)
        self.message = bind(quick, "TF_Message", c_char_p, c_void_p)

        self.new_buffer = bind(quick, "TF_NewBuffer", POINTER(Buffer))
        self.new_buffer_from_string = bind(quick, "TF_NewBufferFromString", POINTER(Buffer), c_char_p, c_size_t)
        self.delete_buffer = bind(quick, "TF_DeleteBuffer", None, POINTER(Buffer))

        self.new_graph = bind(quick, "TF_NewGraph", c_void_p)
        self.delete_graph = bind(slow, "TF_DeleteGraph", None, c_void_p)
        self.operation_by_name = bind(quick, "TF_GraphOperationByName", c_void_p, c_void_p, c_char_p)
        self.operation_num_outputs = bind(quick, "TF_OperationNumOutputs", c_int, c_void_p)

        self.output_type = bind(quick, "TF_OperationOutputType", c_uint, Output)

        self.new_session_options = bind(quick, "TF_NewSessionOptions", c_void_p)
        self.delete_session_options = bind(quick, "TF_DeleteSessionOptions", None, c_void_p)
        self.set_config = bind(quick, "TF_SetConfig", None, c_void_p, c_char_p, c_size_t, c_void_p)
        self.load_session = bind(
            slow,
            "TF_LoadSessionFromSavedModel",
            c_void_p,
            c_void_p,
            POINTER(Buffer),
            c_char_p,
            POINTER(c_char_p),
            c_int,
            c_void_p,
            POINTER(Buffer),
            c_void_p,
        )
        self.session_run = bind(
            slow,
            "TF_SessionRun",
            None,
            c_void_p,
            POINTER(Buffer),
            POINTER(Output),
            POINTER(c_void_p),
            c_int,
            POINTER(Output),
            POINTER(c_void_p),
            c_int,
            c_void_p,
            c_int,
            POINTER(Buffer),
            c_void_p,
        )
        # Registers an operation library for the whole process; there is no way back.
        self.load_library = bind(slow, "TF_LoadLibrary", c_void_p, c_char_p, c_void_p)

        self.close_session = bind(slow, "TF_CloseSession", None, c_void_p, c_void_p)
        self.delete_session = bind(slow, "TF_DeleteSession", None, c_void_p, c_void_p)

        dims = POINTER(c_int64)
        self.new_tensor = bind(
            quick, "TF_NewTensor", c_void_p, c_uint, dims, c_int, c_void_p, c_size_t, Deallocator, c_void_p
        )
        self.allocate_tensor = bind(quick, "TF_AllocateTensor", c_void_p, c_uint, dims, c_int, c_size_t)
        self.delete_tensor = bind(quick, "TF_DeleteTensor", None, c_void_p)
        self.tensor_type = bind(quick, "TF_TensorType", c_uint, c_void_p)
        self.num_dims = bind(quick, "TF_NumDims", c_int, c_void_p)
        self.dim = bind(quick, "TF_Dim", c_int64, c_void_p, c_int)
        self.tensor_byte_size = bind(quick, "TF_TensorByteSize", c_size_t, c_void_p)
        self.tensor_data = bind(quick, "TF_TensorData", c_void_p, c_void_p)

        self.memcpy = bind(ctypes.PyDLL(None), "memcpy", c_void_p, c_void_p, c_void_p, c_size_t)

    def raise_for(self, status: int) -> None:
        """Frees `status`, and raises StatusError when it is not OK."""
        code = self.get_code(status)
        message = b"" if code == 0 else self.message(status)
        self.delete_status(status)
        if code != 0:
            raise StatusError(Code(code), message.decode("utf-8", "replace"))


def library_directory() -> Path:
    """Returns where TensorFlow's libraries are installed.

    Raises:
        StatusError: UNAVAILABLE when the TensorFlow wheel is not installed.
    """
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise StatusError(
            Code.UNAVAILABLE, "TensorFlow is not installed; install it with: pip install 'deployctl[tensorflow]'"
        )
    return Path(spec.submodule_search_locations[0])


@functools.cache
def c_api() -> CApi:
    """Loads TensorFlow's libraries, once for the process (0.25 s warm)."""
    # The library reads these when it is loaded. 1 leaves out its notices of CPU features.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # Builds with oneDNN have an allocator that keeps all memory that it ever had; malloc gives it back.
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    return CApi(library_directory())
