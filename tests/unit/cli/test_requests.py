from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployctl.cli.requests import read_request
from deployctl.errors import InvalidRequestError


def test_reads_rows_columns_and_a_file_of_either(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text('{"inputs": {"x": [1.0]}}')

    assert read_request("[1, 2]", None, None).instances == [1, 2]
    assert read_request(None, '{"x": 3}', None).inputs == {"x": 3}
    assert read_request(None, None, file).inputs == {"x": [1.0]}


@pytest.mark.parametrize("given", [(None, None, None), ("[]", "[]", None), ("[]", None, Path("x"))])
def test_exactly_one_form_is_given(given: tuple[str | None, str | None, Path | None]) -> None:
    with pytest.raises(InvalidRequestError, match="exactly one of"):
        read_request(*given)


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nul", "1" * 5000, "'x'"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="--instances is not JSON"):
        read_request(text, None, None)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_that_no_tensor_has_is_refused(opening: str) -> None:
    with pytest.raises(InvalidRequestError, match="--instances is nested too deeply"):
        read_request(opening * 100_000, None, None)


@pytest.mark.parametrize("text", ["3", '"x"', "null", '{"x": 1}', "true"])
def test_instances_are_a_list(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="instances that are not a list"):
        read_request(text, None, None)


@pytest.mark.parametrize("document", [[], 3, {}, {"x": 1}, {"instances": [1], "inputs": [1]}, None])
def test_a_file_holds_one_of_the_two_keys(tmp_path: Path, document: object) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(document))

    with pytest.raises(InvalidRequestError, match='is not an object with "instances" or "inputs"'):
        read_request(None, None, file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b'{"inputs": "\xe9"}')

    for name, words in (("absent", "No such file"), (".", "Is a directory"), ("latin", "is not UTF-8")):
        with pytest.raises(InvalidRequestError, match=words):
            read_request(None, None, tmp_path / name)


def test_a_file_names_its_signature_and_the_option_may_only_agree(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text('{"signature_name": "regress", "instances": [1.0]}')

    assert read_request(None, None, file).signature == "regress"
    assert read_request(None, None, file, signature="regress").signature == "regress"
    assert read_request("[1.0]", None, None, signature="regress").signature == "regress"
    with pytest.raises(InvalidRequestError, match="names signature 'regress', and --signature 'classify'"):
        read_request(None, None, file, signature="classify")


@pytest.mark.parametrize(("key", "value"), [("signature", "regress"), ("signature_name", None), ("signature_name", 3)])
def test_what_a_server_does_not_read_in_a_file_is_refused(tmp_path: Path, key: str, value: object) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"instances": [1.0], key: value}))

    with pytest.raises(InvalidRequestError, match=key):
        read_request(None, None, file)
