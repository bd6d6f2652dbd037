"""Expectations ported from tensorflow_serving/util/json_tensor_test.cc, and what its parser and printer add."""

# ruff: noqa: E501 - tables of upstream's own words
from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deployctl.domain.saved_model import TensorSpec
from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.json_outputs import classify_json, error_json, predict_json, regress_json
from deployctl.modelserver.json_print import decimal_text, value_text
from deployctl.modelserver.json_tensors import ExamplesRequest, PredictRequest
from deployctl.modelserver.json_text import MAX_DEPTH, parse_object
from deployctl.modelserver.json_walk import walk_inputs, walk_instances
from deployctl.protos import example_pb2

INTEGER_TYPES = ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")


def specs(**dtypes: str) -> dict[str, TensorSpec]:
    return {name: TensorSpec(dtype, None) for name, dtype in dtypes.items()}


def read(body: str | bytes, **dtypes: str) -> dict[str, Any]:
    data = body.encode() if isinstance(body, str) else body
    return PredictRequest.parse(data).tensors(specs(**dtypes))


def refusal(body: str | bytes, **dtypes: str) -> str:
    with pytest.raises(StatusError) as caught:
        read(body, **dtypes)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


def bytes_array(values: object) -> Any:
    return np.array(values, object)


def text(outputs: Mapping[str, Any], *, by_row: bool = True) -> str:
    return predict_json(outputs, by_row=by_row).decode()


