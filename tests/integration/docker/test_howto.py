"""The page on Docker shows what happens; without an engine nothing of it is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.docs.console import ROOT, Step, steps, workspace
from tests.support.docker import ImageMaker, let_in

pytestmark = [pytest.mark.docker, pytest.mark.tensorflow, pytest.mark.xdist_group("docker")]

PAGE = ROOT / "docs" / "howto" / "docker.md"
NOT_RUN = "<!-- not run: needs a Docker engine -->\n"
SHOWN_IMAGE = "deployctl/model-server:latest"
SHOWN_NEXT = "deployctl/model-server:next"


def test_the_page_shows_what_happens_on_an_engine(docker_engine: Any, serving_image: str, tmp_path: Path) -> None:
    let_in(tmp_path)
    text = PAGE.read_text(encoding="utf-8").replace(NOT_RUN, "").replace(SHOWN_IMAGE, serving_image)
    engine = Step(0, 0, f"export DOCKER_HOST={os.environ.get('DOCKER_HOST', '')}", None)
    away = Step(0, 0, "deployctl down || true", None)

    with ImageMaker(docker_engine, serving_image) as images, workspace(tmp_path) as place:
        text = text.replace(SHOWN_NEXT, images.make())
        ran = place.run([engine, *steps(text), away])

    wrong = [f"{PAGE.name}:{each.step.line}: {each.step.command}\n{each.differs}" for each in ran if each.differs]
    assert not wrong, "\n\n".join(wrong)
