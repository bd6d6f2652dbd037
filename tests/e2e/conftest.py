from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """An initialised workspace; nothing runs."""
    workspace = Workspace.make(tmp_path / "work")
    yield workspace
    workspace.down()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace whose server runs, shared by a module: each test has models of its own."""
    workspace = Workspace.make(tmp_path_factory.mktemp("served"))
    workspace.ok("up")
    yield workspace
    workspace.down()