class TestReading:
    def test_reads_a_list_for_the_only_input(self) -> None:
        tensors = read('{"instances": [[1,2],[3,4],[5,6]]}', default="int32")
        assert tensors["default"].dtype == np.int32
        np.testing.assert_array_equal(tensors["default"], [[1, 2], [3, 4], [5, 6]])

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_whole_numbers_mix_with_decimals_in_a_float_tensor(self, dtype: str) -> None:
        tensors = read('{"instances": [1, 2.0, 3, 4, 5.003, 0.007, 0.0]}', default=dtype)
        np.testing.assert_array_equal(tensors["default"], np.array([1, 2, 3, 4, 5.003, 0.007, 0], dtype))

    def test_takes_the_signature_name_from_the_body(self) -> None:
        request = PredictRequest.parse(b'{"signature_name": "predict_images", "instances": [[1,2]]}')
        assert request.signature_name == "predict_images"
        assert request.by_row

    def test_decodes_base64_objects_at_any_depth(self) -> None:
        scalars = read('{"instances": [{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]}', s="string")
        assert scalars["s"].tolist() == [b"hello", b"world"]
        lists = read('{"instances": [[{"b64": "aGVsbG8="}], [{"b64": "d29ybGQ="}]]}', s="string")
        assert lists["s"].tolist() == [[b"hello"], [b"world"]]
        named = read('{"instances": [{"s": [[{"b64": "aGVsbG8="}], [{"b64": "d29ybGQ="}]]}]}', s="string")
        assert named["s"].tolist() == [[[b"hello"], [b"world"]]]

    @pytest.mark.parametrize("encoded", ["aGVsbG8=", "aGVsbG8", "aGVs\\nbG8=", "aGVsbG8."])
    def test_base64_may_lack_padding_and_hold_spaces(self, encoded: str) -> None:
        assert read(f'{{"inputs": {{"b64": "{encoded}"}}}}', s="string")["s"].item() == b"hello"

    def test_strings_and_base64_mix(self) -> None:
        assert read('{"instances": ["é", {"b64": "/w=="}]}', s="string")["s"].tolist() == ["é".encode(), b"\xff"]

    def test_reads_rows_of_named_tensors_with_non_finite_numbers(self) -> None:
        tensors = read(
            """{"instances": [
              {"i": [[1,2],[3,4],[5,6]], "s": ["foo", "bar"], "f": [1.0, NaN], "d": [NaN]},
              {"i": [[7,8],[9,0],[1,2]], "s": ["baz", "bat"], "f": [2.0, Infinity], "d": [-Infinity]}]}""",
            i="int32",
            s="string",
            f="float32",
            d="float64",
        )
        assert tensors["i"].shape == (2, 3, 2)
        assert tensors["s"].tolist() == [[b"foo", b"bar"], [b"baz", b"bat"]]
        np.testing.assert_array_equal(tensors["f"], np.array([[1, np.nan], [2, np.inf]], np.float32))
        np.testing.assert_array_equal(tensors["d"], np.array([[np.nan], [-np.inf]]))

    def test_reads_columns_named_or_not(self) -> None:
        for body in ('{"inputs": {"i": [[[1,2],[3,4],[5,6]]]}}', '{"inputs": [[[1,2],[3,4],[5,6]]]}'):
            request = PredictRequest.parse(body.encode())
            assert not request.by_row
            np.testing.assert_array_equal(request.tensors(specs(i="int32"))["i"], [[[1, 2], [3, 4], [5, 6]]])

    def test_reads_several_columns_one_of_them_a_base64_scalar(self) -> None:
        body = '{"inputs": {"i": [[1,2]], "s": ["foo"], "b": {"b64": "aGVsbG8="}}}'
        tensors = read(body, i="int32", s="string", b="string")
        assert tensors["b"].shape == ()
        assert tensors["b"].item() == b"hello"
        assert tensors["s"].tolist() == [b"foo"]

    def test_a_bare_value_is_a_scalar(self) -> None:
        assert read('{"inputs": 3}', x="float32")["x"].shape == ()
        assert read('{"inputs": {"x": true}}', x="bool")["x"].item() is True

    def test_empty_lists_give_empty_tensors(self) -> None:
        assert read('{"inputs": []}', x="float32")["x"].shape == (0,)
        assert read('{"instances": [[], []]}', x="int64")["x"].shape == (2, 0)

    def test_narrow_integers_wrap_as_in_upstream(self) -> None:
        assert read('{"instances": [300, -1]}', x="uint8")["x"].tolist() == [44, 255]
        assert read('{"instances": [128]}', x="int8")["x"].tolist() == [-128]

    @pytest.mark.parametrize(
        ("dtype", "lowest", "highest"),
        [
            ("int32", -(2**31), 2**31 - 1),
            ("int64", -(2**63), 2**63 - 1),
            ("uint32", 0, 2**32 - 1),
            ("uint64", 0, 2**64 - 1),
        ],
    )
    def test_integers_are_taken_up_to_their_range(self, dtype: str, lowest: int, highest: int) -> None:
        assert read(f'{{"instances": [{lowest}, {highest}]}}', x=dtype)["x"].tolist() == [lowest, highest]
        for outside in (lowest - 1, highest + 1):
            assert f"is not of expected type: {dtype}" in refusal(f'{{"instances": [{outside}]}}', x=dtype)

    def test_whole_numbers_may_exceed_the_exact_range_only_as_decimals(self) -> None:
        assert read('{"instances": [1, 16777217.0]}', x="float32")["x"].tolist() == [1, 16777216]
        assert read('{"instances": [16777215, 1e30]}', x="float32")["x"].tolist() == [16777215, np.float32(1e30)]

    def test_bytes_that_are_no_utf_8_reach_a_string_tensor(self) -> None:
        assert read(b'{"instances": ["a\xff\xfe"]}', x="string")["x"].tolist() == [b"a\xff\xfe"]

    def test_a_byte_order_mark_is_skipped(self) -> None:
        assert read(b'\xef\xbb\xbf{"instances": [1]}', x="int32")["x"].tolist() == [1]


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("", "JSON Parse error: The document is empty"),
            ("  \n", "JSON Parse error: The document is empty. at offset: 3"),
            ("instances = [1, 2]", "JSON Parse error: Invalid value. at offset: 0"),
            ('{"instances": [1, 2}', "JSON Parse error: Missing a comma or ] after an array element. at offset: 19"),
            ('{"instances": [1, 2]', "JSON Parse error: Missing a comma or } after an object member. at offset: 20"),
            ('{"instances" [1]}', "JSON Parse error: Missing a colon after a name of object member. at offset: 13"),
            ("{1: 2}", "JSON Parse error: Missing a name for object member. at offset: 1"),
            ('{"x": [1,]}', "JSON Parse error: Invalid value. at offset: 9"),
            ('{"x": 1} {', "JSON Parse error: The document root must not be followed by other values. at offset: 9"),
            ('{"x": 1e999}', "JSON Parse error: Number too big to be stored in double. at offset: 6"),
            ('{"x": 1.}', "JSON Parse error: Miss fraction part in number. at offset: 8"),
            ('{"x": 1e+}', "JSON Parse error: Miss exponent in number. at offset: 9"),
            ('{"x": "\\q"}', "JSON Parse error: Invalid escape character in string. at offset: 7"),
            ('{"x": "\\u12g4"}', "JSON Parse error: Incorrect hex digit after \\u escape in string. at offset: 7"),
            ('{"x": "\\ud834"}', "JSON Parse error: The surrogate pair in string is invalid. at offset: 7"),
            ('{"x": "a\tb"}', "JSON Parse error: Invalid encoding in string. at offset: 8"),
            ('{"x": "ab', "JSON Parse error: Missing a closing quotation mark in string. at offset: 9"),
            ('{"x": nil}', "JSON Parse error: Invalid value. at offset: 7"),
            ('{"x": NaNa}', "JSON Parse error: Missing a comma or } after an object member. at offset: 9"),
            ("[1]", "JSON Value: [\n    1\n] Is not object"),
            ("null", "JSON Value: null Is not object"),
            ("{}", "Missing 'inputs' or 'instances' key"),
            (
                '{"signature_name": 5, "instances": [1]}',
                'JSON Value: {\n    "signature_name": 5,\n    "instances": [\n        1\n    ]\n} '
                "not formatted correctly. 'signature_name' key must be a string value.",
            ),
            (
                '{"instances": [1], "inputs": [1]}',
                'JSON Value: {\n    "instances": [\n        1\n    ],\n    "inputs": [\n        1\n    ]\n} '
                "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
            ),
            ('{"instances": 1}', "JSON Value: {\n    \"instances\": 1\n} Excepting 'instances' to be an list/array"),
            ('{"instances": []}', "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        ],
    )
    def test_a_faulty_document_is_refused_in_upstreams_words(self, body: str, message: str) -> None:
        assert refusal(body, x="int32") == message

    @pytest.mark.parametrize(
        ("body", "dtype", "message"),
        [
            ("[[1,2],[3,4],[5,6,7]]", "int32", "2 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 3"),
            ("[[1,2],[3,4],[[5,6]]]", "int32", "2 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [2] but got: [1,2]"),
            ("[1, [1]]", "int32", "1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [] but got: [1]"),
            ('[[1,2],["a", "b"]]', "int32", "1 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: \"a\" Type: String is not of expected type: int32"),
            ("[1.5]", "int32", "0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1.5 Type: Number is not of expected type: int32"),
            ("[1, 2.0]", "int64", "1 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 2.0 Type: Number is not of expected type: int64"),
            ("[true]", "int32", "0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: true Type: True is not of expected type: int32"),
            ("[1.0, false]", "float32", "1 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: false Type: False is not of expected type: float"),
            ("[null]", "float64", "0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: null Type: Null is not of expected type: double"),
            ("[1]", "bool", "0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1 Type: Number is not of expected type: bool"),
            ("[1]", "string", "0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1 Type: Number is not of expected type: string"),
            ("[[1, [2]]]", "int32", "0 of 'instances' list. Error: INVALID_ARGUMENT: Encountered list at unexpected level: 1 expected < 1"),
            ("[[[1], 2]]", "int32", "0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
            ("[[[1], [2, 3]]]", "int32", "0 of 'instances' list. Error: INVALID_ARGUMENT: Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
            ("[16777217]", "float32", "0 of 'instances' list. Error: INVALID_ARGUMENT: Cannot convert JSON value: 16777217 to float without loss of precision."),
            ("[1.7976931348623157e+308]", "float32", "0 of 'instances' list. Error: INVALID_ARGUMENT: Cannot convert JSON value: 1.7976931348623157e+308 to float without loss of precision."),
            ("[9007199254740993]", "float64", "0 of 'instances' list. Error: INVALID_ARGUMENT: Cannot convert JSON value: 9007199254740993 to double without loss of precision."),
            ('[{"b64": "!"}]', "string", "0 of 'instances' list. Error: INVALID_ARGUMENT: Unable to base64 decode"),
        ],
    )  # fmt: skip
    def test_a_value_that_does_not_fit_is_refused_in_upstreams_words(self, body: str, dtype: str, message: str) -> None:
        assert refusal(f'{{"instances": {body}}}', x=dtype) == f"Failed to process element: {message}"

    def test_unsupported_types_are_unimplemented(self) -> None:
        with pytest.raises(StatusError) as caught:
            read('{"inputs": [1.5]}', x="float16")
        assert caught.value.code is Code.UNIMPLEMENTED
        assert caught.value.message == "Conversion of JSON Value: 1.5 to type: half"

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ('{"instances": [1]}', "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"),
            ('{"inputs": [1]}', "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"),
            ('{"inputs": {"a": [1]}}', "Missing named input: b in 'inputs' object."),
            ('{"instances": [{"a": 1, "b": "x"}, [1]]}', "Expecting object but got list at item 1 of input list"),
            ('{"instances": [{"a": 1}]}', 'Failed to process element: 0 of \'instances\' list. JSON object: {\n    "a": 1\n} keys must be equal to: a,b'),
            ('{"instances": [{"a": 1, "b": "x", "c": 2}]}', "Failed to process element: 0 key: c of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: c"),
            ('{"instances": [{"a": [1], "b": "x"}, {"a": [1, 2], "b": "x"}]}', "Failed to process element: 1 key: a of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 1 but got: 2"),
        ],
    )  # fmt: skip
    def test_rows_and_columns_must_name_all_inputs(self, body: str, message: str) -> None:
        assert refusal(body, a="int32", b="string") == message

    def test_a_list_cannot_turn_into_an_object(self) -> None:
        message = refusal('{"instances": [["a"], {"s": ["b"]}]}', s="string")
        assert message == "Expecting value/list but got object at item 1 of input list"

    def test_a_signature_without_inputs_is_refused(self) -> None:
        assert refusal('{"inputs": 1}') == "Failed to get input map for signature: DEFAULT"

    @pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 50_000])
    @pytest.mark.parametrize("leaf", ["", "NaN"])
    def test_deep_nesting_is_refused(self, depth: int, leaf: str) -> None:
        assert "Nested deeper than 1024" in refusal(
            '{"instances": ' + "[" * depth + leaf + "]" * depth + "}", x="int32"
        )

    def test_more_dimensions_than_a_tensor_has_are_refused(self) -> None:
        message = refusal('{"instances": ' + "[" * 200 + "1" + "]" * 200 + "}", x="int32")
        assert "nested 199 deep" in message

    def test_a_quoted_value_is_cut(self) -> None:
        assert len(refusal('{"instances": 1, "pad": "' + "a" * 200_000 + '"}', x="int32")) < 70_000


