"""Which tensors a Classify or Regress signature reads and gives, and what its results mean.

The checks and words of tensorflow_serving/servables/tensorflow/classifier.cc and regressor.cc.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deployctl.domain.saved_model import CLASSIFY_METHOD, REGRESS_METHOD, Signature, TensorSpec
from deployctl.modelserver.dtypes import dtype_of
from deployctl.modelserver.interface import Code, StatusError

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Tensor

# tensorflow/cc/saved_model/signature_constants.h
_INPUTS = "inputs"
_CLASSES, _SCORES = "classes", "scores"
_OUTPUTS = "outputs"


def classification_tensors(signature: Signature, *, check_method: bool) -> tuple[TensorSpec, dict[str, TensorSpec]]:
    """Returns the tensor of serialized examples, and "classes", "scores" or both.

    Signatures made by TensorFlow 2 all have Predict's method, so that `check_method` would refuse them.

    Raises:
        StatusError: INVALID_ARGUMENT or FAILED_PRECONDITION when the signature is not a classification.
    """
    if check_method and signature.method != CLASSIFY_METHOD:
        raise _invalid(
            f"Expected classification signature method_name to be {CLASSIFY_METHOD}. Was: {signature.method}"
        )
    if len(signature.inputs) != 1:
        raise _invalid("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise _invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    source = signature.inputs.get(_INPUTS)
    if source is None:
        raise _precondition(f"No classification inputs found in SignatureDef: {_debug_string(signature)}")
    outputs = {name: signature.outputs[name] for name in (_CLASSES, _SCORES) if name in signature.outputs}
    if not outputs:
        raise _precondition(
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}". '
            f"Signature was: {_debug_string(signature)}"
        )
    return source, outputs


def regression_tensors(signature: Signature, *, check_method: bool) -> tuple[TensorSpec, TensorSpec]:
    """Returns the tensor of serialized examples, and the tensor of values; see `classification_tensors`.

    Raises:
        StatusError: INVALID_ARGUMENT or FAILED_PRECONDITION when the signature is not a regression.
    """
    if check_method and signature.method != REGRESS_METHOD:
        raise _invalid(f"Expected regression signature method_name to be {REGRESS_METHOD}. Was: {signature.method}")
    if len(signature.inputs) != 1:
        raise _invalid("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise _invalid("Expected one output Tensor.")
    source = signature.inputs.get(_INPUTS)
    if source is None:
        raise _precondition(f"No regression inputs found in SignatureDef: {_debug_string(signature)}")
    output = signature.outputs.get(_OUTPUTS)
    if output is None:
        raise _precondition(f"No regression outputs found in SignatureDef: {_debug_string(signature)}")
    return source, output


def classifications(results: Mapping[str, Tensor], count: int) -> list[list[tuple[str, float]]]:
    """Returns (label, score) pairs for each of `count` examples; "" or 0.0 where the model gives only the other.

    Raises:
        StatusError: INVALID_ARGUMENT when the tensors are not of the right type or shape.
    """
    classes, scores = results.get(_CLASSES), results.get(_SCORES)
    if classes is not None:
        _check_class_tensor(classes, "classes", "DT_STRING", count)
    if scores is not None:
        _check_class_tensor(scores, "scores", "DT_FLOAT", count)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise _invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    width = next(tensor.shape[1] for tensor in (classes, scores) if tensor is not None)
    labels = [[""] * width] * count if classes is None else [_decoded(row) for row in classes.tolist()]
    values = [[0.0] * width] * count if scores is None else scores.tolist()
    return [list(zip(*pair, strict=True)) for pair in zip(labels, values, strict=True)]


def regressions(result: Tensor, count: int) -> list[float]:
    """Returns one value for each of `count` examples.

    Raises:
        StatusError: INVALID_ARGUMENT when the tensor is not of the right type or shape.
    """
    if not (result.ndim == 1 or (result.ndim == 2 and result.shape[1] == 1)):
        raise _invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(result)}"
        )
    if result.shape[0] != count:
        raise _invalid(f"Input batch size did not match output batch size: {count} vs. {result.shape[0]}")
    if dtype_of(result).enum_name != "DT_FLOAT":
        raise _invalid(f"Expected output Tensor of DT_FLOAT.  Got: {dtype_of(result).enum_name}")
    values: list[float] = result.reshape(-1).tolist()
    return values


def _check_class_tensor(tensor: Tensor, noun: str, enum_name: str, count: int) -> None:
    if tensor.ndim != 2:
        raise _invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(tensor)}")
    found = dtype_of(tensor).enum_name
    if found != enum_name:
        raise _invalid(f"Expected {noun} Tensor of {enum_name}. Got: {found}")
    if tensor.shape[0] != count:
        raise _invalid(f"Expected {noun} output batch size of {count}. Got: {tensor.shape[0]}")


def _decoded(row: list[bytes]) -> list[str]:
    return [label.decode("utf-8", "replace") for label in row]


def _shape(tensor: Tensor) -> str:
    return f"[{','.join(map(str, tensor.shape))}]"


def _debug_string(signature: Signature) -> str:
    return f"method_name: {signature.method} inputs: {sorted(signature.inputs)} outputs: {sorted(signature.outputs)}"


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)


def _precondition(message: str) -> StatusError:
    return StatusError(Code.FAILED_PRECONDITION, message)
