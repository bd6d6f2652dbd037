from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.remote import client_of
from tests.support.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """An initialised workspace; nothing runs."""
    workspace = Workspace.make(tmp_path / "work")
    yield workspace
    workspace.down()


@pytest.fixture(params=["here", "elsewhere"])
def either_way(workspace: Workspace, request: pytest.FixtureRequest) -> Iterator[Workspace]:
    """As `workspace`, with commands that run here, and then with commands that a daemon runs for a client elsewhere."""
    if request.param == "here":
        yield workspace
        return
    with client_of(workspace) as client:
        yield client


@pytest.fixture(scope="module", params=["here", "elsewhere"])
def served_either_way(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Workspace]:
    """As `served`, with commands that run here, and then with commands that a daemon runs for a client elsewhere."""
    workspace = Workspace.make(tmp_path_factory.mktemp("served"))
    try:
        if request.param == "here":
            workspace.ok("up")
            yield workspace
            return
        with client_of(workspace) as client:
            client.ok("up")
            yield client
    finally:
        workspace.down()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace whose server runs, shared by a module: each test has models of its own."""
    workspace = Workspace.make(tmp_path_factory.mktemp("served"))
    workspace.ok("up")
    yield workspace
    workspace.down()