class TestExamples:
    def test_builds_examples_with_every_kind_of_feature(self) -> None:
        request = ExamplesRequest.parse(
            b"""{"signature_name": "custom", "context": {"query": "pizza", "location": ["sfo"]}, "examples": [
              {"names": ["foo", "bar"], "ratings": [8.0, 9.0, NaN, Infinity], "age": 20},
              {"names": ["baz", {"b64": "aGVsbG8="}], "ratings": 6.0, "mix": [1, true, false], "none": []}]}"""
        )
        assert request.signature_name == "custom"
        first, second = (example_pb2.Example.FromString(data).features.feature for data in request.examples)
        assert list(first["query"].bytes_list.value) == [b"pizza"]
        assert list(first["names"].bytes_list.value) == [b"foo", b"bar"]
        assert list(first["ratings"].float_list.value)[:2] == [8.0, 9.0]
        assert math.isnan(first["ratings"].float_list.value[2])
        assert list(first["age"].int64_list.value) == [20]
        assert list(second["names"].bytes_list.value) == [b"baz", b"hello"]
        assert list(second["mix"].int64_list.value) == [1, 1, 0]
        assert list(second["location"].bytes_list.value) == [b"sfo"]
        assert second["none"].WhichOneof("kind") is None

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ('{"signature_name": ["a"], "examples": [{}]}', "'signature_name' key must be a string value."),
            ('{"context": [{"a": 1}]}', "Example must be JSON object but got JSON Array"),
            ('{"context": {}}', "When method is classify, key 'examples' is expected and was not found"),
            ('{"examples": {"a": 1}}', "Expecting 'examples' value to be an list/array"),
            ('{"examples": []}', "'examples' value is an empty array"),
            ('{"examples": [[{}]]}', "Example must be JSON object but got JSON Array"),
            ('{"examples": [{"names": [10, null]}]}', "Feature: names has element with unexpected JSON type: Null"),
            ('{"examples": [{"names": [10, 1.5]}]}', "Unexpected element type in feature: names expecting type: int64"),
            ('{"examples": [{"names": [1.5, "a"]}]}', "Unexpected element type in feature: names expecting type: float"),
            ('{"examples": [{"names": ["a", true]}]}', "Unexpected element type in feature: names expecting type: bytes"),
            ('{"examples": [{"names": [{"test": 10}]}]}', "Feature: names has element with unexpected JSON type: Object"),
            ('{"examples": [{"names": [[10], 20]}]}', "Feature: names has element with unexpected JSON type: Array"),
            ('{"examples": [{"names": [20, 18446744073709551603]}]}', "Feature: names has uint64 element. Only int64 is supported."),
            ('{"examples": [{"names": 1.7976931348623157e308}]}', "to float without loss of precision."),
        ],
    )  # fmt: skip
    def test_a_faulty_example_is_refused_in_upstreams_words(self, body: str, message: str) -> None:
        with pytest.raises(StatusError) as caught:
            ExamplesRequest.parse(body.encode())
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert caught.value.message.endswith(message)


