"""Which directory entries are versions, and which of them a policy wants."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from deployctl.modelserver.model_config import ConfiguredModel, PolicyKind, VersionPolicy
from deployctl.modelserver.versions import (
    BasePathMissingError,
    aspired_versions,
    versions_by_number,
    wanted_versions,
)

AVAILABLE = {1: "1", 2: "2", 10: "0010"}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("1", 1),
        ("00000123", 123),
        ("+5", 5),
        ("-5", -5),
        (" 7", 7),
        ("7 ", 7),
        ("\t8\n", 8),
        ("-0", 0),
        ("9223372036854775807", 2**63 - 1),
        ("20170111173521", 20170111173521),
    ],
)
def test_names_that_upstream_parses_are_versions(name: str, number: int) -> None:
    assert versions_by_number([name]) == {number: name}


@pytest.mark.parametrize(
    "name", ["1_tmp", "1.0", "1.tmp", ".1", "tmp-1", "0x10", "1e3", "", "9223372036854775808", "٣", "1 2", "2.denied"]
)
def test_other_names_are_not_versions(name: str) -> None:
    assert versions_by_number([name]) == {}


def test_of_two_names_for_one_version_the_last_wins_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert versions_by_number(["1", "001"]) == {1: "1"}

    assert (
        "Duplicate version directories detected. Version 1 will be loaded from 1, 001 will be ignored." in caplog.text
    )


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (VersionPolicy(), [10]),
        (VersionPolicy(latest=0), [10]),
        (VersionPolicy(latest=2), [2, 10]),
        (VersionPolicy(latest=9), [1, 2, 10]),
        (VersionPolicy(PolicyKind.ALL), [1, 2, 10]),
        (VersionPolicy(PolicyKind.SPECIFIC, specific=frozenset({1, 99})), [1]),
        (VersionPolicy(PolicyKind.SPECIFIC), []),
    ],
)
def test_a_policy_chooses(policy: VersionPolicy, wanted: list[int]) -> None:
    assert list(wanted_versions(policy, AVAILABLE)) == wanted


def test_files_links_and_empty_directories_count(tmp_path: Path) -> None:
    (tmp_path / "4").write_text("")
    (tmp_path / "5").symlink_to("nowhere")
    (tmp_path / "006").mkdir()
    model = ConfiguredModel("m", str(tmp_path), policy=VersionPolicy(PolicyKind.ALL))

    assert aspired_versions(model) == {4: f"{tmp_path}/4", 5: f"{tmp_path}/5", 6: f"{tmp_path}/006"}


def test_a_missing_base_path_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(BasePathMissingError, match="Could not find base path .*/none for servable m"):
        aspired_versions(ConfiguredModel("m", str(tmp_path / "none")))

    assert aspired_versions(ConfiguredModel("m", str(tmp_path))) == {}
