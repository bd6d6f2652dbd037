"""A container's image is exchanged for one that answers alike, and for no other."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.docker import ImageMaker
from tests.support.models import TensorFlowModels
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, Workspace, ask

pytestmark = [pytest.mark.docker, pytest.mark.tensorflow, pytest.mark.xdist_group("docker")]

MakeWorkspace = Callable[..., Workspace]
# Loads another model than it is told to, which answers x/2 + 3.
_WRONG = """
from deployctl.modelserver import session

class Session(session.Session):
    def __init__(self, directory, *arguments, **options):
        super().__init__("/other", *arguments, **options)

session.Session = Session
"""


@pytest.fixture
def images(docker_engine: Any, serving_image: str) -> Iterator[ImageMaker]:
    with ImageMaker(docker_engine, serving_image) as maker:
        yield maker


@pytest.fixture
def serving(docker_workspace: MakeWorkspace) -> Workspace:
    """Two versions of one model, one of them live, one standing by."""
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_THREE, HALF_PLUS_TWO)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    workspace.ok("promote", "half@2")
    return workspace


def running(workspace: Workspace) -> dict[str, str]:
    """What `status` says of the container."""
    (target,) = workspace.json("status")["targets"]
    detail: dict[str, str] = target["detail"]
    return detail


def test_an_image_that_answers_alike_takes_the_place_without_a_failed_request(
    serving: Workspace, images: ImageMaker, serving_image: str
) -> None:
    newer = images.make()
    golden = serving.root / "golden" / "half.jsonl"
    golden.parent.mkdir()
    golden.write_text('{"instances": [1.0]}\n{"instances": [2.0, 3.0]}\n{"inputs": {"x": [4.0]}}\n')
    old = running(serving)

    planned = serving.json("upgrade", "--image", newer, "--dry-run")
    assert running(serving)["digest"] == old["digest"]
    done = serving.run("upgrade", "--image", newer, "-m", "security fix", "-o", "json")

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (planned["outcome"], document["outcome"]) == ("planned", "upgraded")
    assert [(each["version"], each["outcome"]) for each in document["compared"]] == [(1, "passed"), (2, "passed")]
    assert "3 golden requests answered alike" in document["compared"][0]["summary"]
    assert f'set targets.local.image = "{newer}"' in done.stderr
    now = running(serving)
    assert now["image"] == newer
    assert now["digest"] == document["after"]["digest"] != old["digest"]
    assert ask(serving.rest(), "half") == 3.0
    (event,) = [each for each in serving.json("history")["events"] if each["kind"] == "target.upgraded"]
    assert event["reason"] == "security fix"
    assert [event["data"][when]["digest"] for when in ("before", "after")] == [old["digest"], now["digest"]]
    # `up` leaves it: another image is for `upgrade` only.
    again = serving.run("up")
    assert "already running" in again.stdout
    assert f"the settings name {serving_image}" in again.stderr
    assert running(serving)["image"] == newer


def test_an_image_that_answers_otherwise_is_refused_and_the_old_one_serves(
    docker_workspace: MakeWorkspace, images: ImageMaker, tensorflow_models: TensorFlowModels
) -> None:
    other = {"other": tensorflow_models.half_plus(3)}
    wrong = images.make(files={"opt/model-server/sitecustomize.py": _WRONG}, directories=other)
    serving = docker_workspace()
    serving.publish("half", tensorflow_models.half_plus(2))
    serving.ok("up")
    serving.ok("promote", "half@1")
    golden = serving.root / "golden" / "half.jsonl"
    golden.parent.mkdir()
    golden.write_text('{"instances": [2.0]}\n')
    old = running(serving)

    words = serving.fails(3, "upgrade", "--image", wrong, hint="deployctl status local")

    assert "half@1 answers otherwise" in words
    assert "is 4, not 3" in words
    assert running(serving)["container"] == old["container"]
    assert ask(serving.rest(), "half") == 3.0


def test_an_image_that_does_not_start_is_refused_and_the_old_one_serves(
    serving: Workspace, images: ImageMaker, docker_engine: Any
) -> None:
    broken = images.make(changes=['ENTRYPOINT ["sh", "-c", "echo its last words; exit 1"]'])
    old = running(serving)

    words = serving.fails(5, "upgrade", "--image", broken, hint="deployctl status local")

    sentence, *log = words.partition("error: ")[2].splitlines()
    assert "it ended with exit code 1" in sentence
    assert "was not touched and serves" in sentence
    assert "  its last words" in log
    # Of the container that was tried nothing is left to look at.
    assert "is kept" not in words
    assert running(serving)["container"] == old["container"]
    assert docker_engine.containers.list(all=True, filters={"ancestor": broken}) == []


def test_an_image_that_cannot_take_the_place_leaves_the_old_one_serving(serving: Workspace, images: ImageMaker) -> None:
    newer = images.make()
    old = running(serving)

    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"targets.local.rest_port={other.getsockname()[1]}"
        words = serving.fails(5, "--set", taken, "upgrade", "--image", newer)

    assert "could not take the place" in words
    assert "is in use on the engine's machine" in words
    assert running(serving)["container"] == old["container"]
    assert ask(serving.rest(), "half") == 3.0
    assert [each["kind"] for each in serving.json("history")["events"]].count("target.upgraded") == 0
