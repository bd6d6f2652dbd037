"""Fixtures that every test may ask for."""

from __future__ import annotations

import os

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
