"""`inspect --values` of files that TensorFlow and Keras wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployctl.cli.app import app
from deployctl.convert.request import Result
from tests.support.sources import KeptChild

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("convert")]


def figures(path: Path, name: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["inspect", str(path), "--values", name, "-o", "json"])
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_a_weight_is_the_same_in_a_keras_file_and_in_the_tflite_file_that_is_made_of_it(
    kept_child: KeptChild, sources: Path, tmp_path: Path
) -> None:
    kept_child.convert(tmp_path / "digits.tflite", sources / "digits.keras", result=Result.TFLITE)
    listed = CliRunner().invoke(app, ["inspect", str(tmp_path / "digits.tflite"), "-o", "json"])
    (name,) = (each["name"] for each in json.loads(listed.stdout)["tensors"] if each["shape"] == [3, 64])

    kernel = figures(sources / "digits.keras", "layers/dense/vars/0")
    constant = figures(tmp_path / "digits.tflite", name)

    assert (kernel["shape"], constant["shape"]) == ([64, 3], [3, 64])
    assert constant["first"][:2] == [kernel["first"][0], kernel["first"][3]]
    assert {key: kernel[key] for key in ("count", "minimum", "maximum")} == {
        key: constant[key] for key in ("count", "minimum", "maximum")
    }


def test_weights_of_an_hdf5_file_are_told(sources: Path) -> None:
    found = figures(sources / "planet.h5", "model_weights/weather/weather/bias")

    assert found["first"] == [0.0] * 4


@pytest.mark.parametrize("name", ["digits.keras", "planet.h5"])
def test_a_weight_that_is_not_there_is_refused(sources: Path, name: str) -> None:
    result = CliRunner().invoke(app, ["inspect", str(sources / name), "--values", "nothing"])

    assert result.exit_code == 9
    assert f"{name} has no weight 'nothing'" in result.stderr
    assert f"hint:  deployctl inspect {sources / name} --variables" in result.stderr
