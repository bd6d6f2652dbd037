"""Damaged files in front of the gates that only look: a verdict, soon, and within bounded memory; nothing else.

`make fuzz` goes on for FUZZ_SECONDS, 600 unless it says otherwise; the suite has ten seconds.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deployctl.domain.warmup import WARMUP_PATH
from deployctl.gates.compatibility import CompatibilityGate
from deployctl.gates.integrity import IntegrityGate
from deployctl.gates.interface import Candidate
from deployctl.gates.ops import OpsGate
from deployctl.gates.signature import SignatureGate
from deployctl.gates.warmup import WarmupGate
from deployctl.operations.candidate import of_export
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from deployctl.savedmodel.warmup import read_warmup
from tests.support.bad_exports import request, warmup
from tests.support.models import UPSTREAM

READER = ProtobufSavedModelReader()
GATES = (
    IntegrityGate(lambda _: ()),
    SignatureGate(rest_only=True),
    CompatibilityGate(),
    OpsGate(),
    WarmupGate(read_warmup),
)
TF1, TF2 = (UPSTREAM / f"saved_model_half_plus_two_{kind}/00000123" for kind in ("cpu", "tf2_cpu"))
# Ten seconds in the suite, for four targets.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "10")) / 4
SLOWEST_S = 10.0
MOST_BYTES = 300_000_000
FUZZ = settings(
    max_examples=1_000_000,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)

Mutation = tuple[int, int, bytes]
# Where (in parts of 10,000), how many bytes go, and what comes instead.
MUTATIONS = st.lists(
    st.tuples(st.integers(0, 10_000), st.sampled_from([0, 1, 1, 1, 2, 8, 1000]), st.binary(max_size=6)),
    min_size=1,
    max_size=5,
)


class OutOfTimeError(Exception):
    """The target has had its share of the time."""


@pytest.fixture(scope="module")
def good() -> Iterator[Path]:
    """A good export with a warm-up file."""
    with tempfile.TemporaryDirectory() as folder:
        warmup(request(), request())(Path(folder))
        yield Path(folder)


def mutate(data: bytes, mutations: list[Mutation]) -> bytes:
    for place, removed, inserted in mutations:
        at = place * len(data) // 10_000
        data = data[:at] + inserted + data[at + removed :]
    return data


def judge(files: dict[str, bytes]) -> None:
    """Lets every gate judge an export of these files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_bytes(data)
        version = of_export(READER, Path(folder))
        for gate in GATES:
            if version.problem is None or not gate.needs_whole:
                gate.judge(Candidate(version, None, version, version))


def fuzz(files: dict[str, bytes], name: str) -> None:
    """Damages file `name` of `files` until the time is over."""
    judge(files)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()

    @FUZZ
    @given(MUTATIONS)
    def once(mutations: list[Mutation]) -> None:
        if time.monotonic() - started > SECONDS:
            raise OutOfTimeError
        began = time.monotonic()
        judge({**files, name: mutate(files[name], mutations)})
        assert time.monotonic() - began < SLOWEST_S

    with pytest.raises(OutOfTimeError):
        once()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES


def files_of(export: Path) -> dict[str, bytes]:
    return {str(file.relative_to(export)): file.read_bytes() for file in export.rglob("*") if file.is_file()}


def test_a_damaged_graph_is_judged() -> None:
    fuzz(files_of(TF1), "saved_model.pb")


def test_a_damaged_graph_of_tensorflow_2_is_judged() -> None:
    fuzz(files_of(TF2), "saved_model.pb")


def test_a_damaged_index_is_judged() -> None:
    fuzz(files_of(TF2), "variables/variables.index")


def test_a_damaged_warm_up_file_is_judged(good: Path) -> None:
    fuzz({**files_of(TF2), WARMUP_PATH: (good / WARMUP_PATH).read_bytes()}, WARMUP_PATH)
