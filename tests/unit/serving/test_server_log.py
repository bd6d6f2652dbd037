"""Reading a log that a server appends to."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployctl.serving.server_log import ServerLog, line_time

LINES = [
    "2026-11-21T07:00:00.000Z starting",
    "2026-11-21T07:00:01.000Z loading",
    "  a line without a time",
    "2026-11-21T07:00:02.000Z ready",
]


@pytest.fixture
def log(tmp_path: Path) -> ServerLog:
    return ServerLog(tmp_path / "server.log")


def write(log: ServerLog, *lines: str, end: str = "\n") -> None:
    with log.path.open("a") as file:
        file.write("\n".join(lines) + end)


def test_gives_the_last_lines_oldest_first(log: ServerLog) -> None:
    write(log, *LINES)

    assert list(log.read(lines=2, since=None, follow=False)) == LINES[-2:]


def test_gives_lines_since_a_moment_with_the_untimed_ones_that_belong_to_them(log: ServerLog) -> None:
    write(log, *LINES)

    since = datetime(2026, 11, 21, 7, 0, 1, tzinfo=UTC)

    assert list(log.read(lines=None, since=since, follow=False)) == LINES[1:]


def test_gives_the_older_file_before_the_newer(log: ServerLog) -> None:
    write(log, "old")
    log.rotate(limit_bytes=1)
    write(log, "new")

    assert list(log.read(lines=None, since=None, follow=False)) == ["old", "new"]


def test_keeps_a_log_that_is_small(log: ServerLog) -> None:
    write(log, "small")
    log.rotate(limit_bytes=1000)

    assert log.path.exists()
    assert not log.older.exists()


def test_a_missing_log_has_no_lines(log: ServerLog) -> None:
    log.rotate(limit_bytes=1)

    assert list(log.read(lines=None, since=None, follow=False)) == []
    assert log.tail(5) == ()


def test_a_tail_starts_where_it_is_told_to(log: ServerLog) -> None:
    write(log, "earlier start")
    start = log.size()
    write(log, "this start", "its end")

    assert log.tail(40, start=start) == ("this start", "its end")


def test_following_gives_new_lines_once_they_are_whole_also_after_a_rotation(log: ServerLog) -> None:
    write(log, "first")
    following = log.read(lines=None, since=None, follow=True)
    assert next(following) == "first"

    write(log, "sec", end="")
    write(log, "ond")
    assert next(following) == "second"

    log.rotate(limit_bytes=1)
    write(log, "after the rotation")
    assert next(following) == "after the rotation"


def test_following_starts_before_there_is_a_log(log: ServerLog) -> None:
    following = log.read(lines=None, since=None, follow=True)
    write(log, "first")

    assert next(following) == "first"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2026-11-21T07:00:01Z x", datetime(2026, 11, 21, 7, 0, 1, tzinfo=UTC)),
        ("2026-11-21T08:00:01.5+01:00 x", datetime(2026, 11, 21, 7, 0, 1, 500000, tzinfo=UTC)),
        ("[2026-11-21 07:00:01.123456789Z] x", datetime(2026, 11, 21, 7, 0, 1, 123456, tzinfo=UTC)),
        ("2026-11-21 07:00:01,250 INFO x", datetime(2026, 11, 21, 7, 0, 1, 250000).astimezone(UTC)),  # noqa: DTZ001
        ("I0000 00:00:1795244401.250000    1926 port.cc:153] x", datetime(2026, 11, 21, 7, 0, 1, 250000, tzinfo=UTC)),
        ("2026-11-21 07:00:01,250.250: I x", datetime(2026, 11, 21, 7, 0, 1, 250000).astimezone(UTC)),  # noqa: DTZ001
        ("2026-13-21 07:00:01 x", None),
        ("Traceback (most recent call last):", None),
        ("", None),
    ],
)
def test_finds_the_time_of_a_line(line: str, expected: datetime | None) -> None:
    assert line_time(line) == expected
