from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from deployctl.convert.workplace import workplace
from deployctl.processes import this_process


@pytest.mark.parametrize(
    ("changed", "stays"),
    [({"started": "0"}, False), ({"boot": "an earlier one"}, False), ({}, True), ({"host": "elsewhere"}, True)],
)
def test_only_what_dead_processes_of_this_machine_left_is_cleared(
    tmp_path: Path, changed: dict[str, str], stays: bool
) -> None:
    left = tmp_path / ".out.deployctl-left"
    left.mkdir()
    (left / "owner.json").write_text(json.dumps(asdict(this_process()) | changed))

    with workplace(tmp_path, ".out.deployctl-") as work:
        assert left.exists() is stays
        assert work.is_dir()

    assert not work.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"pid": 1}'])
def test_what_does_not_say_whose_it_is_stays(tmp_path: Path, content: str) -> None:
    left = tmp_path / ".out.deployctl-left"
    left.mkdir()
    (left / "owner.json").write_text(content)

    with workplace(tmp_path, ".out.deployctl-"):
        assert left.exists()
