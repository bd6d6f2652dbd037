"""Writes down which ops the installed TensorFlow knows: `python -m deployctl.modelserver.op_list [FILE]`.

The file has one op a line in name order, with " stateful" behind those whose answer may differ from call to call.
It is what the `ops` gate judges by, so that judging needs no TensorFlow.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, c_void_p
from pathlib import Path

import deployctl
from deployctl.modelserver.capi import Buffer, c_api, library_directory
from deployctl.protos.saved_model_pb2 import OpList


def registered_ops() -> dict[str, bool]:
    """Returns whether each op of the installed TensorFlow is stateful, by name, in name order.

    Raises:
        StatusError: TensorFlow is not installed.
    """
    api = c_api()
    library = ctypes.CDLL(str(library_directory() / "libtensorflow_cc.so.2"))
    library.TF_GetAllOpList.restype = POINTER(Buffer)
    library.TF_DeleteBuffer.argtypes = (c_void_p,)
    buffer = library.TF_GetAllOpList()
    try:
        listed = OpList.FromString(ctypes.string_at(buffer.contents.data, buffer.contents.length))
    finally:
        library.TF_DeleteBuffer(ctypes.cast(buffer, c_void_p))
    del api
    return {op.name: op.is_stateful for op in sorted(listed.op, key=lambda op: op.name)}


def write_op_list(file: Path) -> int:
    """Writes the list to `file` and returns how many ops it holds."""
    ops = registered_ops()
    file.write_text("".join(f"{name}{' stateful' if stateful else ''}\n" for name, stateful in ops.items()))
    return len(ops)


def list_file() -> Path:
    """Returns where the list of the installed TensorFlow's minor version belongs: `gates/tensorflow_ops/2.21.txt`."""
    minor = ".".join(c_api().version().decode().split(".")[:2])
    return Path(deployctl.__file__).parent / "gates" / "tensorflow_ops" / f"{minor}.txt"


if __name__ == "__main__":
    write_op_list(Path(sys.argv[1]) if len(sys.argv) > 1 else list_file())
