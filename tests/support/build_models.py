"""Builds the SavedModels that tests use; run as a program, in its own process, since it imports TensorFlow.

python -m tests.support.build_models DESTINATION
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

NUMERIC_DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
HALF_PLUS_CONSTANTS = (1, 2, 3, 4, 5)


def half_plus(destination: Path, constant: int) -> None:
    """y = x/2 + `constant`, x and y float32 of any length, with variables."""
    import tensorflow as tf

    module = tf.Module()
    module.half = tf.Variable(0.5, name="half")
    module.constant = tf.Variable(float(constant), name="constant")
    predict = tf.function(
        lambda x: {"y": module.half * x + module.constant},
        input_signature=[tf.TensorSpec([None], tf.float32, name="x")],
    )
    tf.saved_model.save(module, str(destination), signatures={"serving_default": predict})


def slow_half_plus_two(destination: Path) -> None:
    """y = x/2 + 2, after some 4 * 10^9 floating point operations."""
    import tensorflow as tf

    def predict(x: Any) -> dict[str, Any]:
        matrix = tf.fill([400, 400], x[0] * 1e-3)
        for _ in range(30):
            matrix = tf.tanh(tf.matmul(matrix, matrix))
        return {"y": x / 2.0 + 2.0 + 1e-30 * tf.reduce_sum(matrix)}

    signature = [tf.TensorSpec([None], tf.float32, name="x")]
    tf.saved_model.save(tf.Module(), str(destination), signatures=tf.function(predict, input_signature=signature))


def keras_two_outputs(destination: Path) -> None:
    """Four numbers in; "score" (1) and "class" (3 probabilities) out, by model.export()."""
    import keras

    keras.utils.set_random_seed(7)
    features = keras.Input((4,), name="features")
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(features)
    outputs = {
        "score": keras.layers.Dense(1, name="score")(hidden),
        "class": keras.layers.Dense(3, activation="softmax", name="class")(hidden),
    }
    keras.Model(features, outputs).export(str(destination), verbose=False)


def segmentation(destination: Path) -> None:
    """Image, mask and threshold in; a mask of the image's size out."""
    import tensorflow as tf

    module = tf.Module()
    module.kernel = tf.Variable(tf.ones([3, 3, 3, 1]) / 27.0, name="kernel")

    def segment(image: Any, mask: Any, threshold: Any) -> dict[str, Any]:
        logits = tf.nn.conv2d(image, module.kernel, strides=1, padding="SAME")
        return {"mask": tf.cast((logits > threshold) & (mask > 0), tf.uint8), "logits": logits}

    signature = [
        tf.TensorSpec([None, None, None, 3], tf.float32, name="image"),
        tf.TensorSpec([None, None, None, 1], tf.uint8, name="mask"),
        tf.TensorSpec([], tf.float32, name="threshold"),
    ]
    tf.saved_model.save(module, str(destination), signatures=tf.function(segment, input_signature=signature))


