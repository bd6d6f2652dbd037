from __future__ import annotations

from deployctl.domain.comparison import Change, file_changes, op_changes, signature_changes
from deployctl.domain.manifest import FileEntry
from deployctl.domain.saved_model import PREDICT_METHOD, REGRESS_METHOD, Signature, TensorSpec

IMAGE = TensorSpec("float32", (None, 64), "x:0")
SCORES = TensorSpec("float32", (None, 10), "y:0")
PREDICT = Signature(PREDICT_METHOD, {"image": IMAGE}, {"scores": SCORES})


def test_equal_signatures_have_no_changes_though_their_tensors_have_other_names() -> None:
    renamed = Signature(PREDICT_METHOD, {"image": TensorSpec("float32", (None, 64), "other:0")}, {"scores": SCORES})

    assert signature_changes({"serving_default": PREDICT}, {"serving_default": renamed}) == ()


def test_another_shape_of_an_input_is_a_change() -> None:
    after = Signature(PREDICT_METHOD, {"image": TensorSpec("float32", (None, 8, 8))}, {"scores": SCORES})

    assert signature_changes({"serving_default": PREDICT}, {"serving_default": after}) == (
        Change('input "image" of serving_default', "float32 (?,64)", "float32 (?,8,8)"),
    )


def test_a_renamed_output_goes_and_comes() -> None:
    after = Signature(PREDICT_METHOD, {"image": IMAGE}, {"logits": SCORES})

    assert signature_changes({"serving_default": PREDICT}, {"serving_default": after}) == (
        Change('output "logits" of serving_default', "", "float32 (?,10)"),
        Change('output "scores" of serving_default', "float32 (?,10)", ""),
    )


def test_signatures_that_come_go_and_change_their_method_are_changes_in_name_order() -> None:
    after = {"a": PREDICT, "c": Signature(REGRESS_METHOD, {"image": IMAGE}, {"scores": SCORES})}

    assert signature_changes({"b": PREDICT, "c": PREDICT}, after) == (
        Change("signature a", "", PREDICT_METHOD),
        Change("signature b", PREDICT_METHOD, ""),
        Change("method of c", PREDICT_METHOD, REGRESS_METHOD),
    )


def test_ops_differ_by_their_number_of_occurrences() -> None:
    assert op_changes({"Add": 1, "Mul": 2, "Const": 4}, {"Add": 1, "Mul": 3, "MatMul": 1}) == (
        Change("op Const", "4", ""),
        Change("op MatMul", "", "1"),
        Change("op Mul", "2", "3"),
    )


def test_files_differ_by_their_bytes() -> None:
    before = (FileEntry("a", 1, "a" * 64), FileEntry("b", 2, "b" * 64), FileEntry("c", 3, "c" * 64))
    after = (FileEntry("a", 1, "a" * 64), FileEntry("b", 2, "d" * 64))

    assert file_changes(before, after) == (
        Change("file b", "2 bytes, sha256:bbbbbbbbbbbb", "2 bytes, sha256:dddddddddddd"),
        Change("file c", "3 bytes, sha256:cccccccccccc", ""),
    )
