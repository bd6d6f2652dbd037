"""What cannot be converted is refused in one sentence, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployctl.convert.request import Result
from deployctl.errors import ConversionError, DeployctlError, GateRefusedError, UsageError
from tests.support.models import TensorFlowModels
from tests.support.sources import KeptChild

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("convert")]


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["lambda.h5"], {}, "holds the Lambda layer 'triple', whose code would run"),
        (["lambda.keras"], {"allow_lambda": ("other",)}, "holds the Lambda layer 'triple', whose code would run"),
        (["custom.keras"], {}, "uses Doubling, which Keras does not know"),
        (["custom.keras"], {"custom": ("layers_for_tests:Missing",)}, "'layers_for_tests:Missing' cannot be imported"),
        (["custom.keras"], {"custom": ("Doubling",)}, "'Doubling' is not package.module:name"),
        (["bomb.keras"], {}, "holds model.weights.npz, which would be read as a pickle and could run any code"),
        (["truncated_planet.h5"], {}, "is not a whole Keras model"),
        (["bare.ckpt"], {}, "has no .meta file, so that nothing says what its graph is"),
        (["trained.ckpt"], {}, "have to be named; candidates are"),
        (["trained.ckpt"], {"outputs": {"y": "nowhere:0"}}, "has no tensor 'nowhere:0'"),
        (
            ["bare.ckpt"],
            {"builder": "builders_for_tests:narrower"},
            "weights has shape (16, 16), and its value (160, 160)",
        ),
        (["bare.ckpt"], {"builder": "builders_for_tests:other"}, "it holds no value for the variable other"),
        (["bare.ckpt"], {"builder": "builders_for_tests:without_variables"}, "makes a graph without variables"),
        (["bare.ckpt"], {"builder": "builders_for_tests:five"}, "builders_for_tests:five returns 5, and neither"),
        (
            ["bare.ckpt"],
            {"builder": "builders_for_tests:failing"},
            "builders_for_tests:failing fails: KeyError: 'units'",
        ),
        (["a.pb", "other_x.pb"], {"bundle": True}, "so that they cannot share it"),
        (["deeplab.pb", "a.pb"], {"bundle": True, "shared_input": "z"}, "none of them is the shared input 'z'"),
        (["contract.keras"], {"rename_inputs": {"nothing": "x"}}, "there is no input 'nothing' to rename"),
        (["planet.h5"], {"rename_outputs": {"weather": "ground"}}, "two outputs would have the name 'ground'"),
        (["planet.h5"], {"classify": True}, "name the output that has the scores with --scores"),
        (["planet.h5"], {"images": {"nothing": ""}}, "--decode-image has to name one of input_image"),
        (["digits.keras"], {"regress": True}, "'scores' has shape (None, 3), and --regress takes one number for each"),
        (["ids.keras"], {"sample": {"nothing": "1"}}, "--sample 'nothing' is no input"),
        (["lookup.keras"], {"result": Result.GRAPH}, "a frozen graph cannot hold the tables of this model"),
        (["in_a_row.h5"], {"result": Result.TFLITE}, "a fixed number of rows, --batch 1, may help"),
    ],
)
def test_what_cannot_be_converted_is_refused(
    kept_child: KeptChild, sources: Path, tmp_path: Path, names: list[str], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DeployctlError) as refused:
        kept_child.convert(tmp_path / "out", *(sources / name for name in names), **options)

    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    assert not (sources / "exploded").exists()


@pytest.mark.parametrize("step", [{}, {"classify": True}])
@pytest.mark.parametrize(("labels", "count"), [("zero\none\n", 2), ("0\n1\n2\n3\n", 4), ("", 0)])
def test_as_many_labels_as_classes_are_wanted(
    kept_child: KeptChild, sources: Path, tmp_path: Path, labels: str, count: int, step: dict[str, Any]
) -> None:
    file = tmp_path / "labels.txt"
    file.write_text(labels)

    with pytest.raises(UsageError, match=f"has {count} labels, and the output 'scores' has 3 classes"):
        kept_child.convert(tmp_path / "out", sources / "digits.keras", labels=str(file), **step)

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        (".index", "cannot be read as the index of a checkpoint: it does not end with the mark of a table"),
        (".data-00000-of-00001", "bytes, and its index says"),
        (".meta", "is not a whole graph definition"),
    ],
)
def test_a_checkpoint_that_is_cut_short_is_told_with_the_file_and_how(
    kept_child: KeptChild, sources: Path, tmp_path: Path, suffix: str, words: str
) -> None:
    for each in (".index", ".data-00000-of-00001", ".meta"):
        content = (sources / f"trained.ckpt{each}").read_bytes()
        (tmp_path / f"cut{each}").write_bytes(content[: len(content) // 2] if each == suffix else content)

    with pytest.raises(ConversionError) as refused:
        kept_child.convert(tmp_path / "out", tmp_path / "cut", outputs={"y": "y:0"})

    assert str(refused.value).startswith(str(tmp_path / f"cut{suffix} "))
    assert words in str(refused.value)
    assert refused.value.hint is not None


def test_a_result_beyond_tolerance_is_refused(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    int8 = {"result": Result.TFLITE, "quantization": "int8", "rtol": 0.0, "atol": 0.0}
    with pytest.raises(GateRefusedError, match=r"ground is off by up to .*nothing was written") as refused:
        kept_child.convert(tmp_path / "m.tflite", sources / "planet.h5", **int8)

    assert refused.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_not_replaced(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")

    with pytest.raises(UsageError, match="is there already"):
        kept_child.convert(tmp_path / "out", sources / "a.pb")

    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rename_signatures": {"gone": "x"}}, "there is no signature 'gone'"),
        ({"rename_signatures": {"shift": "norm"}}, "two signatures would have the name 'norm'"),
        ({"merge": {"both": ("serving_default", "shift")}}, "two models or outputs have the name 'y'"),
        ({"drop": ("norm", "serving_default", "shift")}, "no signature would be left"),
        ({"tags": ("gpu",)}, "has no MetaGraph tagged gpu, only {serve}"),
    ],
)
def test_signatures_that_clash_are_refused(
    kept_child: KeptChild, tensorflow_models: TensorFlowModels, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    model = tensorflow_models.path("several_signatures")
    with pytest.raises(UsageError) as refused:  # noqa: PT011 - the words are looked at below
        kept_child.convert(tmp_path / "out", model, keeps_signatures=True, **options)

    assert words in str(refused.value)


def test_an_error_of_tensorflow_is_one_sentence(
    kept_child: KeptChild, tensorflow_models: TensorFlowModels, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match="MyCompanyMul") as refused:
        kept_child.convert(tmp_path / "out", tensorflow_models.path("unknown_op"))

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a 1 2 3 4\nb 1 2 3\n", "has 3 numbers in line 2, and 4 in the first"),
        ("a 1 2 3 4\nb 1 x 3 4\n", "vectors.txt"),
        ("a 1 2 3 4\na 1 2 3 4\n", "lists a word twice"),
        ("", "cannot be read as word vectors"),
        ("a 1 2\nb 1 2\n", "is float32 (None, 6, 4), and there are vectors of 2 numbers"),
        ("a 1 2 3 4\nb 1 nan 3 4\n", "vectors.txt has a number that is not finite in the vector of word 2"),
        ("2 4\na 1 2 3 4\nb 1 2 3 4\n", ""),
        ("a\t1\t2\t3\t4\nb\t1\t2\t3\t4\n", ""),
    ],
)
def test_word_vectors_of_another_form_are_refused(
    kept_child: KeptChild, sources: Path, tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(text)
    options: dict[str, Any] = {"vectors": str(file), "shared_input": "tokens", "bundle": True}
    if not words:
        # A first line may be the header of word2vec's text format.
        kept_child.convert(tmp_path / "out", sources / "contract.keras", **options)
        assert (tmp_path / "out/assets/vocabulary.txt").read_text() == "a\nb\n"
        return
    with pytest.raises(DeployctlError) as refused:
        kept_child.convert(tmp_path / "out", sources / "contract.keras", **options)

    assert words in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.txt"]


def test_vectors_with_pickles_are_refused(kept_child: KeptChild, sources: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "words.txt").write_text("a\n")
    options = {"vectors": str(tmp_path / "vectors.npy"), "vocabulary": str(tmp_path / "words.txt")}

    with pytest.raises(ConversionError, match=r"vectors\.npy cannot be read as word vectors"):
        kept_child.convert(tmp_path / "out", sources / "contract.keras", **options)
