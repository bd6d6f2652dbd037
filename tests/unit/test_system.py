from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from deployctl.system import SystemClock, find_actor, new_operation


def test_the_actor_is_the_user_on_this_machine_with_the_command_as_typed() -> None:
    actor = find_actor({}, ["deployctl", "promote", "half@1", "-m", "two words"])

    assert actor.host == os.uname().nodename
    assert actor.user
    assert actor.command == "deployctl promote half@1 -m 'two words'"
    assert str(actor) == f"{actor.user}@{actor.host}"


def test_a_password_in_the_command_is_not_recorded() -> None:
    actor = find_actor({}, ["deployctl", "--set", "lineage.url=postgresql://ada:s3cret@db/x", "up"])

    assert "s3cret" not in actor.command
    assert "ada:***@db" in actor.command


def test_a_word_that_is_no_text_is_recorded_escaped() -> None:
    actor = find_actor({}, ["deployctl", "publish", os.fsdecode(b"\xff")])

    actor.command.encode()
    assert r"\udcff" in actor.command


@pytest.mark.parametrize(
    ("environment", "ci"),
    [
        ({}, ""),
        ({"CI": "false"}, ""),
        ({"CI": "true"}, "ci"),
        ({"CI": "true", "CI_JOB_URL": "https://gitlab.example/7"}, "https://gitlab.example/7"),
        ({"BUILD_URL": "https://jenkins.example/7"}, "https://jenkins.example/7"),
        (
            {
                "GITHUB_ACTIONS": "true",
                "GITHUB_SERVER_URL": "https://github.example",
                "GITHUB_REPOSITORY": "a/b",
                "GITHUB_RUN_ID": "7",
            },
            "https://github.example/a/b/actions/runs/7",
        ),
    ],
)
def test_the_ci_job_is_named_as_exactly_as_the_ci_tells(environment: dict[str, str], ci: str) -> None:
    actor = find_actor(environment, ["deployctl"])

    assert actor.ci == ci
    assert str(actor).endswith("@ci") == bool(ci)


def test_operations_sort_by_time_and_differ_within_a_second() -> None:
    at = datetime(2026, 11, 21, 7, 0, 0, tzinfo=UTC)

    assert new_operation(at) != new_operation(at)
    assert new_operation(at) < new_operation(at.replace(second=1))
    assert new_operation(at.replace(microsecond=4_000)) < new_operation(at.replace(microsecond=5_000))


def test_the_clock_tells_utc_and_pauses() -> None:
    clock = SystemClock()
    before = clock.monotonic()

    clock.pause(0.01)

    assert clock.now().tzinfo is UTC
    assert clock.monotonic() - before >= 0.009
