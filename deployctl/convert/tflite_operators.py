"""Operators of TFLite in TensorFlow's terms: each a function of the inputs and the operator's options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import tensorflow as tf

Operator = Callable[[Sequence[Any], Any], Any]

_PADDINGS = ("SAME", "VALID")
# schema.fbs, ActivationFunctionType.
_ACTIVATIONS: tuple[Callable[[Any], Any], ...] = (
    lambda x: x,
    tf.nn.relu,
    lambda x: tf.clip_by_value(x, -1.0, 1.0),
    tf.nn.relu6,
    tf.nn.tanh,
)


def _activated(value: Any, options: Any) -> Any:
    return _ACTIVATIONS[options.fusedActivationFunction if options is not None else 0](value)


def _unary(function: Callable[[Any], Any]) -> Operator:
    return lambda given, _: function(given[0])


def _binary(function: Callable[[Any, Any], Any]) -> Operator:
    return lambda given, _: function(given[0], given[1])


def _arithmetic(function: Callable[[Any, Any], Any]) -> Operator:
    return lambda given, options: _activated(function(given[0], given[1]), options)


def _reduction(function: Callable[..., Any]) -> Operator:
    return lambda given, options: function(given[0], axis=given[1], keepdims=options.keepDims)


def _fully_connected(given: Sequence[Any], options: Any) -> Any:
    rows = given[0] if options.keepNumDims else tf.reshape(given[0], [-1, given[1].shape[1]])
    product = tf.linalg.matmul(rows, given[1], transpose_b=True)
    return _activated(_biased(product, given), options)


def _convolution(given: Sequence[Any], options: Any) -> Any:
    # TFLite has [out, height, width, in].
    kernel = tf.transpose(given[1], [1, 2, 3, 0])
    strides, dilations = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
    product = tf.nn.conv2d(given[0], kernel, strides, _PADDINGS[options.padding], dilations=dilations)
    return _activated(_biased(product, given), options)


def _depthwise(given: Sequence[Any], options: Any) -> Any:
    # TFLite has [1, height, width, in * multiplier].
    _, height, width, channels = given[1].shape
    kernel = tf.reshape(given[1], [height, width, channels // options.depthMultiplier, options.depthMultiplier])
    strides, dilations = (1, options.strideH, options.strideW, 1), (options.dilationHFactor, options.dilationWFactor)
    product = tf.nn.depthwise_conv2d(given[0], kernel, strides, _PADDINGS[options.padding], dilations=dilations)
    return _activated(_biased(product, given), options)


def _biased(product: Any, given: Sequence[Any]) -> Any:
    return product + given[2] if len(given) > 2 and given[2] is not None else product


def _pool(kind: str) -> Operator:
    def pooled(given: Sequence[Any], options: Any) -> Any:
        window, strides = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
        result = tf.nn.pool(given[0], window, kind, strides=strides, padding=_PADDINGS[options.padding])
        return _activated(result, options)

    return pooled


def _reshape(given: Sequence[Any], options: Any) -> Any:
    return tf.reshape(given[0], given[1] if len(given) > 1 else options.newShape)


def _strided_slice(given: Sequence[Any], options: Any) -> Any:
    return tf.strided_slice(
        *given,
        begin_mask=options.beginMask,
        end_mask=options.endMask,
        ellipsis_mask=options.ellipsisMask,
        new_axis_mask=options.newAxisMask,
        shrink_axis_mask=options.shrinkAxisMask,
    )


def _resized(given: Sequence[Any], options: Any, *, kind: str) -> Any:
    resize = {
        "bilinear": tf.raw_ops.ResizeBilinear,
        "nearest": tf.raw_ops.ResizeNearestNeighbor,
    }[kind]
    corners = {"align_corners": options.alignCorners, "half_pixel_centers": options.halfPixelCenters}
    return resize(images=given[0], size=given[1], **corners)


OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "ABS": _unary(tf.abs),
        "ADD": _arithmetic(tf.add),
        "ARG_MAX": lambda given, options: tf.argmax(
            given[0], given[1], tf.int32 if options.outputType == 2 else tf.int64
        ),
        "AVERAGE_POOL_2D": _pool("AVG"),
        "BATCH_MATMUL": lambda given, options: tf.linalg.matmul(*given, options.adjX, options.adjY),
        "CONCATENATION": lambda given, options: _activated(tf.concat(list(given), options.axis), options),
        "CONV_2D": _convolution,
        "DEPTHWISE_CONV_2D": _depthwise,
        "DEQUANTIZE": _unary(tf.identity),
        "DIV": _arithmetic(tf.divide),
        "EXP": _unary(tf.exp),
        "EXPAND_DIMS": _binary(tf.expand_dims),
        "FLOOR": _unary(tf.floor),
        "FULLY_CONNECTED": _fully_connected,
        "GATHER": lambda given, options: tf.gather(given[0], given[1], axis=options.axis),
        "LEAKY_RELU": lambda given, options: tf.nn.leaky_relu(given[0], options.alpha),
        "LOG": _unary(tf.math.log),
        "LOGISTIC": _unary(tf.sigmoid),
        "MAXIMUM": _binary(tf.maximum),
        "MAX_POOL_2D": _pool("MAX"),
        "MEAN": _reduction(tf.reduce_mean),
        "MINIMUM": _binary(tf.minimum),
        "MUL": _arithmetic(tf.multiply),
        "NEG": _unary(tf.negative),
        "PACK": lambda given, options: tf.stack(list(given), options.axis),
        "PAD": _binary(tf.pad),
        "QUANTIZE": _unary(tf.identity),
        "REDUCE_MAX": _reduction(tf.reduce_max),
        "RELU": _unary(tf.nn.relu),
        "RELU6": _unary(tf.nn.relu6),
        "RESHAPE": _reshape,
        "RESIZE_BILINEAR": lambda given, options: _resized(given, options, kind="bilinear"),
        "RESIZE_NEAREST_NEIGHBOR": lambda given, options: _resized(given, options, kind="nearest"),
        "RSQRT": _unary(tf.math.rsqrt),
        "SHAPE": _unary(tf.shape),
        "SLICE": lambda given, _: tf.slice(*given),
        "SOFTMAX": lambda given, options: tf.nn.softmax(given[0] * options.beta),
        "SQRT": _unary(tf.sqrt),
        "SQUARE": _unary(tf.square),
        "SQUARED_DIFFERENCE": _binary(tf.math.squared_difference),
        "SQUEEZE": lambda given, options: tf.squeeze(given[0], options.squeezeDims),
        "STRIDED_SLICE": _strided_slice,
        "SUB": _arithmetic(tf.subtract),
        "SUM": _reduction(tf.reduce_sum),
        "TANH": _unary(tf.tanh),
        "TILE": _binary(tf.tile),
        "TRANSPOSE": _binary(tf.transpose),
    }
)