class TestWriting:
    def test_a_single_output_is_unnamed(self) -> None:
        array = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], np.int32)
        assert text({"y": array}) == '{\n    "predictions": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]\n    ]\n}'
        assert json.loads(text({"y": array}, by_row=False)) == {"outputs": array.tolist()}

    def test_rows_of_scalars_stand_on_one_line(self) -> None:
        array = np.array([1, 2, 3], np.int64)
        assert text({"y": array}) == '{\n    "predictions": [1, 2, 3\n    ]\n}'
        columns = '{\n    "outputs": [\n        1,\n        2,\n        3\n    ]\n}'
        assert text({"y": array}, by_row=False) == columns

    def test_several_outputs_are_objects_in_name_order(self) -> None:
        outputs = {
            "s_bytes": bytes_array([[b"hello", b"world"], [b"tf", b"serving"]]),
            "s": bytes_array([[b"foo", b'"\n'], [b"baz", b"bat"]]),
            "f": np.array([[1.0], [2.0]], np.float32),
            "d": np.array([8.0, 9.0]),
        }
        assert text(outputs).startswith(
            '{\n    "predictions": [\n        {\n            "d": 8.0,\n            "f": [1.0],\n'
            '            "s": ["foo", "\\"\\n"],\n            "s_bytes": [{\n                    "b64": "aGVsbG8="\n'
            "                }, {"
        )
        rows = json.loads(text(outputs))["predictions"]
        assert rows[1] == {
            "d": 9.0,
            "f": [2.0],
            "s": ["baz", "bat"],
            "s_bytes": [{"b64": "dGY="}, {"b64": "c2VydmluZw=="}],
        }
        columns = json.loads(text(outputs, by_row=False))["outputs"]
        assert columns["f"] == [[1.0], [2.0]]
        assert columns["s_bytes"][0] == [{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]

    def test_numbers_print_as_upstream_prints_them(self) -> None:
        values = np.array([[9000000, 999999, 0.5], [0.0003, 0.00003, 555557.5]], np.float32)
        assert "[[9e+06, 999999.0, 0.5], [0.0003, 3e-05, 555557.5]" in text({"y": values})
        odd = np.array([[np.nan, np.inf], [3, -np.inf], [-0.0, 1 / 3], [12345678, 16777216]], np.float32)
        expected = "[[NaN, Infinity], [3.0, -Infinity], [-0.0, 0.333333343], [12345678.0, 16777216.0]"
        assert expected in text({"y": odd})
        assert "[0.3333333333333333" in text({"y": np.array([1 / 3])})

    def test_zero_rows_are_an_empty_list(self) -> None:
        assert text({"y": np.zeros((0, 2), np.int32)}) == '{\n    "predictions": []\n}'
        assert text({"y": np.zeros((0, 2), np.float32), "z": np.zeros((0,), np.int8)}) == '{\n    "predictions": []\n}'
        assert text({"y": np.zeros((0, 2), np.int32)}, by_row=False) == '{\n    "outputs": []\n}'
        assert text({"y": np.zeros((2, 0), np.int32)}) == '{\n    "predictions": [[], []\n    ]\n}'

    @pytest.mark.parametrize(
        ("outputs", "message"),
        [
            ({}, "Cannot convert empty tensor map to JSON"),
            ({"y": np.zeros(2, np.complex64)}, "Failed to write JSON value for tensor type: complex64"),
            ({"y": np.zeros(2, np.float16)}, "Failed to write JSON value for tensor type: half"),
            ({"y": np.zeros(2, np.uint16)}, "Failed to write JSON value for tensor type: uint16"),
            ({"y": np.array(1)}, "Tensor name: y has no shape information "),
            ({"a": np.zeros(2), "b": np.zeros(1)}, "Tensor name: b has inconsistent batch size: 1 expecting: 2"),
            ({"a": np.zeros((0, 2)), "b": np.zeros(1)}, "Tensor name: b has inconsistent batch size: 1 expecting: 0"),
        ],
    )
    def test_outputs_that_make_no_rows_are_refused(self, outputs: dict[str, Any], message: str) -> None:
        with pytest.raises(StatusError) as caught:
            predict_json(outputs, by_row=True)
        assert caught.value.message == message

    def test_classes_and_scores(self) -> None:
        body = classify_json([[("car", 0.2), ("bike", 0.7)], [("bus", 1.0)]]).decode()
        assert body == '{\n    "results": [[["car", 0.2], ["bike", 0.7]], [["bus", 1.0]]\n    ]\n}'

    def test_regression_values(self) -> None:
        body = regress_json([0.2, math.inf, 1.0, -math.inf, math.nan]).decode()
        assert body == '{\n    "results": [0.2, Infinity, 1.0, -Infinity, NaN]\n}'

    def test_empty_results_are_refused(self) -> None:
        with pytest.raises(StatusError, match="empty ClassificationResults"):
            classify_json([])
        with pytest.raises(StatusError, match="empty RegressionResults"):
            regress_json([])

    def test_errors_are_objects_with_one_key(self) -> None:
        assert error_json('Bad key: "key"\x01') == b'{\n    "error": "Bad key: \\"key\\"\\u0001"\n}'

    def test_values_in_errors_print_as_rapidjson_prints_them(self) -> None:
        value: dict[str, object] = {"a": [1, 2.5, 1e30, 1e-7, 123456.789, 1e20], "b": {"c": []}, "d": None}
        assert value_text(value) == (
            '{\n    "a": [\n        1,\n        2.5,\n        1e30,\n        1e-7,\n        123456.789,\n'
            '        100000000000000000000.0\n    ],\n    "b": {\n        "c": []\n    },\n    "d": null\n}'
        )
        assert [value_text(number) for number in (0.1, 1e300, 3, math.nan)] == ["0.1", "1e+300", "3", "NaN"]


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(["float32", "float64"]).map(np.dtype),
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=40),
    )
)
def test_arrays_of_numbers_print_like_their_elements_one_by_one(array: Any) -> None:
    single = array.dtype == np.float32
    body = text({"y": array})
    printed = body.replace("[", " ").replace("]", " ").replace(",", " ").split()
    assert printed[2:-1] == [decimal_text(value, single=single) for value in array.ravel().tolist()]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_is_written_is_read_back(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["float32", "float64", "bool", *INTEGER_TYPES]))
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=6))
    # Nine digits of FLT_MAX are more than FLT_MAX, so that upstream refuses to read what it has written.
    finite = {"max_value": 2.0**127, "min_value": -(2.0**127)} if dtype == "float32" else None
    array = data.draw(hnp.arrays(np.dtype(dtype), shape, elements=finite))
    for by_row, key, sent in ((True, "predictions", "instances"), (False, "outputs", "inputs")):
        body = text({"x": array}, by_row=by_row).replace(f'"{key}"', f'"{sent}"')
        back = read(body, x=dtype)["x"]
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=8), min_size=1, max_size=6))
def test_bytes_are_read_back_through_base64_and_through_strings(values: list[bytes]) -> None:
    array = bytes_array(values)
    for name in ("x_bytes", "x"):
        body = predict_json({name: array}, by_row=True).replace(b'"predictions"', b'"instances"')
        assert PredictRequest.parse(body).tensors(specs(**{name: "string"}))[name].tolist() == values