def vocabulary(destination: Path) -> None:
    """String tokens in; their ids by a vocabulary asset, and embeddings, out."""
    import tensorflow as tf

    words = destination.parent / "vocabulary.txt"
    words.write_text("the\nquick\nbrown\nfox\n")
    module = tf.Module()
    module.asset = tf.saved_model.Asset(str(words))
    initializer = tf.lookup.TextFileInitializer(
        module.asset, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    module.table = tf.lookup.StaticVocabularyTable(initializer, num_oov_buckets=1)
    module.embedding = tf.Variable(tf.reshape(tf.range(10.0), [5, 2]), name="embedding")

    def embed(tokens: Any) -> dict[str, Any]:
        ids = module.table.lookup(tokens)
        return {"ids": ids, "embeddings": tf.gather(module.embedding, ids)}

    signature = [tf.TensorSpec([None, None], tf.string, name="tokens")]
    tf.saved_model.save(module, str(destination), signatures=tf.function(embed, input_signature=signature))
    words.unlink()


def several_signatures(destination: Path) -> None:
    """Three signatures over one variable; "shift" has an optional input."""
    import tensorflow as tf

    module = tf.Module()
    module.scale = tf.Variable([1.0, 2.0], name="scale")
    vector = tf.TensorSpec([None, 2], tf.float32, name="x")
    anything = tf.TensorSpec(None, tf.float64, name="anything")

    def shift(x: Any, by: Any = tf.constant(3.0)) -> dict[str, Any]:  # noqa: B008 - what makes an input optional
        return {"y": x * module.scale + by}

    shift_signature = [vector, tf.TensorSpec([], tf.float32, name="by")]
    signatures = {
        "serving_default": tf.function(lambda x: {"y": x * module.scale}, input_signature=[vector]),
        "shift": tf.function(shift, input_signature=shift_signature),
        "norm": tf.function(lambda a: {"norm": tf.norm(a)}, input_signature=[anything]),
    }
    tf.saved_model.save(module, str(destination), signatures=signatures)


def without_variables(destination: Path) -> None:
    """y = 2x by TensorFlow 2; its checkpoint holds no value."""
    import tensorflow as tf

    double = tf.function(lambda x: {"y": 2.0 * x}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    tf.saved_model.save(tf.Module(), str(destination), signatures=double)


def every_dtype(destination: Path) -> None:
    """One input and output of each numeric type, each output its input."""
    import tensorflow as tf

    specs = [tf.TensorSpec([None], dtype, name=f"in_{dtype}") for dtype in NUMERIC_DTYPES]
    echo = tf.function(
        lambda *tensors: {f"out_{dtype}": tf.identity(x) for dtype, x in zip(NUMERIC_DTYPES, tensors, strict=True)},
        input_signature=specs,
    )
    tf.saved_model.save(tf.Module(), str(destination), signatures=echo)


def large(destination: Path) -> None:
    """y = x + 0, with 48 MB of variables."""
    import tensorflow as tf

    module = tf.Module()
    module.zeros = tf.Variable(tf.zeros([12, 1 << 20]), name="zeros")
    add = tf.function(
        lambda x: {"y": x + module.zeros[0, 0]}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")]
    )
    tf.saved_model.save(module, str(destination), signatures=add)


def hungry(destination: Path) -> None:
    """y = x/2 + 2 by a few bytes, which take 400 MB of memory as soon as they are loaded."""
    _initialized_by(destination, _hold)


def _hold(tf: Any, zero: Any) -> Any:
    held = tf.compat.v1.get_local_variable(
        "held", [100, 1 << 20], initializer=tf.zeros_initializer(), use_resource=True
    )
    return held.initializer


def _loop(tf: Any, zero: Any) -> Any:
    return tf.while_loop(lambda i: i >= 0.0, lambda i: i * 0.5, [zero])[0]


def never_loaded(destination: Path) -> None:
    """y = x/2 + 2, whose initialization does not end."""
    _initialized_by(destination, _loop)


def _initialized_by(destination: Path, begin: Callable[[Any, Any], Any]) -> None:
    """y = x/2 + 2 by the builder of TensorFlow 1, and a variable that `begin` sets while the model is loaded."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        two = v1.get_variable("two", [], initializer=v1.constant_initializer(2.0), use_resource=True)
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": tf.identity(x / 2.0 + two, name="y")})
        begun = tf.group(begin(tf, tf.constant(0.0)))
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(destination))
        builder.add_meta_graph_and_variables(
            session, ["serve"], signature_def_map={"serving_default": signature}, main_op=begun
        )
        builder.save()


def looping(destination: Path) -> None:
    """y = x, by a loop that x tells to end after its first turn."""
    import tensorflow as tf

    def repeat(x: Any) -> dict[str, Any]:
        return {"y": tf.while_loop(lambda y: y < x, lambda y: (y + x,), [tf.zeros_like(x)], shape_invariants=None)[0]}

    scalar = tf.TensorSpec([1], tf.float32, name="x")
    first = tf.function(lambda x: {"y": tf.reshape(repeat(x[0])["y"], [1])}, input_signature=[scalar])
    tf.saved_model.save(tf.Module(), str(destination), signatures=first)


def unknown_op(destination: Path) -> None:
    """`without_variables` with its multiplication renamed to an op that no TensorFlow has."""
    from tensorflow.core.protobuf import saved_model_pb2

    without_variables(destination)
    file = destination / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for function in model.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op == "Mul":
                node.op = "MyCompanyMul"
    file.write_bytes(model.SerializeToString())


def tensorflow_1(destination: Path, *, as_text: bool = False) -> None:
    """y = ax + b by the builder of TensorFlow 1, with two tag sets, an asset and a partitioned variable."""
    import tensorflow as tf

    v1 = tf.compat.v1
    asset = destination.parent / "labels.txt"
    asset.write_text("zero\none\n")
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        weights = v1.get_variable(
            "weights",
            [4, 2],
            initializer=v1.ones_initializer(),
            partitioner=v1.fixed_size_partitioner(2),
            use_resource=False,
        )
        bias = v1.get_variable("bias", [2], initializer=v1.zeros_initializer(), use_resource=True)
        v1.get_local_variable("calls", [], initializer=v1.zeros_initializer())
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, tf.constant(str(asset), name="labels"))
        y = tf.identity(v1.matmul(x, tf.convert_to_tensor(weights)) + bias, name="y")
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder = v1.saved_model.Builder(str(destination))
        assets = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
        builder.add_meta_graph_and_variables(
            session, ["serve"], signature_def_map={"serving_default": signature}, assets_collection=assets
        )
        builder.add_meta_graph(
            ["gpu", "serve"], signature_def_map={"serving_default": signature}, assets_collection=assets
        )
        builder.save(as_text=as_text)
    asset.unlink()


def sparse_input(destination: Path) -> None:
    """A signature with a sparse placeholder (coo_sparse), by TensorFlow 1."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.sparse_placeholder(tf.float32, [None, 4], name="x")
        y = v1.sparse_reduce_sum(x, axis=1)
        v1.saved_model.simple_save(session, str(destination), {"x": x}, {"y": y})


def tflite(destination: Path) -> None:
    """TFLite files of y = x/2 + 2: plain.tflite, signed.tflite with a SignatureDef added; and words.tflite.

    The last gives the first of its string tokens as often as there are tokens, and the sums of the rows of "numbers".
    """
    import tensorflow as tf

    destination.mkdir()
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [1], name="tflite_input")
        y = tf.identity(x * 0.5 + 2.0, name="y")
        plain = v1.lite.TFLiteConverter.from_session(session, [x], [y]).convert()
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
    (destination / "plain.tflite").write_bytes(plain)
    (destination / "signed.tflite").write_bytes(_with_signature(plain, signature.SerializeToString()))

    def tokens_and_sums(tokens: Any, numbers: Any) -> dict[str, Any]:
        return {"first": tf.gather(tokens, tf.zeros_like(tf.range(tf.size(tokens)))), "sums": tf.reduce_sum(numbers, 1)}

    specs = [tf.TensorSpec([None], tf.string, name="tokens"), tf.TensorSpec([None, 2], tf.int64, name="numbers")]
    function = tf.function(tokens_and_sums, input_signature=specs).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    (destination / "words.tflite").write_bytes(converter.convert())


def _with_signature(content: bytes, signature_def: bytes) -> bytes:
    """Adds the SignatureDef as tensorflow/lite/tools/signature/signature_def_util.cc does."""
    from flatbuffers import flexbuffers  # type: ignore[import-untyped]
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    signatures = flexbuffers.Builder()
    with signatures.Map():
        signatures.Key("serving_default")
        signatures.String(signature_def.decode())
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    buffer = schema.BufferT()
    buffer.data = bytes(signatures.Finish())
    metadata = schema.MetadataT()
    metadata.name = b"signature_defs_metadata"
    metadata.buffer = len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), metadata]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _builders() -> dict[str, Callable[[Path], None]]:
    builders: dict[str, Callable[[Path], None]] = {
        "keras_two_outputs": keras_two_outputs,
        "slow_half_plus_two": slow_half_plus_two,
        "segmentation": segmentation,
        "vocabulary": vocabulary,
        "several_signatures": several_signatures,
        "without_variables": without_variables,
        "every_dtype": every_dtype,
        "unknown_op": unknown_op,
        "large": large,
        "hungry": hungry,
        "never_loaded": never_loaded,
        "looping": looping,
        "tensorflow_1": tensorflow_1,
        "tensorflow_1_text": lambda path: tensorflow_1(path, as_text=True),
        "sparse_input": sparse_input,
        "tflite": tflite,
    }
    for constant in HALF_PLUS_CONSTANTS:
        builders[f"half_plus_{constant}"] = partial(half_plus, constant=constant)
    return builders


def main(destination: Path) -> None:
    """Builds every model as a directory of its name below `destination`."""
    for name, build in _builders().items():
        build(destination / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
