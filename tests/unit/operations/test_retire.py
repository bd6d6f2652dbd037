"""Versions that nothing needs are retired, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployctl.domain.event import EventKind
from deployctl.domain.names import VersionNumber
from deployctl.errors import LockedError, ModelNotFoundError, VersionHeldError, VersionNotFoundError
from deployctl.operations.publish import record_version
from deployctl.operations.retire import Retire, Retirement, RetireRequest
from tests.support.repository import SMALL_EXPORT, publish, write_export
from tests.support.world import HALF, World


@pytest.fixture
def versions(world: World, tmp_path: Path) -> World:
    """Versions 4 to 9 of `half` have manifests and are recorded."""
    for version in range(4, 10):
        export = write_export(tmp_path / f"export-{version}", {**SMALL_EXPORT, "x": bytes([version])})
        record_version(world.lineage, world.context, publish(world.repository, HALF, export).manifest)
    return world


def retire(world: World, *versions: int, keep: int | None = None, dry_run: bool = False) -> Retirement:
    operation = Retire(world.repository, world.lineage, [world.target], world.context)
    chosen = tuple(map(VersionNumber, versions))
    return operation(RetireRequest(HALF, chosen, keep=keep, reason="room", dry_run=dry_run))


def test_old_versions_leave_the_repository_and_the_registry(versions: World) -> None:
    done = retire(versions, keep=2)

    # 1 to 3 were put there by hand, without manifests.
    assert done.versions == (4, 5, 6, 7)
    assert versions.repository.versions(HALF) == (1, 2, 3, 8, 9)
    assert [record.version for record in versions.lineage.versions(HALF)] == [8, 9]
    events = versions.lineage.history(model=HALF, limit=4)
    assert {event.content.kind for event in events} == {EventKind.VERSION_RETIRED}
    assert {event.content.reason for event in events} == {"room"}


def test_what_serves_stands_by_is_labelled_or_is_the_goal_of_a_rollback_is_kept(versions: World) -> None:
    for version in (5, 6, 7):
        versions.promote(version)
    versions.promote(4, label="canary")

    done = retire(versions, keep=1)

    assert done.versions == (5, 8)
    assert set(done.held) == {4, 6, 7}
    assert done.held[VersionNumber(7)] == "it is stable on local"
    assert done.held[VersionNumber(4)] == "it is canary on local"
    for version in (4, 6, 7):
        with pytest.raises(VersionHeldError, match=f"half@{version} is not retired"):
            retire(versions, 8, version)
    assert versions.rollback().version == 7
    assert versions.rollback().version == 6


def test_a_dry_run_retires_nothing(versions: World) -> None:
    assert retire(versions, keep=5, dry_run=True).versions == (4,)

    assert versions.repository.versions(HALF) == (1, 2, 3, 4, 5, 6, 7, 8, 9)


def test_a_version_that_is_not_there_is_not_retired(versions: World) -> None:
    with pytest.raises(VersionNotFoundError):
        retire(versions, 9, 17)

    assert 9 in versions.repository.versions(HALF)
    empty = RetireRequest(HALF.__class__("none"), keep=1)
    with pytest.raises(ModelNotFoundError):
        Retire(versions.repository, versions.lineage, [versions.target], versions.context)(empty)


def test_nothing_is_retired_while_an_operation_is_under_way(versions: World) -> None:
    under_way = versions.lock("op-other").hold(model=HALF, purpose="promote half@9", timeout_s=1.0)
    with under_way, pytest.raises(LockedError):
        retire(versions, 4)

    assert retire(versions, 4).versions == (4,)
