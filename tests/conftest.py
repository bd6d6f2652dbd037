"""Fixtures that every test may ask for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

# "ci" draws the same examples every time, so that no change is refused for a draw that it did not cause;
# everywhere else each run draws new ones.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

pytest_plugins = [
    "tests.support.models",
    "tests.support.sources",
    "tests.support.model_server",
    "tests.support.docker",
    "tests.support.s3",
]


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Has what TensorFlow and others leave of temporary files, also when they are killed, go with the run's own."""
    directory = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", directory)
        patch.setattr(tempfile, "tempdir", directory)
        yield
