"""Damaged copies of real models: they are read, or refused with our own error; nothing else happens."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployctl.domain.saved_model import SavedModel
from deployctl.errors import InvalidModelError, MalformedSavedModelError
from deployctl.savedmodel import graph
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from tests.support.models import UPSTREAM, TensorFlowModels
from tests.support.tables import varint

READER = ProtobufSavedModelReader()
FUZZ = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

TF1 = (UPSTREAM / "saved_model_half_plus_two_cpu/00000123/saved_model.pb").read_bytes()
TF2 = (UPSTREAM / "saved_model_half_plus_two_tf2_cpu/00000123/saved_model.pb").read_bytes()
INDEX = (UPSTREAM / "saved_model_half_plus_two_tf2_cpu/00000123/variables/variables.index").read_bytes()

Mutation = tuple[int, int, bytes]
# Where (as a fraction of the file), how many bytes go, and what comes instead.
MUTATIONS = st.lists(
    st.tuples(st.integers(0, 10_000), st.sampled_from([0, 1, 1, 1, 2, 8, 1000]), st.binary(max_size=4)),
    min_size=1,
    max_size=4,
)


def mutate(data: bytes, mutations: list[Mutation]) -> bytes:
    for place, removed, inserted in mutations:
        at = place * len(data) // 10_000
        data = data[:at] + inserted + data[at + removed :]
    return data


def read(name: str, data: bytes, index: bytes | None = None) -> SavedModel | None:
    """Reads and checks a directory with those files; None when it is malformed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / name).write_bytes(data)
        if index is not None:
            (path / "variables").mkdir()
            (path / "variables" / "variables.index").write_bytes(index)
        try:
            model = READER.read(path)
        except MalformedSavedModelError:
            return None
        try:
            READER.check_complete(path, model)
        except InvalidModelError:
            return model
        return model


@FUZZ
@given(st.sampled_from([TF1, TF2]), MUTATIONS)
def test_a_damaged_saved_model_is_read_or_refused(original: bytes, mutations: list[Mutation]) -> None:
    model = read("saved_model.pb", mutate(original, mutations), INDEX)
    assert model is None or model.meta_graphs


@FUZZ
@given(st.sampled_from([TF1, TF2]), MUTATIONS)
def test_a_damaged_graph_that_is_stepped_through_too_reads_the_same(original: bytes, mutations: list[Mutation]) -> None:
    damaged = mutate(original, mutations)
    parsed = read("saved_model.pb", damaged, INDEX)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "MAX_PARSED_BYTES", 0)
        stepped = read("saved_model.pb", damaged, INDEX)
    # Stepping refuses fields of the wrong type, which protobuf, and so TensorFlow, reads as fields it does not know.
    assert stepped is None or stepped == parsed


@FUZZ
@given(st.integers(0, 8 * len(TF2) - 1))
def test_a_flipped_bit_is_read_or_refused(bit: int) -> None:
    data = bytearray(TF2)
    data[bit // 8] ^= 1 << bit % 8
    model = read("saved_model.pb", bytes(data))
    assert model is None or model.meta_graphs


@FUZZ
@given(MUTATIONS)
def test_a_damaged_index_is_read_or_refused(mutations: list[Mutation]) -> None:
    model = read("saved_model.pb", TF2, mutate(INDEX, mutations))
    assert model is not None


@settings(FUZZ, max_examples=60)
@given(st.data())
def test_a_damaged_text_file_is_read_or_refused(tensorflow_models: TensorFlowModels, data: st.DataObject) -> None:
    text = (tensorflow_models.path("tensorflow_1_text") / "saved_model.pbtxt").read_bytes()[:6000]
    model = read("saved_model.pbtxt", mutate(text, data.draw(MUTATIONS)))
    assert model is None or model.meta_graphs


@pytest.mark.parametrize("length", [*range(1, 200), *range(200, len(TF1), 97)])
def test_a_truncated_saved_model_is_refused(length: int) -> None:
    # Cut after the schema version the file is whole, and holds no MetaGraph; that is refused as well.
    assert read("saved_model.pb", TF1[:length]) is None


def nested(depth: int, *numbers: int) -> bytes:
    """`depth` messages in each other, the outermost in field numbers[0], the next in numbers[1], and round again."""
    data = b""
    for level in reversed(range(depth)):
        data = message(numbers[level % len(numbers)], data)
    return data


def message(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(content)) + content


@pytest.mark.parametrize(
    "meta_graph",
    [
        pytest.param(message(5, message(2, message(1, message(2, nested(20_000, 5, 2))))), id="deep signature"),
        pytest.param(message(7, message(1, message(7, nested(20_000, 8)))), id="deep variable"),
        pytest.param(
            message(2, message(1, b"\x12\x0bVarHandleOp" + message(5, message(2, nested(20_000, 10, 2, 2))))),
            id="deep node",
        ),
        pytest.param(message(2, b"\x0a" + varint(1 << 63)), id="a node of 8 EiB"),
        pytest.param(message(2, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), id="a length of 70 bits"),
        pytest.param(message(2, message(1, b"\x12\x02\xff\xfe")), id="an op that is not UTF-8"),
        pytest.param(b"\x10\x01", id="a number for a graph"),
        pytest.param(message(2, message(1, b"\x10\x01")), id="a number for an op"),
        pytest.param(b"\x13", id="a group"),
    ],
)
@pytest.mark.parametrize("parsed_bytes", [graph.MAX_PARSED_BYTES, 0], ids=["parsed", "stepped through"])
def test_hostile_meta_graphs_are_refused(meta_graph: bytes, parsed_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MAX_PARSED_BYTES", parsed_bytes)
    assert read("saved_model.pb", message(2, meta_graph)) is None
