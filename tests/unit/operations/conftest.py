from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A running server, versions 1 to 3 of `half`, nothing promoted."""
    world = World(tmp_path / "models")
    world.add(1, 2, 3)
    world.up()
    return world
