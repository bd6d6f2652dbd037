from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from deployctl.domain.clock import Observer
from deployctl.domain.manifest import Manifest
from deployctl.gates.integrity import IntegrityGate
from deployctl.gates.interface import Candidate, Verdict
from deployctl.operations.candidate import of_export, of_version
from deployctl.operations.publish import Publish, PublishRequest
from deployctl.repository.interface import FileProblem
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from tests.support.workspace import HALF_PLUS_TWO
from tests.support.world import HALF, World

READER = ProtobufSavedModelReader()
DATA = "variables/variables.data-00000-of-00001"


def of_published(world: World) -> Verdict:
    def verify(manifest: Manifest) -> tuple[FileProblem, ...]:
        return world.repository.verify(manifest, Observer())

    (number,) = world.repository.versions(HALF)
    version = of_version(world.repository, READER, HALF, number, Observer())
    return IntegrityGate(verify).judge(Candidate(version, HALF))


def of_path(path: Path) -> Verdict:
    return IntegrityGate(lambda _: ()).judge(Candidate(of_export(READER, path)))


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "models")
    Publish(world.repository, READER, world.lineage, world.context)(PublishRequest(HALF_PLUS_TWO, HALF))
    return world


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return shutil.copytree(HALF_PLUS_TWO, tmp_path / "export")


def test_a_published_version_passes_with_its_size(world: World) -> None:
    verdict = of_published(world)
    assert verdict.summary == "ok"
    assert verdict.evidence["files"] == 4


def test_every_flipped_bit_is_found(world: World) -> None:
    file = world.directory / HALF / "1" / DATA
    data = bytearray(file.read_bytes())
    data[5] ^= 8
    os.chmod(file, 0o644)
    file.write_bytes(data)
    assert of_published(world).problems == (f"{DATA} is changed",)


def test_a_file_that_is_gone_and_one_too_many_are_named(world: World) -> None:
    directory = world.directory / HALF / "1"
    os.chmod(directory, 0o755)
    (directory / "more").write_text("x")
    (directory / "assets" / "foo.txt").unlink()
    assert of_published(world).problems[1:] == ("assets/foo.txt is missing", "more is extra")


def test_an_export_is_looked_through(export: Path) -> None:
    assert of_path(export).summary == "whole; no manifest"


def test_a_link_out_of_the_export_is_refused(export: Path) -> None:
    (export / "assets" / "passwd").symlink_to("/etc/passwd")
    (problem,) = of_path(export).problems
    assert problem.endswith("'assets/passwd' is a symlink that leaves the export")


def test_of_many_problems_the_first_are_shown(export: Path) -> None:
    for number in range(30):
        os.mkfifo(export / "assets" / f"f{number:02}")
    verdict = of_path(export)
    assert len(verdict.problems) == 20
    assert verdict.evidence == {"more_problems": 10}
