"""What a version's warm-up file holds, as values; `savedmodel/warmup.py` reads and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployctl.domain.saved_model import TensorSpec

WARMUP_PATH = "assets.extra/tf_serving_warmup_requests"
# tensorflow_serving/servables/tensorflow/saved_model_warmup_util.h, kMaxNumRecords
MAX_WARMUP_RECORDS = 1000


@dataclass(frozen=True, slots=True)
class WarmupCall:
    """One request of a warm-up record.

    Attributes:
        kind: "predict", "classify", "regress" or "session_run".
        signature: as the record says, "" for the default.
        inputs: of a predict request, by name, without tensor names.
    """

    kind: str
    signature: str = ""
    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WarmupFile:
    """A warm-up file.

    Attributes:
        records: the requests of each record, in file order; none of what follows the `problem`.
        problem: why reading ended before the file did, "" where it did not.
    """

    records: tuple[tuple[WarmupCall, ...], ...]
    problem: str = ""
