"""Publishing a large export against copying it; both end with the bytes on the disk."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from bench.measurement import Measurement, compare, run_command, seconds
from bench.project import scratch_directory
from deployctl.domain.clock import Observer
from deployctl.domain.manifest import Manifest, Provenance
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.repository.interface import Numbering, StagedVersion
from deployctl.repository.local import LocalModelRepository
from deployctl.system import SystemClock

_PAIRS = 5
_BLOCK = 16 << 20


def run(size_bytes: int = 2 << 30) -> list[Measurement]:
    """Measures one file of `size_bytes`, then the same bytes in sixteen shards."""
    return [_measure(size_bytes, 1), _measure(size_bytes, 16)]


def _measure(size_bytes: int, shards: int) -> Measurement:
    with scratch_directory() as directory:
        export = _write_export(directory / "export", size_bytes, shards)
        return compare(
            f"publish {size_bytes / 2**30:.3g} GiB in {shards} file{'s'[: shards > 1]}",
            lambda: _publish(directory, export),
            lambda: _copy(directory, export),
            than="cp -r; sync -f",
            budget=1.2,
            pairs=_PAIRS,
            note="hashed and durable",
        )


def _write_export(export: Path, size_bytes: int, shards: int) -> Path:
    """Writes random bytes: zeros could be stored as holes."""
    (export / "variables").mkdir(parents=True)
    (export / "saved_model.pb").write_bytes(b"graph")
    for shard in range(shards):
        with open(export / "variables" / f"variables.data-{shard:05}-of-{shards:05}", "wb") as file:
            for _ in range(size_bytes // shards // _BLOCK):
                file.write(os.urandom(_BLOCK))
            file.write(os.urandom(size_bytes // shards % _BLOCK))
    return export


def _publish(directory: Path, export: Path) -> float:
    base = directory / "models"
    base.mkdir()
    _sync(directory)
    repository = LocalModelRepository(base, SystemClock())
    took = seconds(lambda: _stage_and_commit(repository, export)) + seconds(lambda: _sync(base))
    shutil.rmtree(base)
    _sync(directory)
    return took


def _stage_and_commit(repository: LocalModelRepository, export: Path) -> None:
    with repository.stage(ModelName("large"), export, Observer()) as staged:
        repository.commit(
            staged,
            lambda version: _manifest(staged, version),
            numbering=Numbering.SEQUENTIAL,
            allow_duplicate=False,
        )


def _manifest(staged: StagedVersion, version: VersionNumber) -> Manifest:
    return Manifest(staged.model, version, staged.files, {}, {}, Provenance(), datetime.now(UTC), "bench")


def _copy(directory: Path, export: Path) -> float:
    target = directory / "copy"
    took = run_command(["cp", "-r", str(export), str(target)]) + seconds(lambda: _sync(target))
    shutil.rmtree(target)
    _sync(directory)
    return took


def _sync(directory: Path) -> None:
    run_command(["sync", "-f", str(directory)])
