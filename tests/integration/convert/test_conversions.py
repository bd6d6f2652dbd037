"""Conversions by TensorFlow, each held to its source and run again without TensorFlow's Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deployctl.convert.request import Result
from deployctl.convert.run import Converted
from deployctl.domain.golden import OWN_GOLDEN_PATH
from deployctl.domain.saved_model import CLASSIFY_METHOD, PREDICT_METHOD, REGRESS_METHOD, MetaGraph
from deployctl.errors import UsageError
from deployctl.protos.saved_model_pb2 import SavedModel
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from deployctl.savedmodel.tflite import read_tflite
from tests.support.build_sources import WIDTH, WORDS
from tests.support.models import UPSTREAM, TensorFlowModels
from tests.support.sources import KeptChild

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("convert")]


def declared(path: Path) -> MetaGraph:
    graph = ProtobufSavedModelReader().read(path).tagged("serve")
    assert graph is not None
    return graph


def largest(converted: Converted) -> float:
    assert converted.differences
    return max(each.largest if each.largest is not None else np.inf for each in converted.differences)


def test_a_keras_model_keeps_the_names_of_its_inputs_and_outputs(
    kept_child: KeptChild, sources: Path, tmp_path: Path
) -> None:
    converted = kept_child.convert(tmp_path / "out", sources / "planet_better.keras")

    signature = declared(tmp_path / "out").signatures["serving_default"]
    assert {name: str(spec) for name, spec in signature.inputs.items()} == {"input_image": "float32 (?,128,128,3)"}
    assert {name: str(spec) for name, spec in signature.outputs.items()} == {
        "ground": "float32 (?,13)",
        "weather": "float32 (?,4)",
    }
    assert largest(converted) < 1e-5


@pytest.mark.parametrize("result", [Result.SAVED_MODEL, Result.GRAPH, Result.TFLITE])
def test_layers_in_a_row_and_loops_are_converted(
    kept_child: KeptChild, sources: Path, tmp_path: Path, result: Result
) -> None:
    batch = 1 if result is Result.TFLITE else 0
    converted = kept_child.convert(tmp_path / "out", sources / "in_a_row.h5", result=result, batch=batch)

    assert converted.signatures["serving_default"]["outputs"] == ["scores"]
    assert largest(converted) < 1e-5


def test_what_was_compared_becomes_golden_requests(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    kept_child.convert(tmp_path / "out", sources / "contract.keras", samples=2, seed=9)

    (line,) = (tmp_path / "out/assets.extra/deployctl/golden.jsonl").read_text().splitlines()
    golden = json.loads(line)
    assert np.shape(golden["inputs"]["vectors"]) == (2, 6, WIDTH)
    answer = kept_child.predicted(tmp_path / "out", golden["inputs"])
    assert answer == pytest.approx(np.array(golden["outputs"]["contract_scores"]), rel=golden["rtol"])


def test_the_same_seed_asks_the_same(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    texts = []
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        kept_child.convert(tmp_path / name, sources / "a.pb", seed=seed)
        texts.append((tmp_path / name / "assets.extra/deployctl/golden.jsonl").read_text())

    assert texts[0] == texts[1] != texts[2]


def test_a_custom_layer_is_imported_by_name(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    kept_child.convert(tmp_path / "out", sources / "custom.keras", custom=("layers_for_tests:Doubling",))

    assert kept_child.predicted(tmp_path / "out", {"x": [[1, 2, 3, 4]]}) == [[2, 4, 6, 8]]


@pytest.mark.parametrize("name", ["lambda.h5", "lambda.keras"])
def test_a_lambda_runs_where_it_is_allowed_by_name(
    kept_child: KeptChild, sources: Path, tmp_path: Path, name: str
) -> None:
    kept_child.convert(tmp_path / "out", sources / name, allow_lambda=("triple",))

    assert kept_child.predicted(tmp_path / "out", {"x": [[1, 2, 3, 4]]}) == [[3, 6, 9, 12]]


def test_a_keras_model_that_looks_words_up_carries_its_table(
    kept_child: KeptChild, sources: Path, tmp_path: Path
) -> None:
    converted = kept_child.convert(tmp_path / "out", sources / "lookup.keras", sample={"text": '["nurse", "nobody"]'})

    assert largest(converted) == 0


def test_pictures_come_as_files_and_the_label_goes_out(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    steps = {"images": {"picture": ""}, "scale": 1 / 255, "labels": str(sources / "labels.txt")}
    kept_child.convert(tmp_path / "out", sources / "digits.keras", **steps)

    signature = declared(tmp_path / "out").signatures["serving_default"]
    assert signature.inputs["picture"].dtype == "string"
    golden = json.loads((tmp_path / "out/assets.extra/deployctl/golden.jsonl").read_text())
    answer = kept_child.predicted(tmp_path / "out", {"picture": golden["inputs"]["picture"]})
    best = [("zero", "one", "two")[index] for index in np.argmax(answer["scores"], axis=1)]
    assert answer["scores_label"] == best


def test_classify_and_regress_are_over_examples(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    labels = str(sources / "labels.txt")
    kept_child.convert(tmp_path / "digits", sources / "digits.keras", classify=True, labels=labels)
    kept_child.convert(tmp_path / "bright", sources / "bright.keras", regress=True)

    classifying, regressing = (declared(tmp_path / name).signatures for name in ("digits", "bright"))
    assert classifying["classify"].method == CLASSIFY_METHOD
    assert regressing["regress"].method == REGRESS_METHOD
    assert {each["serving_default"].method for each in (classifying, regressing)} == {PREDICT_METHOD}


def test_examples_may_hold_a_picture_each(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    steps = {"images": {"picture": ""}, "classify": True}
    converted = kept_child.convert(tmp_path / "out", sources / "digits.keras", **steps)

    assert [each.signature for each in converted.differences] == ["serving_default", "classify"]
    assert largest(converted) < 1e-5


def test_a_byte_order_mark_is_no_part_of_the_first_label(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("zero\none\ntwo\n", encoding="utf-8-sig")
    kept_child.convert(tmp_path / "out", sources / "digits.keras", classify=True, labels=str(labels))

    records = (tmp_path / "out" / OWN_GOLDEN_PATH).read_text().splitlines()
    (classes,) = (each["outputs"]["classes"] for each in map(json.loads, records) if each["signature"] == "classify")
    assert classes == [["zero", "one", "two"]] * 3


def test_the_upstream_checkpoint_is_converted(kept_child: KeptChild, tmp_path: Path) -> None:
    source = UPSTREAM / "bad_half_plus_two" / "00000123" / "export"
    kept_child.convert(tmp_path / "out", source, rename_inputs={"Placeholder": "x"})

    assert kept_child.predicted(tmp_path / "out", {"x": [[2.0]]}) == [[3.0]]


def test_types_that_only_tensorflow_has_are_compared_and_not_recorded(
    kept_child: KeptChild, tensorflow_models: TensorFlowModels, tmp_path: Path
) -> None:
    converted = kept_child.convert(tmp_path / "out", tensorflow_models.path("every_dtype"), freeze=True)

    assert {f"out_{name}" for name in ("bfloat16", "complex64")} <= {each.output for each in converted.differences}
    assert largest(converted) == 0
    assert converted.recorded == 0


@pytest.mark.parametrize("model", ["vocabulary", "several_signatures", "tensorflow_1_text"])
def test_freezing_keeps_every_signature_and_answer(
    kept_child: KeptChild, tensorflow_models: TensorFlowModels, tmp_path: Path, model: str
) -> None:
    before = tensorflow_models.path(model)
    converted = kept_child.convert(tmp_path / "out", before, freeze=True, keeps_signatures=True)

    after = declared(tmp_path / "out")
    wanted = set(declared(before).callable_signatures)
    assert set(after.callable_signatures) == wanted
    # TensorFlow keeps the names of assets in variables.
    assert {each.dtype for each in after.variables} <= {"string"}
    assert largest(converted) < 1e-6


def test_freezing_keeps_the_methods_of_signatures(kept_child: KeptChild, tmp_path: Path) -> None:
    before = UPSTREAM / "saved_model_half_plus_two_cpu" / "00000123"
    converted = kept_child.convert(tmp_path / "out", before, freeze=True, keeps_signatures=True)

    methods = {key: each.method for key, each in declared(tmp_path / "out").callable_signatures.items()}
    assert methods == {key: each.method for key, each in declared(before).callable_signatures.items()}
    assert largest(converted) < 1e-6


def test_graphs_with_other_inputs_get_a_signature_each(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    kept_child.convert(tmp_path / "out", sources / "a.pb", sources / "other_x.pb", separate=True)

    assert kept_child.predicted(tmp_path / "out", {"x": [3.0]}, "a") == [7.0]
    assert kept_child.predicted(tmp_path / "out", {"x": [[1, 2, 3]]}, "other_x") == [[-1, -2, -3]]


def test_shared_weights_are_stored_once(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    names = ("contract", "seniority", "remote", "shift")
    paths = [sources / f"{name}.keras" for name in names]
    converted = kept_child.convert(tmp_path / "out", *paths, bundle=True)

    first_layer = (WIDTH * 16 + 16) * 4
    assert converted.shared_bytes == 3 * first_layer
    assert converted.signatures["serving_default"]["outputs"] == sorted(names)
    assert largest(converted) < 1e-6


@pytest.mark.parametrize("files", [("vectors.txt", None), ("vectors.npy", "vocabulary.txt")])
def test_tokens_are_looked_up_cut_and_filled(
    kept_child: KeptChild, sources: Path, tmp_path: Path, files: tuple[str, str | None]
) -> None:
    vectors, vocabulary = files
    front = {"vectors": str(sources / vectors), "vocabulary": vocabulary and str(sources / vocabulary)}
    paths = [sources / "contract.keras", sources / "shift.keras"]
    kept_child.convert(tmp_path / "plain", *paths, bundle=True)
    kept_child.convert(tmp_path / "out", *paths, bundle=True, shared_input="tokens", **front)

    matrix = np.load(sources / "vectors.npy")
    for tokens in ([], ["cook", "", "nobody", "paris"], list(WORDS)):
        rows = [matrix[WORDS.index(word)] if word in WORDS else matrix.mean(axis=0) for word in tokens if word]
        places = [place for place, word in enumerate(tokens[:6]) if word]
        fed = np.zeros((1, 6, WIDTH), np.float32)
        for place, row in zip(places, rows, strict=False):
            fed[0, place] = row
        expected = kept_child.predicted(tmp_path / "plain", {"vectors": fed.tolist()})
        answer = kept_child.predicted(tmp_path / "out", {"tokens": [tokens] if tokens else [[""]]})
        assert {name: pytest.approx(np.array(each), abs=1e-5) for name, each in answer.items()} == expected
    assert [path.name for path in (tmp_path / "out/assets").iterdir()] == ["vocabulary.txt"]


def test_a_model_over_ids_takes_tokens(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    kept_child.convert(tmp_path / "plain", sources / "ids.keras")
    kept_child.convert(tmp_path / "out", sources / "ids.keras", vocabulary=str(sources / "vocabulary.txt"))

    unknown, padding = len(WORDS), len(WORDS) + 1
    expected = kept_child.predicted(tmp_path / "plain", {"ids": [[1, 0, unknown, padding, padding, padding]]})
    assert kept_child.predicted(tmp_path / "out", {"ids": [["nurse", "engineer", "nobody"]]}) == expected


def test_parts_of_every_kind_go_into_one_model(
    kept_child: KeptChild, sources: Path, tensorflow_models: TensorFlowModels, tmp_path: Path
) -> None:
    tensorflow_1 = sources / "training_and_serving"
    paths = [tensorflow_1, sources / "deeplab.pb", tensorflow_models.path("vocabulary"), sources / "lookup.keras"]
    sample = {"height": "20", "width": "30"}
    converted = kept_child.convert(tmp_path / "out", *paths, bundle=True, sample=sample)

    inputs = ["height", "image", "text", "tokens", "width", "x"]
    assert converted.signatures["serving_default"]["inputs"] == inputs
    assert largest(converted) < 1e-6


def test_signatures_are_renamed_merged_and_dropped(
    kept_child: KeptChild, tensorflow_models: TensorFlowModels, tmp_path: Path
) -> None:
    kept_child.convert(
        tmp_path / "out",
        tensorflow_models.path("several_signatures"),
        keeps_signatures=True,
        rename_signatures={"shift": "move"},
        merge={"both": ("serving_default", "norm")},
        drop=("norm",),
    )

    assert set(declared(tmp_path / "out").callable_signatures) == {"serving_default", "move", "both"}
    answer = kept_child.predicted(tmp_path / "out", {"x": [[1, 2]], "anything": [3.0, 4.0]}, "both")
    assert answer == {"y": [[1.0, 4.0]], "norm": 5.0}


def test_an_input_that_may_be_left_out_still_may(
    kept_child: KeptChild, tensorflow_models: TensorFlowModels, tmp_path: Path
) -> None:
    before = tensorflow_models.path("several_signatures")
    kept_child.convert(tmp_path / "out", before, freeze=True, keeps_signatures=True, rename_inputs={"by": "more"})

    assert declared(tmp_path / "out").signatures["shift"].optional_inputs == {"more"}
    assert kept_child.predicted(tmp_path / "out", {"x": [[1, 2]]}, "shift") == [[4, 7]]


def test_models_that_take_another_value_for_what_is_left_out_cannot_share_it(
    kept_child: KeptChild, tensorflow_models: TensorFlowModels, tmp_path: Path
) -> None:
    other = tensorflow_models.copy("several_signatures", tmp_path / "other")
    model = SavedModel.FromString((other / "saved_model.pb").read_bytes())
    by = model.meta_graphs[0].signature_def["shift"].defaults["by"]
    by.tensor_content = b""
    by.float_val[:] = [9.0]
    (other / "saved_model.pb").write_bytes(model.SerializeToString())

    parts = (tensorflow_models.path("several_signatures"), other)
    with pytest.raises(UsageError, match="'by' may be left out in several_signatures and other, and is not the same"):
        kept_child.convert(tmp_path / "out", *parts, bundle=True, source_signature="shift")


def test_a_meta_graph_is_chosen_by_its_tags(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    before = sources / "training_and_serving"
    kept_child.convert(tmp_path / "out", before, tags=("train",), keeps_signatures=True)

    assert sum(declared(tmp_path / "out").ops.values()) < sum(declared(before).ops.values()) / 3
    assert kept_child.predicted(tmp_path / "out", {"x": [[0.0] * 160]}) == kept_child.predicted(
        before, {"x": [[0.0] * 160]}
    )


def test_several_meta_graphs_are_written_under_their_tags_with_weights_once(
    kept_child: KeptChild, sources: Path, tmp_path: Path
) -> None:
    planet, better = sources / "planet.h5", sources / "planet_better.keras"
    converted = kept_child.convert(
        tmp_path / "out",
        planet,
        better,
        planet,
        meta_graphs=(("serve",), ("serve", "gpu"), ("train",)),
        keeps_signatures=True,
    )
    # TensorFlow's own loader.
    again = kept_child.convert(tmp_path / "again", tmp_path / "out", tags=("gpu", "serve"), keeps_signatures=True)

    model = ProtobufSavedModelReader().read(tmp_path / "out")
    ProtobufSavedModelReader().check_complete(tmp_path / "out", model)
    assert [graph.tags for graph in model.meta_graphs] == [("serve",), ("gpu", "serve"), ("train",)]
    assert set(converted.signatures) == {f"serving_default [{tags}]" for tags in ("serve", "serve,gpu", "train")}
    assert largest(converted) < 1e-5
    assert largest(again) < 1e-5
    pixels = {"input_image": np.full((1, 128, 128, 3), 0.5).tolist()}
    found = {
        tags: kept_child.predicted(tmp_path / "out", pixels, tags=tags) for tags in ("serve", "gpu,serve", "train")
    }
    assert found["serve"] == found["train"] != found["gpu,serve"]
    assert found["gpu,serve"] == kept_child.predicted(tmp_path / "again", pixels)
    # The two that are the same model share what they have.
    assert converted.shared_bytes > 0
    assert (tmp_path / "out" / OWN_GOLDEN_PATH).read_text().count("\n") == 1


@pytest.mark.parametrize("quantization", ["float", "float16", "dynamic", "int8"])
def test_a_tflite_file_answers_as_its_source(
    kept_child: KeptChild, sources: Path, tmp_path: Path, quantization: str
) -> None:
    tolerance = {"float": 1e-5, "float16": 1e-2, "dynamic": 5e-2, "int8": 1e-1}[quantization]
    converted = kept_child.convert(
        tmp_path / "m.tflite",
        sources / "planet.h5",
        result=Result.TFLITE,
        quantization=quantization,
        atol=tolerance,
    )

    assert set(read_tflite(tmp_path / "m.tflite").signatures) == {"serving_default"}
    assert largest(converted) <= tolerance
    back = kept_child.convert(tmp_path / "back", tmp_path / "m.tflite", atol=tolerance)
    assert back.signatures == {"serving_default": {"inputs": ["input_image"], "outputs": ["ground", "weather"]}}
    assert largest(back) <= tolerance
    assert {"Conv2D", "MatMul"} <= set(declared(tmp_path / "back").ops)
