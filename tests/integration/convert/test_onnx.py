"""ONNX files, where tf2onnx is installed; and what is said where it is not."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from deployctl.convert.request import Result
from deployctl.errors import ConversionError, GateRefusedError
from tests.support.models import skip_or_fail
from tests.support.sources import KeptChild

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("convert")]


@pytest.fixture
def tf2onnx() -> None:
    if find_spec("tf2onnx") is None:
        skip_or_fail("onnx", "tf2onnx is not installed")


@pytest.mark.skipif(find_spec("tf2onnx") is not None, reason="tf2onnx is installed")
def test_without_tf2onnx_it_is_told_what_to_install(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="tf2onnx, which writes ONNX files, is not installed") as refused:
        kept_child.convert(tmp_path / "m.onnx", sources / "planet.h5", result=Result.ONNX)

    assert refused.value.hint == "pip install tf2onnx"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tf2onnx")
@pytest.mark.parametrize("name", ["planet.h5", "ids.keras", "trained.ckpt"])
def test_an_onnx_file_answers_as_its_source(kept_child: KeptChild, sources: Path, tmp_path: Path, name: str) -> None:
    given = {"outputs": {"y": "y:0"}} if name == "trained.ckpt" else {}
    converted = kept_child.convert(tmp_path / "m.onnx", sources / name, result=Result.ONNX, **given)

    (signature,) = converted.signatures.values()
    assert {each.output for each in converted.differences} == set(signature["outputs"])
    assert all(each.within and each.largest is not None for each in converted.differences)
    assert converted.not_compared == ""


@pytest.mark.usefixtures("tf2onnx")
def test_an_onnx_file_beyond_tolerance_is_not_written(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    with pytest.raises(GateRefusedError, match="nothing was written") as refused:
        kept_child.convert(tmp_path / "m.onnx", sources / "planet.h5", result=Result.ONNX, rtol=0.0, atol=0.0)

    assert refused.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []
