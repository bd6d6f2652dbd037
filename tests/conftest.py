"""Fixtures that every test may ask for."""

from __future__ import annotations

pytest_plugins = [
    "tests.support.models",
    "tests.support.sources",
    "tests.support.model_server",
    "tests.support.docker",
    "tests.support.s3",
]
