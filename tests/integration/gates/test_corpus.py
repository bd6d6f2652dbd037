"""Every bad export is refused by the right gate with the right words, and none reaches the live server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from deployctl.domain.golden import GoldenRecord, Tolerance
from deployctl.domain.manifest import Manifest
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.domain.reference import parse_reference
from deployctl.errors import GateRefusedError
from deployctl.gates.compatibility import CompatibilityGate
from deployctl.gates.golden import GoldenFile, GoldenGate
from deployctl.gates.integrity import IntegrityGate
from deployctl.gates.interface import Gate
from deployctl.gates.load import LoadGate
from deployctl.gates.ops import OpsGate
from deployctl.gates.scratch import ScratchServer
from deployctl.gates.signature import SignatureGate
from deployctl.gates.warmup import WarmupGate
from deployctl.operations.candidate import against_target, of_version
from deployctl.operations.promote import Promote, PromoteRequest
from deployctl.operations.publish import Publish, PublishRequest
from deployctl.operations.validate import Report, Validate
from deployctl.repository.interface import FileProblem
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from deployctl.savedmodel.warmup import read_warmup
from deployctl.scratch import scratch_server
from tests.support.bad_exports import BadExport, bad_exports, base_path
from tests.support.models import TensorFlowModels
from tests.support.scratch import deployment
from tests.support.world import HALF, LOCAL, World

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("corpus")]

READER = ProtobufSavedModelReader()
LIVE, BAD = VersionNumber(1), VersionNumber(2)
RUN = {"load", "golden"}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchServer]:
    made = deployment(tmp_path_factory.mktemp("corpus"))
    with scratch_server(made, made.settings.targets[made.target_name(None)]) as server:
        yield server


@pytest.fixture
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that outlives the test: the server of this module goes on serving what it has loaded."""
    return tmp_path_factory.mktemp("kept")


def gates(world: World, scratch: ScratchServer, *, run: bool) -> Sequence[Gate]:
    def verify(manifest: Manifest) -> tuple[FileProblem, ...]:
        return world.repository.verify(manifest, world.journal)

    look = (
        IntegrityGate(verify),
        SignatureGate(rest_only=True),
        CompatibilityGate(),
        OpsGate(),
        WarmupGate(read_warmup),
    )
    golden = GoldenFile("golden.jsonl", (GoldenRecord(inputs=[2.0], outputs={"y": [4.0]}),))
    tolerance = Tolerance(1e-5, 1e-6)
    load = LoadGate(scratch, server="embedded", timeout_s=60.0)
    return (*look, load, GoldenGate(scratch, golden, tolerance=tolerance, timeout_s=60.0)) if run else look


def prepared(bad: BadExport, models: TensorFlowModels, root: Path) -> World:
    """A world whose model is the good one as version 1, live, and the bad one as version 2."""
    world = World(root / "models")
    good = base_path(bad.base, models)
    directory = world.directory / HALF / str(BAD)
    shutil.copytree(good, world.directory / HALF / str(LIVE))
    if bad.published:
        Publish(world.repository, READER, world.lineage, world.context)(PublishRequest(good, HALF))
        for path in (directory, *directory.rglob("*")):
            os.chmod(path, 0o755)
    else:
        shutil.copytree(good, directory, ignore=shutil.ignore_patterns("fingerprint.pb"))
    bad.change(directory)
    world.up()
    return world


@pytest.mark.parametrize("bad", [pytest.param(bad, id=f"{bad.base}: {bad.name}") for bad in bad_exports()])
def test_a_bad_export_is_refused_by_the_right_gate_with_the_right_words(
    bad: BadExport, tensorflow_models: TensorFlowModels, scratch: ScratchServer, kept: Path
) -> None:
    world = prepared(bad, tensorflow_models, kept)
    world.promote(LIVE)
    sent = len(world.server.sent)
    reports: list[Report] = []

    def judge(model: ModelName, number: VersionNumber) -> Report:
        version = of_version(world.repository, READER, model, number, world.journal)
        candidate = against_target(version, number, model, world.target, READER, world.context)
        judged = Validate(gates(world, scratch, run=bad.gate in RUN), world.lineage, world.context, target=LOCAL)
        reports.append(judged(candidate))
        return reports[-1]

    with pytest.raises(GateRefusedError) as refused:
        Promote(world.target, world.context, judge)(PromoteRequest(parse_reference(f"{HALF}@{BAD}")))

    (report,) = reports
    assert report.refusal is not None
    assert (report.refusal.gate, refused.value.exit_code) == (bad.gate, 3)
    assert bad.words in str(refused.value), str(refused.value)
    assert len(world.server.sent) == sent
    assert world.recorded().labels == {"stable": LIVE}


@pytest.mark.parametrize("base", sorted({bad.base for bad in bad_exports()}))
def test_the_good_models_that_bad_ones_are_made_of_pass(
    base: str, tensorflow_models: TensorFlowModels, scratch: ScratchServer, kept: Path
) -> None:
    good = BadExport("good", base, "", "", lambda path: None, published=True)
    world = prepared(good, tensorflow_models, kept)
    world.promote(LIVE)
    version = of_version(world.repository, READER, HALF, BAD, world.journal)
    candidate = against_target(version, BAD, HALF, world.target, READER, world.context)
    report = Validate(gates(world, scratch, run=base == "without_variables"), world.lineage, world.context)(candidate)
    assert report.refusal is None, report.refusal


def test_there_are_at_least_sixty_of_them() -> None:
    every = bad_exports()
    assert len(every) >= 60
    assert len({(bad.base, bad.name) for bad in every}) == len(every)
