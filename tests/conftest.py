"""Fixtures that every test may ask for."""

from __future__ import annotations

import os
import shutil
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
def temporary_files() -> Iterator[None]:
    """Has what TensorFlow and others leave of temporary files, also when they are killed, go with the run.

    Not among pytest's own, which other users may not pass through.
    """
    directory = tempfile.mkdtemp(prefix="deployctl-tests-")
    os.chmod(directory, 0o1777)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", directory)
        patch.setattr(tempfile, "tempdir", directory)
        yield
    shutil.rmtree(directory, ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Leaves nothing of a run that passed; pytest would keep what the last three have made.

    At the end of all and not with each test, since what a module shares may lie where one of its tests has made it.
    """
    if exitstatus == pytest.ExitCode.OK and not hasattr(session.config, "workerinput"):
        shutil.rmtree(session.config._tmp_path_factory.getbasetemp(), ignore_errors=True)  # type: ignore[attr-defined]  # noqa: SLF001
