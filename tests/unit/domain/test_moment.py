from __future__ import annotations

from datetime import UTC, datetime

import pytest

from deployctl.domain.moment import parse_moment
from deployctl.errors import UsageError

NOW = datetime(2026, 11, 21, 14, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("14:00", datetime(2026, 11, 21, 14, 0, tzinfo=UTC)),
        ("9:05", datetime(2026, 11, 21, 9, 5, tzinfo=UTC)),
        ("14:30", NOW),
        ("14:31", datetime(2026, 11, 20, 14, 31, tzinfo=UTC)),
        ("23:59:59", datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC)),
        ("2026-11-01T08:00:00Z", datetime(2026, 11, 1, 8, 0, tzinfo=UTC)),
        ("2026-11-01T08:00:00+02:00", datetime(2026, 11, 1, 6, 0, tzinfo=UTC)),
        ("2026-11-01 08:00", datetime(2026, 11, 1, 8, 0, tzinfo=UTC)),
    ],
)
def test_a_moment_is_the_last_one_that_is_meant(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "noon", "24:00", "14:60", "14", "2026-13-01", "14:00:61", "\u0661\u0664:00"])
def test_what_is_no_moment_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="is no moment: write 14:00 or"):
        parse_moment(text, NOW)


def test_a_moment_to_come_is_refused() -> None:
    with pytest.raises(UsageError, match="still to come; it is 2026-11-21T14:30:00Z now"):
        parse_moment("2026-11-22", NOW)
