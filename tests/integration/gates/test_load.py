"""The load gate: a real server loads the version, alone, and nothing of it is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deployctl.gates.interface import Candidate, Outcome, Verdict, Version
from deployctl.gates.load import LoadGate
from deployctl.gates.scratch import ScratchServer
from deployctl.operations.candidate import of_export
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from deployctl.scratch import scratch_server
from deployctl.serving.interface import PredictionRequest, ServedSpec
from tests.support.models import ROOT
from tests.support.scratch import deployment, leftovers
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, with_unknown_op
from tests.support.world import HALF

pytestmark = pytest.mark.tensorflow

READER = ProtobufSavedModelReader()


def scratch(root: Path, *, settings: str = "") -> ScratchServer:
    made = deployment(root, settings)
    return scratch_server(made, made.settings.targets[made.target_name(None)])


def judge(root: Path, export: Path, *, max_memory: int = 0) -> Verdict:
    with scratch(root) as server:
        gate = LoadGate(server, server="embedded", timeout_s=60.0, max_memory=max_memory)
        return gate.judge(Candidate(of_export(READER, export)))


def test_a_good_version_is_available_and_its_time_and_memory_are_recorded(tmp_path: Path) -> None:
    verdict = judge(tmp_path, HALF_PLUS_TWO)
    assert verdict.outcome is Outcome.PASSED
    assert verdict.summary.startswith("AVAILABLE after")
    assert 0 < verdict.evidence["load_s"] < 60
    assert verdict.evidence["peak_bytes"] >= verdict.evidence["before_bytes"] > 10_000_000
    assert leftovers(tmp_path) == []


def test_a_version_that_the_server_refuses_fails_with_its_words_and_the_log_is_kept(tmp_path: Path) -> None:
    verdict = judge(tmp_path, with_unknown_op(tmp_path / "odd"))
    assert verdict.outcome is Outcome.FAILED
    assert "Op type not registered 'Mvl'" in verdict.summary
    (log,) = (tmp_path / ".deployctl" / "scratch" / "logs").iterdir()
    assert str(log) in verdict.problems[0]
    assert "Mvl" in log.read_text()
    assert "Mvl" in "".join(verdict.evidence["log"])
    assert leftovers(tmp_path) == []


def test_damaged_values_are_found_by_loading(tmp_path: Path) -> None:
    export = shutil.copytree(HALF_PLUS_TWO, tmp_path / "export")
    data = export / "variables/variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[3] ^= 64
    data.write_bytes(content)
    verdict = judge(tmp_path, export)
    assert verdict.outcome is Outcome.FAILED
    assert "Checksum does not match" in verdict.summary


def test_a_server_that_needs_more_memory_than_it_may_is_refused(tmp_path: Path) -> None:
    verdict = judge(tmp_path, HALF_PLUS_TWO, max_memory=50_000_000)
    assert verdict.outcome is Outcome.FAILED
    assert "50 MB are allowed" in verdict.summary


def test_two_versions_answer_beside_each_other(tmp_path: Path) -> None:
    two, three = (of_export(READER, path) for path in (HALF_PLUS_TWO, HALF_PLUS_THREE))
    request = PredictionRequest(ServedSpec(HALF), inputs=[2.0])
    with scratch(tmp_path) as server:
        for version in (two, three):
            assert server.load(version, timeout_s=60.0).error == ""
        assert [answer(server, version, request) for version in (two, three)] == [[3.0], [4.0]]


def answer(server: ScratchServer, version: Version, request: PredictionRequest) -> object:
    return server.predict(version, request, grpc=False, timeout_s=10.0).outputs


def test_a_server_whose_user_was_killed_is_ended_by_the_next_one(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from tests.integration.gates.test_load import *\n"
        "server = scratch(__import__('pathlib').Path(sys.argv[1]))\n"
        "server.load(of_export(READER, HALF_PLUS_TWO), timeout_s=60.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, timeout=120, check=False)
    assert len(leftovers(tmp_path)) == 1

    assert judge(tmp_path, HALF_PLUS_TWO).outcome is Outcome.PASSED

    assert leftovers(tmp_path) == []
