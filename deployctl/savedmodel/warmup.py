"""Reads and writes warm-up files: TFRecords of PredictionLog, which TensorFlow Serving replays when it loads a version.

tensorflow_serving/g3doc/saved_model_warmup.md; the record format is tensorflow/core/lib/io/record_reader.cc's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import DecodeError

from deployctl.domain.saved_model import DEFAULT_SIGNATURE, TensorSpec
from deployctl.domain.warmup import MAX_WARMUP_RECORDS, WARMUP_PATH, WarmupCall, WarmupFile
from deployctl.protos.serving_pb2 import PredictionLog, PredictRequest
from deployctl.savedmodel.crc32c import crc32c, masked
from deployctl.savedmodel.dtypes import dtype_name, shape_of

_HEADER_BYTES, _FOOTER_BYTES = 12, 4
# Checksums are computed by Python, at some 10 MB a second; a server that loads the version checks them all.
MAX_CHECKED_BYTES = 16 << 20
# The largest message that protobuf takes.
_MAX_RECORD_BYTES = 2**31 - 1


class _RecordError(ValueError):
    """The file is no TFRecord file; the message says where."""


def read_warmup(version: Path) -> WarmupFile | None:
    """Returns what the warm-up file of a version directory holds, None where there is none.

    One record more than a server takes is read, and no further.
    """
    records: list[tuple[WarmupCall, ...]] = []
    try:
        with (version / WARMUP_PATH).open("rb") as file:
            for record in _records(file):
                records.append(_calls(PredictionLog.FromString(record)))
                if len(records) > MAX_WARMUP_RECORDS:
                    break
    except FileNotFoundError:
        return None
    except (_RecordError, DecodeError, UnicodeDecodeError) as error:
        words = str(error) if isinstance(error, _RecordError) else "is not a PredictionLog"
        return WarmupFile(tuple(records), f"record {len(records) + 1} {words}")
    except OSError as error:
        return WarmupFile(tuple(records), f"cannot be read: {error.strerror}")
    return WarmupFile(tuple(records))


def write_warmup(file: BinaryIO, requests: Iterable[PredictRequest]) -> int:
    """Writes one record for each request and returns how many they are."""
    count = 0
    for request in requests:
        log = PredictionLog()
        log.predict_log.request.CopyFrom(request)
        data = log.SerializeToString()
        length = struct.pack("<Q", len(data))
        file.write(length + struct.pack("<I", masked(crc32c(length))))
        file.write(data + struct.pack("<I", masked(crc32c(data))))
        count += 1
    return count


def _records(file: BinaryIO) -> Iterator[bytes]:
    checked = 0
    while header := file.read(_HEADER_BYTES):
        if len(header) < _HEADER_BYTES:
            raise _RecordError("is cut short")
        length, checksum = struct.unpack("<QI", header)
        if masked(crc32c(header[:8])) != checksum or length > _MAX_RECORD_BYTES:
            raise _RecordError("does not begin as one of a TFRecord file")
        body = file.read(length + _FOOTER_BYTES)
        if len(body) < length + _FOOTER_BYTES:
            raise _RecordError("is cut short")
        data = body[:length]
        checked += length
        if checked <= MAX_CHECKED_BYTES and struct.pack("<I", masked(crc32c(data))) != body[length:]:
            raise _RecordError("does not have its checksum")
        yield data


def _calls(log: PredictionLog) -> tuple[WarmupCall, ...]:
    match log.WhichOneof("log_type"):
        case "predict_log":
            request = log.predict_log.request
            inputs = {
                name: TensorSpec(dtype_name(request.inputs[name].dtype), shape_of(request.inputs[name].tensor_shape))
                for name in sorted(request.inputs)
            }
            return (WarmupCall("predict", request.model_spec.signature_name, inputs),)
        case "classify_log":
            return (WarmupCall("classify", log.classify_log.request.model_spec.signature_name),)
        case "regress_log":
            return (WarmupCall("regress", log.regress_log.request.model_spec.signature_name),)
        case "multi_inference_log":
            tasks = log.multi_inference_log.request.tasks
            return tuple(
                WarmupCall(task.method_name.rpartition("/")[2], task.model_spec.signature_name or DEFAULT_SIGNATURE)
                for task in tasks
            )
        case "session_run_log":
            return (WarmupCall("session_run"),)
        case _:
            return ()
