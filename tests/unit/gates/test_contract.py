from __future__ import annotations

from pathlib import Path

import pytest

from deployctl.domain.saved_model import REGRESS_METHOD
from deployctl.errors import SettingsError
from deployctl.gates.contract import read_contract
from tests.support.gates import signature

TEXT = """
[serving_default.inputs]
image = { dtype = "float32", shape = [-1, 224, 224, 3] }
k = { dtype = "int32", shape = [], optional = true }
[serving_default.outputs]
scores = { dtype = "float32" }
[price]
method = "tensorflow/serving/regress"
"""


def test_a_contract_says_signatures(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(TEXT)
    inputs = {"image": "float32 ?,224,224,3", "k": "int32 ()"}
    assert read_contract(tmp_path / "m.toml") == {
        "serving_default": signature(inputs, {"scores": "float32"}, optional=frozenset({"k"})),
        "price": signature({}, {}, method=REGRESS_METHOD),
    }


def test_a_model_without_a_contract_has_none(tmp_path: Path) -> None:
    assert read_contract(tmp_path / "m.toml") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = [", "is not TOML"),
        ("serving_default = 3", "serving_default is not a table"),
        ("[s]\ninput = {}", "s has the unknown key 'input'"),
        ("[s.inputs]\nx = 'float32'", "s.inputs.x is not a table"),
        ("[s.inputs]\nx = { shape = [1] }", "s.inputs.x has no dtype"),
        ("[s.inputs]\nx = { dtype = 'float32', shape = ['?'] }", "has the shape"),
        ("[s.inputs]\nx = { dtype = 'float32', shape = [-2] }", "has the shape"),
        ("[s.outputs]\nx = { dtype = 'float32', type = 1 }", "unknown key 'type'"),
    ],
)
def test_what_is_no_contract_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(SettingsError, match=words):
        read_contract(tmp_path / "m.toml")
