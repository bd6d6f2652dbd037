"""Builds what the tests of `convert` start from; run as a program, in its own process, since it imports TensorFlow.

python -m tests.support.build_sources DESTINATION
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

WORDS = ("engineer", "nurse", "driver", "cook", "teacher", "senior", "junior", "night", "remote", "paris")
LENGTH, WIDTH = 6, 4

LAYERS = """
import keras


class Doubling(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2.0
"""

BUILDERS = """
import tensorflow as tf

v1 = tf.compat.v1


def network():
    x = v1.placeholder(tf.float32, [None, 160], name="x")
    weights = v1.get_variable("weights", [160, 160], use_resource=False)
    bias = v1.get_variable("bias", [160], use_resource=False)
    return {"x": x}, {"y": tf.nn.softmax(v1.matmul(x, weights) + bias, name="y")}


def narrower():
    x = v1.placeholder(tf.float32, [None, 16], name="x")
    return {"x": x}, {"y": v1.matmul(x, v1.get_variable("weights", [16, 16], use_resource=False), name="y")}


def other():
    x = v1.placeholder(tf.float32, [None, 16], name="x")
    return {"x": x}, {"y": v1.matmul(x, v1.get_variable("other", [16, 16], use_resource=False), name="y")}


def without_variables():
    x = v1.placeholder(tf.float32, [None, 16], name="x")
    return {"x": x}, {"y": x * 2.0}


def five():
    return 5


def failing():
    raise KeyError("units")
"""


def classifiers(folder: Path) -> None:
    """Four Keras models over word vectors [batch, 6, 4], all with the same first layer; one more over ids."""
    import keras

    keras.utils.set_random_seed(1)
    first = keras.layers.Dense(16, activation="tanh", name="first")
    vectors = keras.Input((LENGTH, WIDTH), name="vectors")
    hidden = keras.layers.GlobalAveragePooling1D()(first(vectors))
    for index, name in enumerate(("contract", "seniority", "remote", "shift")):
        answer = keras.layers.Dense(index + 2, activation="softmax", name=f"{name}_scores")(hidden)
        keras.Model(vectors, answer, name=name).save(folder / f"{name}.keras")
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    embedded = keras.layers.Embedding(len(WORDS) + 2, WIDTH)(ids)
    keras.Model(ids, keras.layers.Dense(2)(keras.layers.Flatten()(embedded)), name="by_ids").save(folder / "ids.keras")


def planet(folder: Path) -> None:
    """A satellite image [batch, 128, 128, 3] in; "weather" (4, softmax) and "ground" (13, sigmoid) out."""
    import keras

    keras.utils.set_random_seed(2)
    image = keras.Input((128, 128, 3), name="input_image")
    features = keras.layers.Conv2D(4, 8, strides=8, activation="relu")(image)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    weather = keras.layers.Dense(4, activation="softmax", name="weather")(pooled)
    ground = keras.layers.Dense(13, activation="sigmoid", name="ground")(pooled)
    model = keras.Model(image, {"weather": weather, "ground": ground}, name="planet")
    model.save(folder / "planet.h5")
    model.layers[1].set_weights([each * 1.5 for each in model.layers[1].get_weights()])
    model.save(folder / "planet_better.keras")


def awkward(folder: Path) -> None:
    """Keras files that need care: a Lambda, a custom layer, text that is looked up, pickles, and none at all."""
    import keras

    scope: dict[str, Any] = {}
    exec(compile(LAYERS, "layers", "exec"), scope)  # noqa: S102 - the text that the tests write to a module
    x = keras.Input((4,), name="x")
    keras.Model(x, keras.layers.Lambda(lambda value: value * 3.0, name="triple")(x)).save(folder / "lambda.h5")
    keras.Model(x, keras.layers.Lambda(lambda value: value * 3.0, name="triple")(x)).save(folder / "lambda.keras")
    keras.Model(x, scope["Doubling"](name="doubling")(x)).save(folder / "custom.keras")
    text = keras.Input((), dtype="string", name="text")
    lookup = keras.layers.StringLookup(vocabulary=list(WORDS), output_mode="one_hot")
    keras.Model(text, keras.layers.Dense(2, name="scores")(lookup(text))).save(folder / "lookup.keras")
    with zipfile.ZipFile(folder / "custom.keras") as whole, zipfile.ZipFile(folder / "bomb.keras", "w") as bomb:
        bomb.writestr("config.json", whole.read("config.json"))
        bomb.writestr("metadata.json", whole.read("metadata.json"))
        bomb.writestr("model.weights.npz", b"cos\nsystem\n(S'touch exploded'\ntR.")
    for name in ("planet.h5", "contract.keras"):
        content = (folder / name).read_bytes()
        (folder / f"truncated_{name}").write_bytes(content[: len(content) // 2])
    (folder / "layers_for_tests.py").write_text(LAYERS)
    (folder / "builders_for_tests.py").write_text(BUILDERS)


def in_a_row(folder: Path) -> None:
    """Layers in a row with a loop among them: six words of four numbers in, two numbers out."""
    import keras

    layers = [keras.Input((LENGTH, WIDTH), name="words"), keras.layers.LSTM(3), keras.layers.BatchNormalization()]
    keras.Sequential([*layers, keras.layers.Dropout(0.5), keras.layers.Dense(2, name="scores")]).save(
        folder / "in_a_row.h5"
    )


def digits(folder: Path) -> None:
    """Pictures [batch, 8, 8, 1] with values 0 to 1 in; three scores out, or one number each: how bright they are."""
    import keras

    keras.utils.set_random_seed(3)
    picture = keras.Input((8, 8, 1), name="picture")
    scores = keras.layers.Dense(3, activation="softmax", name="scores")(keras.layers.Flatten()(picture))
    keras.Model(picture, scores, name="digits").save(folder / "digits.keras")
    bright = keras.layers.Dense(1, name="brightness")(keras.layers.Flatten()(picture))
    keras.Model(picture, bright, name="bright").save(folder / "bright.keras")
    (folder / "labels.txt").write_text("zero\none\ntwo\n")


def trained_checkpoint(folder: Path) -> None:
    """y = softmax(xW + b) of TensorFlow 1 with Adam's state; a second one without .meta; and a SavedModel of it."""
    import numpy as np
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(4)
        x = v1.placeholder(tf.float32, [None, 160], name="x")
        weights = v1.get_variable("weights", [160, 160], use_resource=False)
        bias = v1.get_variable("bias", [160], use_resource=False)
        y = tf.nn.softmax(v1.matmul(x, weights) + bias, name="y")
        loss = tf.reduce_mean(tf.square(y - 1.0), name="loss")
        train = v1.train.AdamOptimizer(0.01).minimize(loss)
        session.run(v1.global_variables_initializer())
        session.run(train, {x: np.ones((2, 160), np.float32)})
        saver = v1.train.Saver()
        saver.save(session, str(folder / "trained.ckpt"))
        saver.save(session, str(folder / "bare.ckpt"), write_meta_graph=False)
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder = v1.saved_model.Builder(str(folder / "training_and_serving"))
        builder.add_meta_graph_and_variables(session, ["train"], signature_def_map={"serving_default": signature})
        builder.add_meta_graph(["serve"], signature_def_map={"serving_default": signature})
        builder.save()
    (folder / "checkpoint").unlink()


def frozen_graphs(folder: Path) -> None:
    """a.pb: y = 2x + 1; b.pb: z = x * x; other_x.pb: another x; deeplab.pb: segmentation_map by three inputs."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None], name="x")
        tf.add(x * 2.0, 1.0, name="y")
        (folder / "a.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with v1.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None], name="x")
        tf.multiply(x, x, name="z")
        (folder / "b.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with v1.Graph().as_default() as graph:
        x = v1.placeholder(tf.int32, [None, 3], name="x")
        tf.negative(x, name="n")
        (folder / "other_x.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with v1.Graph().as_default() as graph:
        image = v1.placeholder(tf.uint8, [1, None, None, 3], name="image")
        height = v1.placeholder(tf.int32, [], name="height")
        width = v1.placeholder(tf.int32, [], name="width")
        pixels = tf.cast(v1.image.resize_bilinear(tf.cast(image, tf.float32), [16, 16]), tf.float32)
        kernel = tf.constant(0.01, shape=[3, 3, 3, 5]) * tf.range(1.0, 6.0)
        logits = tf.nn.conv2d(pixels / 127.5 - 1.0, kernel, strides=1, padding="SAME")
        large = v1.image.resize_nearest_neighbor(logits, tf.stack([height, width]))
        tf.argmax(large, axis=3, name="segmentation_map")
        (folder / "deeplab.pb").write_bytes(graph.as_graph_def().SerializeToString())


def word_vectors(folder: Path) -> None:
    """vectors.txt: ten words, four numbers each; vocabulary.txt and vectors.npy: the same in two files."""
    import numpy as np

    matrix = np.random.default_rng(5).random((len(WORDS), WIDTH)).astype(np.float32)
    lines = [f"{word} {' '.join(f'{value:.6f}' for value in row)}" for word, row in zip(WORDS, matrix, strict=True)]
    (folder / "vectors.txt").write_text("".join(f"{line}\n" for line in lines))
    (folder / "vocabulary.txt").write_text("".join(f"{word}\n" for word in WORDS))
    np.save(folder / "vectors.npy", matrix)


def main(destination: Path) -> None:
    """Builds everything below `destination`."""
    for build in (classifiers, planet, in_a_row, digits, awkward, trained_checkpoint, frozen_graphs, word_vectors):
        build(destination)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
