"""`convert` as a user types it: what it writes, what it refuses, and how it is interrupted."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.models import ROOT
from tests.support.workspace import Workspace

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("articles")]

# What every process does first: TensorFlow cannot be imported after it.
WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """An initialised workspace; nothing runs."""
    return Workspace.make(tmp_path_factory.mktemp("conversion"))


def written(place: Workspace) -> set[str]:
    return {path.name for path in place.root.iterdir()}


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("keras", "{labels.txt}"), 1, "is no SavedModel, frozen graph, checkpoint, Keras model or TFLite file"),
        (("keras", "nowhere.keras"), 1, "does not exist"),
        (("keras", "{a.pb}"), 2, "is a frozen graph, not a keras"),
        (("frozen", "{a.pb}", "{b.pb}", "--prefix", "one"), 2, "--prefix one names 1 graphs, and there are 2"),
        (("bundle", "m={a.pb}", "m={b.pb}"), 2, "two models have the name 'm'"),
        (
            ("tflite", "{planet.h5}", "--publish", "m"),
            2,
            "--publish takes a SavedModel, and the result is another: TFLite file",
        ),
        (("keras", "{planet.h5}", "--decode-image", "input_image=8by8"), 2, "is not INPUT=HEIGHTxWIDTH"),
        (("checkpoint", "{trained.ckpt}", "--outputs", "y"), 2, "--outputs 'y' is not NAME=NAME"),
        (("signatures", "{training_and_serving}", "--merge", "x=y"), 2, "--merge 'x=y' is not NEW=NAME,NAME"),
        (("keras", "{planet.h5}", "--publish", "no/name"), 2, "cannot name a model"),
        (
            ("tflite", "{training_and_serving}", "--tags", "train", "--tags", "serve"),
            2,
            "--tags names the MetaGraphs train and serve, and a TFLite file is made of one",
        ),
        (("keras", "{planet.h5}", "--scale", "0.5"), 2, "--scale 0.5 changes nothing without --decode-image"),
        (("keras", "{ids.keras}", "--unknown", "zeros"), 2, "--unknown zeros changes nothing without --vectors"),
        (("keras", "{planet.h5}", "--scores", "x"), 2, "--scores x changes nothing without --labels, --classify or"),
        (("keras", "{planet.h5}", "--rtol", "nan"), 2, "--rtol nan is no finite number"),
        (("frozen", "{a.pb}", "--atol", "inf"), 2, "--atol inf is no finite number"),
        (("keras", "{planet.h5}", "--decode-image", "x", "--scale", "nan"), 2, "--scale nan is no finite number"),
        (("keras", "{planet.h5}", "--signature", ""), 2, "--signature '' is no name of a signature"),
        (("keras", "{planet.h5}", "--out", "o\udcff"), 2, "the path 'o\\udcff' is not UTF-8"),
        (
            ("frozen", "{a.pb}", "{b.pb}", "--prefix", "a,b", "--outputs", "c/q=mul:0"),
            2,
            "--outputs 'c/q' is for none of the models, which are a, b",
        ),
        (("frozen", "{a.pb}", "{b.pb}", "--prefix", "a,"), 2, "--prefix 'a,' holds an empty name"),
        (("frozen", "{a.pb}", "{a.pb}"), 2, "two graphs have the name 'a': name them with --prefix"),
        (("frozen", "x=a.pb", "y=a.pb"), 2, "x=a.pb does not exist, and names of graphs are given with --prefix"),
        (("bundle", "={a.pb}"), 2, "a.pb' is not NAME=PATH"),
        (("bundle", "m="), 2, "'m=' is not NAME=PATH"),
        (("tagged", "{planet.h5}"), 2, "give TAGS=PATH for each model"),
        (("tagged", "a,b={planet.h5}", "b,a={a.pb}"), 2, "two MetaGraphs would have the tags 'a,b'"),
    ],
)
def test_wrong_words_and_files_are_told_before_tensorflow_is_started(
    place: Workspace, sources: Path, tmp_path: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    before = written(place)
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TENSORFLOW)
    without = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    stderr = place.fails(code, "convert", *(_filled(word, sources) for word in words), environment=without)

    assert told in stderr
    assert written(place) == before


def test_where_nothing_can_be_published_nothing_is_converted(sources: Path, tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    stderr = place.fails(2, "convert", "frozen", str(sources / "a.pb"), "--publish", "m", "--out", "converted")

    assert "there is no deployctl.toml" in stderr
    assert written(place) == set()


def _filled(word: str, sources: Path) -> str:
    before, brace, name = word.partition("{")
    return f"{before}{sources / name.removesuffix('}')}" if brace else word


def test_a_lambda_is_refused_with_the_words_that_would_allow_it(place: Workspace, sources: Path) -> None:
    stderr = place.fails(1, "convert", "keras", str(sources / "lambda.h5"), hint="--allow-lambda triple")

    assert "holds the Lambda layer 'triple', whose code would run when it is loaded" in stderr
    assert "lambda" not in written(place)


def test_an_interrupted_conversion_leaves_nothing_behind(place: Workspace, sources: Path) -> None:
    before = written(place)
    process = place.start("convert", "keras", str(sources / "planet.h5"), "--out", "interrupted")
    try:
        child = _child_of(process.pid)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()

    assert process.returncode == 130
    assert stderr.endswith("interrupted\n")
    assert not Path(f"/proc/{child}").exists()
    assert written(place) == before


def test_what_a_killed_conversion_leaves_is_cleared_by_the_next(place: Workspace, sources: Path) -> None:
    words = ("convert", "frozen", str(sources / "a.pb"))
    before = written(place)
    process = place.start(*words)
    try:
        _child_of(process.pid)
    finally:
        process.kill()
        process.communicate()
    (left,) = written(place) - before
    table = place.ok(*words)

    assert left.startswith(".a.deployctl-")
    assert written(place) - before == {"a"}
    assert (place.root / "a" / "saved_model.pb").is_file()
    assert table.splitlines()[0] == "a   SavedModel"
    assert "parity      serving_default y: off by up to 0" in table
    place.fails(2, *words, hint="ls -ld a")


def _child_of(pid: int) -> int:
    """The TensorFlow process, once it runs."""
    deadline = time.monotonic() + 20
    file = Path(f"/proc/{pid}/task/{pid}/children")
    while time.monotonic() < deadline:
        for child in file.read_text().split():
            if b"deployctl.convert.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        os.sched_yield()
    raise AssertionError("no child was started")
