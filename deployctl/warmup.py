"""Puts golden requests into an export as the warm-up file that servers replay when they load it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.domain.names import ModelName
from deployctl.domain.saved_model import DEFAULT_SIGNATURE
from deployctl.domain.warmup import MAX_WARMUP_RECORDS, WARMUP_PATH
from deployctl.errors import InvalidRequestError, StorageError

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.domain.golden import GoldenRecord
    from deployctl.domain.saved_model import Signature
    from deployctl.protos.serving_pb2 import PredictRequest


@contextmanager
def warmed_export(deployment: Deployment, export: Path, golden: Path) -> Iterator[Path]:
    """Gives a copy of `export` that has the requests of `golden` as its warm-up file; `export` stays as it is.

    Raises:
        InvalidModelError: the export is not one that a server could serve.
        InvalidRequestError: a record does not fit the export's signatures, or they are more than servers take.
    """
    from deployctl.domain.golden import parse_golden
    from deployctl.operations.publish import check_servable
    from deployctl.scratch import copy_version

    graph = check_servable(deployment.reader, export)
    try:
        records = parse_golden(golden.read_text(encoding="utf-8"), str(golden))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"cannot read {golden}: {error}") from error
    if len(records) > MAX_WARMUP_RECORDS:
        raise InvalidRequestError(f"{golden} holds {len(records)} records, and servers take {MAX_WARMUP_RECORDS}")
    requests = [_request(golden, number, record, graph.signatures) for number, record in enumerate(records, start=1)]
    state = deployment.settings.state_path / "warmed"
    state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=state) as folder:
        copy = Path(folder) / "export"
        try:
            copy_version(export, copy)
            _write(copy / WARMUP_PATH, requests)
        except (OSError, shutil.Error) as error:
            raise StorageError(f"cannot copy {export} to {state}: {error}") from error
        yield copy


def _write(file: Path, requests: Sequence[PredictRequest]) -> None:
    from deployctl.savedmodel.warmup import write_warmup

    file.parent.mkdir(exist_ok=True)
    # The copy may be made of hard links: what is replaced must not be written through one.
    file.unlink(missing_ok=True)
    with file.open("wb") as stream:
        write_warmup(stream, requests)


def _request(golden: Path, number: int, record: GoldenRecord, signatures: Mapping[str, Signature]) -> PredictRequest:
    from deployctl.protos.serving_pb2 import PredictRequest
    from deployctl.serving.interface import PredictionRequest, ServedSpec
    from deployctl.serving.prediction import request_tensors

    name = record.signature or DEFAULT_SIGNATURE
    if name not in signatures:
        raise InvalidRequestError(f"{golden}:{number} calls the signature {name!r}, which the export does not have")
    asked = PredictionRequest(ServedSpec(ModelName("warmup")), name, record.instances, record.inputs)
    try:
        tensors = request_tensors(signatures[name], asked)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{golden}:{number} does not fit the export: {error}") from error
    request = PredictRequest()
    request.model_spec.signature_name = name
    for key, tensor in tensors.items():
        request.inputs[key].CopyFrom(tensor)
    return request
