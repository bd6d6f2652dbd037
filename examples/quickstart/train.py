"""Trains two versions of a small Keras classifier on scikit-learn's handwritten digits, and exports both.

Run as `python -m examples.quickstart.train DIRECTORY`; prints one JSON line for each export:
{"export": path, "accuracy": share of held-out digits that are named rightly}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# (export name, training rounds): the second model is the better one.
VERSIONS = (("first", 3), ("retrained", 25))


def main(directory: Path) -> None:
    """Trains and exports each of VERSIONS below `directory`."""
    import keras
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    split = train_test_split(digits.data / 16.0, digits.target, test_size=0.3, random_state=0)
    train_images, test_images, train_names, test_names = split
    for name, rounds in VERSIONS:
        keras.utils.set_random_seed(0)
        image = keras.Input((64,), name="image")
        hidden = keras.layers.Dense(64, activation="relu")(image)
        model = keras.Model(image, keras.layers.Dense(10, activation="softmax", name="digit")(hidden))
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(train_images, train_names, epochs=rounds, verbose=0)
        accuracy = model.evaluate(test_images, test_names, verbose=0)[1]
        export = directory / name
        model.export(export, verbose=False)
        print(json.dumps({"export": str(export), "accuracy": round(float(accuracy), 4)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
