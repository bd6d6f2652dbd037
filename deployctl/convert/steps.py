"""Steps before and after a model: images from bytes, labels for classes, tf.Example for Classify and Regress."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from deployctl.convert.part import Part, Tensors, wrapped
from deployctl.domain.saved_model import CLASSIFY_METHOD, REGRESS_METHOD
from deployctl.errors import ConversionError

_PARSED_AS = {tf.float32: tf.float32, tf.int64: tf.int64, tf.string: tf.string}


def images_front(part: Part, given: str, *, size: tuple[int, int] | None, scale: float, offset: float) -> Part:
    """Returns `part` with the input `given` as the bytes of image files (JPEG, PNG, BMP, GIF), one each row.

    Args:
        part: a model over images [batch, height, width, channels].
        given: the input.
        size: height and width; None takes the model's own.
        scale: what pixels, 0 to 255, are multiplied with.
        offset: what is added then.

    Raises:
        ConversionError: the input is no batch of images, or no size is known.
    """
    spec = part.inputs[given]
    if spec.shape.rank != 4:
        raise ConversionError(f"the input {given!r} has shape {spec.shape}, and images have four axes", kind="usage")
    height, width = size or (spec.shape[1], spec.shape[2])
    if height is None or width is None:
        raise ConversionError(
            f"the input {given!r} takes any size: say which with --decode-image {given}=HxW", kind="usage"
        )
    channels = spec.shape[3] or 3

    def decode(data: Any) -> Any:
        pixels = tf.image.decode_image(data, channels=channels, expand_animations=False)
        resized = tf.image.resize(pixels, [height, width])
        return tf.ensure_shape(resized, [height, width, channels])

    def before(values: Tensors) -> dict[str, Any]:
        pixels = tf.map_fn(decode, values[given], fn_output_signature=tf.float32)
        return {**values, given: tf.cast(pixels * scale + offset, spec.dtype)}

    return wrapped(part, inputs={**part.inputs, given: tf.TensorSpec([None], tf.string, name=given)}, before=before)


def labels_back(part: Part, labels: Path, output: str | None) -> Part:
    """Returns `part` with an output more, "OUTPUT_label": the label of the highest score.

    Raises:
        ConversionError: it is not clear which output has the scores, the names clash, or there are not as many labels
            as classes.
    """
    scores = scores_output(part, output)
    names = labels_for(part, scores, labels)
    added = f"{scores}_label"
    if added in part.outputs:
        raise ConversionError(f"there is an output {added!r} already", kind="usage")

    def after(values: Tensors) -> dict[str, Any]:
        best = tf.argmax(values[scores], axis=-1)
        return {**values, added: tf.gather(tf.constant(names), best)}

    return wrapped(part, outputs=(*part.outputs, added), after=after)


def classify(part: Part, labels: Path | None, output: str | None) -> Part:
    """Returns a Classify signature over tf.Example: "scores", and "classes" where there are labels.

    Raises:
        ConversionError: it is not clear which output has the scores, or there are not as many labels as classes.
    """
    scores = scores_output(part, output)
    names = labels_for(part, scores, labels) if labels is not None else None

    def after(values: Tensors) -> dict[str, Any]:
        rows = tf.cast(values[scores], tf.float32)
        rows = rows[:, tf.newaxis] if rows.shape.rank == 1 else rows
        if names is None:
            return {"scores": rows}
        return {"scores": rows, "classes": tf.tile(tf.constant([names]), [tf.shape(rows)[0], 1])}

    outputs = ("scores",) if names is None else ("scores", "classes")
    return replace(_over_examples(part, outputs, after), method=CLASSIFY_METHOD)


def regress(part: Part, output: str | None) -> Part:
    """Returns a Regress signature over tf.Example: "outputs", one number each.

    Raises:
        ConversionError: it is not clear which output has the number, or it has several for each example.
    """
    value = scores_output(part, output)
    shape = _shape(part, value)
    # The server refuses any other answer (tensorflow_serving/servables/tensorflow/regressor.cc).
    if shape.rank == 0 or any(size not in (1, None) for size in (shape[1:] if shape.rank else ())):
        raise ConversionError(
            f"the output {value!r} has shape {shape}, and --regress takes one number for each example; use --classify, "
            "or another output with --scores",
            kind="usage",
        )

    def after(values: Tensors) -> dict[str, Any]:
        return {"outputs": tf.reshape(tf.cast(values[value], tf.float32), [-1, 1])}

    return replace(_over_examples(part, ("outputs",), after), method=REGRESS_METHOD)


def labels_for(part: Part, scores: str, file: Path) -> list[str]:
    """Returns the labels in `file`, one a line, for the classes of the output `scores`.

    A byte order mark before the first is left out.

    Raises:
        ConversionError: it cannot be read, or has not as many as there are classes.
    """
    try:
        names = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"cannot read the labels {file}: {error}", kind="usage") from error
    shape = _shape(part, scores)
    if shape.rank == 0 or (shape.rank == 1 and shape[0] is None):
        raise ConversionError(f"the output {scores!r} has shape {shape}, and no classes for --labels", kind="usage")
    classes = shape[-1] if shape.rank else None
    if len(names) != classes and (classes is not None or not names):
        wanted = f"{classes} classes" if classes is not None else "classes that need some"
        raise ConversionError(
            f"{file} has {len(names)} labels, and the output {scores!r} has {wanted}",
            kind="usage",
            hint=f"wc -l {file}",
        )
    return names


def _shape(part: Part, output: str) -> Any:
    """The shape of an output as far as the graph says it."""
    return part.traced().structured_outputs[output].shape


def scores_output(part: Part, output: str | None) -> str:
    """Returns the output that is meant.

    Raises:
        ConversionError: there is no such output, or there are several and none is named.
    """
    if output is None and len(part.outputs) == 1:
        return part.outputs[0]
    if output not in part.outputs:
        known = ", ".join(part.outputs)
        raise ConversionError(f"name the output that has the scores with --scores: one of {known}", kind="usage")
    return output


def _over_examples(part: Part, outputs: tuple[str, ...], after: Any) -> Part:
    features = {name: _feature(name, spec) for name, spec in part.inputs.items()}

    def before(values: Tensors) -> dict[str, Any]:
        parsed = tf.io.parse_example(values["inputs"], features)
        return {name: tf.cast(parsed[name], part.inputs[name].dtype) for name in features}

    inputs = {"inputs": tf.TensorSpec([None], tf.string, name="inputs")}
    return wrapped(part, inputs=inputs, outputs=outputs, before=before, after=after)


def _feature(name: str, spec: Any) -> Any:
    if spec.shape.rank is None or None in spec.shape[1:].as_list():
        raise ConversionError(f"the input {name!r} of shape {spec.shape} cannot come from tf.Example", kind="usage")
    kind = _PARSED_AS.get(spec.dtype, tf.int64 if spec.dtype.is_integer or spec.dtype.is_bool else tf.float32)
    return tf.io.FixedLenFeature(spec.shape[1:].as_list(), kind)