leaves = st.one_of(
    st.integers(-(2**64), 2**65), st.floats(), st.booleans(), st.none(), st.text(max_size=3), st.just({"b64": "YQ=="})
)
nested = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=12)


@settings(max_examples=400, deadline=None)
@given(nested, st.sampled_from(["float32", "float64", "bool", "string", *INTEGER_TYPES]))
def test_lists_converted_whole_are_those_of_the_reading_one_by_one(value: Any, dtype: str) -> None:
    for key in ("instances", "inputs"):
        body = json.dumps({key: value}).encode()
        parsed = parse_object(body)[key]
        if key == "instances" and (not isinstance(parsed, list) or not parsed):
            continue
        walk = walk_instances if key == "instances" else walk_inputs
        expected: Any
        try:
            expected = walk(parsed, specs(x=dtype))["x"]
        except StatusError as error:
            expected = error.message
        try:
            found: Any = read(body, x=dtype)["x"]
        except StatusError as error:
            found = error.message
        if isinstance(expected, str):
            assert found == expected
        else:
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused_but_never_crash(body: bytes) -> None:
    for data in (body, b'{"inputs": ' + body + b"}", b'{"instances": [' + body + b"]}"):
        with suppress(StatusError):
            PredictRequest.parse(data).tensors(specs(x="float32"))
