from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from deployctl.domain.saved_model import CLASSIFY_METHOD, REGRESS_METHOD
from deployctl.domain.warmup import WARMUP_PATH
from deployctl.gates.interface import Candidate, Verdict
from deployctl.gates.warmup import WarmupGate
from deployctl.protos.serving_pb2 import PredictionLog, PredictRequest
from deployctl.protos.tensor_pb2 import DataType
from deployctl.savedmodel.crc32c import crc32c, masked
from deployctl.savedmodel.warmup import read_warmup, write_warmup
from tests.support.gates import DOUBLE, signature, version

SIGNATURES = {
    "serving_default": DOUBLE,
    "c": signature({"inputs": "string ?"}, {"scores": "float32 ?,?"}, method=CLASSIFY_METHOD),
    "r": signature({"inputs": "string ?"}, {"outputs": "float32 ?"}, method=REGRESS_METHOD),
}


def request(*, signature_name: str = "", name: str = "x", dtype: DataType = DataType.DT_FLOAT) -> PredictRequest:
    made = PredictRequest()
    made.model_spec.signature_name = signature_name
    made.inputs[name].dtype = dtype
    made.inputs[name].tensor_shape.dim.add(size=3)
    return made


def written(*requests: PredictRequest) -> bytes:
    file = io.BytesIO()
    assert write_warmup(file, requests) == len(requests)
    return file.getvalue()


def logged(log: PredictionLog) -> bytes:
    """A file with one record that is no predict request."""
    body = log.SerializeToString()
    length = struct.pack("<Q", len(body))
    return length + struct.pack("<I", masked(crc32c(length))) + body + struct.pack("<I", masked(crc32c(body)))


def verdict(directory: Path, data: bytes | None) -> Verdict:
    if data is not None:
        (directory / WARMUP_PATH).parent.mkdir(parents=True)
        (directory / WARMUP_PATH).write_bytes(data)
    return WarmupGate(read_warmup).judge(Candidate(version(SIGNATURES, path=directory)))


def words(directory: Path, data: bytes | None) -> str:
    found = verdict(directory, data)
    return f"{found.outcome.value}: {found.summary}"


def test_a_version_without_a_warm_up_file_is_not_judged(tmp_path: Path) -> None:
    assert words(tmp_path, None) == "skipped: there is no warm-up file"


def test_records_that_fit_the_signatures_pass(tmp_path: Path) -> None:
    data = written(request(), request(signature_name="serving_default"))
    assert words(tmp_path, data) == "passed: ok, 2 records"


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (request(signature_name="embed"), "calls the signature 'embed', which is not there"),
        (request(name="z"), 'gives no "x", which serving_default needs'),
        (request(dtype=DataType.DT_INT64), 'gives "x" as int64 (3), and serving_default takes float32 (?)'),
    ],
)
def test_a_record_that_no_signature_takes_is_refused_by_its_number(
    tmp_path: Path, wrong: PredictRequest, problem: str
) -> None:
    assert words(tmp_path, written(request(), wrong)) == f"failed: warm-up record 2 {problem}"


def test_an_input_that_the_signature_does_not_take_is_refused(tmp_path: Path) -> None:
    more = request()
    more.inputs["k"].dtype = DataType.DT_FLOAT
    assert words(tmp_path, written(more)) == 'failed: warm-up record 1 gives "k", which serving_default does not take'


def test_a_thousand_records_are_the_most(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "over").mkdir()
    assert words(tmp_path / "full", written(*[request()] * 1000)) == "passed: ok, 1000 records"
    assert words(tmp_path / "over", written(*[request()] * 1001)) == (
        f"failed: {WARMUP_PATH} holds more than 1000 records, the most that a server takes"
    )


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        (written(request())[:-1], "record 1 is cut short"),
        (written(request(), request())[:-5], "record 2 is cut short"),
        (b"not a record file at all", "record 1 does not begin as one of a TFRecord file"),
        (written(request())[:20] + b"\xff" + written(request())[21:], "record 1 does not have its checksum"),
        (b"x", "record 1 is cut short"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damaged: bytes, problem: str) -> None:
    assert words(tmp_path, damaged) == f"failed: {WARMUP_PATH}: {problem}"


def test_classify_and_regress_records_need_signatures_of_their_methods(tmp_path: Path) -> None:
    log = PredictionLog()
    log.classify_log.request.model_spec.signature_name = "r"
    assert words(tmp_path, logged(log)) == (
        "failed: warm-up record 1 calls 'r' by classify, and its method is tensorflow/serving/regress"
    )


def test_each_task_of_a_multi_inference_record_counts(tmp_path: Path) -> None:
    log = PredictionLog()
    for name, method in (("c", CLASSIFY_METHOD), ("c", REGRESS_METHOD)):
        task = log.multi_inference_log.request.tasks.add(method_name=method)
        task.model_spec.signature_name = name
    assert words(tmp_path, logged(log)) == (
        "failed: warm-up record 1 calls 'c' by regress, and its method is tensorflow/serving/classify"
    )


def test_a_session_run_is_refused(tmp_path: Path) -> None:
    log = PredictionLog()
    log.session_run_log.SetInParent()
    assert words(tmp_path, logged(log)).startswith("failed: warm-up record 1 is a SessionRun")
