"""What a publishing tells of bytes that are there already."""

from __future__ import annotations

from dataclasses import replace

from deployctl.domain.manifest import Provenance
from deployctl.operations.publish import Publish, PublishRequest
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from tests.support.serving import HALF_PLUS_TWO
from tests.support.world import HALF, World

GIVEN = Provenance(
    source="s3://exports/1", run="run-7", code="abc123", metrics={"accuracy": 0.9}, tags={"stage": "gold"}
)


def publisher(world: World) -> Publish:
    return Publish(world.repository, ProtobufSavedModelReader(), world.lineage, world.context)


def test_what_the_version_with_the_same_bytes_does_not_take_is_told(world: World) -> None:
    publish = publisher(world)
    publish(PublishRequest(HALF_PLUS_TWO, HALF))

    again = publish(PublishRequest(HALF_PLUS_TWO, HALF, GIVEN))

    (warning,) = world.journal.warnings
    assert not again.created
    assert warning.startswith(f"half@{again.version} has the same bytes and keeps its origin; not recorded: ")
    for lost in ("metric accuracy", "tag stage", "run", "code", "--new-version"):
        assert lost in warning
    assert publish(replace(PublishRequest(HALF_PLUS_TWO, HALF, GIVEN), allow_duplicate=True)).created


def test_the_same_said_again_is_no_loss(world: World) -> None:
    publish = publisher(world)
    publish(PublishRequest(HALF_PLUS_TWO, HALF, GIVEN))

    assert not publish(PublishRequest(HALF_PLUS_TWO, HALF, replace(GIVEN, source="/elsewhere"))).created

    assert world.journal.warnings == []
