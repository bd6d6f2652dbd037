from __future__ import annotations

import pytest

from deployctl.domain.secret import masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:s3cret@db/lineage", "postgresql://ada:***@db/lineage"),
        ("postgresql+psycopg://ada:a@b@db:5432/x", "postgresql+psycopg://ada:***@db:5432/x"),
        ("postgresql://:s3cret@db/x", "postgresql://:***@db/x"),
        ("postgresql://db/x?user=ada&password=s3cret&a=1", "postgresql://db/x?user=ada&password=***&a=1"),
        (
            "deployctl --set lineage.url=postgresql://a:b@c/d up",
            "deployctl --set lineage.url=postgresql://a:***@c/d up",
        ),
        ("sqlite:///deployctl.db", "sqlite:///deployctl.db"),
        ("http://127.0.0.1:8501/v1", "http://127.0.0.1:8501/v1"),
        ("half@1 at http://h:1/x", "half@1 at http://h:1/x"),
    ],
)
def test_shows_everything_but_the_password(text: str, shown: str) -> None:
    assert masked(text) == shown
