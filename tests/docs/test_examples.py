"""Every terminal transcript of the documentation is what happens when its commands are typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deployctl.config.load import load
from tests.docs.console import ROOT, matches, steps, workspace

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_EXAMPLES = [page for page in PAGES if "```console" in page.read_text(encoding="utf-8")]
WITH_SETTINGS = [page for page in PAGES if "```toml" in page.read_text(encoding="utf-8")]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.tensorflow
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name)
def test_the_page_shows_what_happens(page: Path, tmp_path: Path) -> None:
    with workspace(tmp_path) as place:
        ran = place.run(steps(page.read_text(encoding="utf-8")))
    wrong = [f"{name(page)}:{each.step.line}: {each.step.command}\n{each.differs}" for each in ran if each.differs]
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("page", WITH_SETTINGS, ids=name)
def test_the_page_shows_settings_that_load(page: Path, tmp_path: Path) -> None:
    for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        (tmp_path / "deployctl.toml").write_text(block)
        assert load(environment={}, directory=tmp_path).settings


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    comments = re.findall(r"<!--\s*not run.*?-->", page.read_text(encoding="utf-8"), re.DOTALL)
    assert all(re.fullmatch(r"<!-- not run: \S.*-->", comment) for comment in comments)


def test_an_ellipsis_stands_for_any_number_of_lines() -> None:
    assert matches(["a", "...", "d"], ["a", "b", "c", "d"])
    assert matches(["a", "..."], ["a"])
    assert not matches(["a", "...", "d"], ["a", "b"])


def test_times_digests_and_alignment_may_differ() -> None:
    shown = "half@2  published   sha256:1439bb6c…   4 files, 8.8 kB   0.06 s"
    assert matches([shown], ["half@2  published  sha256:00000000…  4 files, 8.8 kB   1.3 s"])
    assert not matches([shown], ["half@3  published  sha256:00000000…  4 files, 8.8 kB   1.3 s"])
