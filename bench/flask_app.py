"""The usual way to put a model behind HTTP: Flask around tf.saved_model.load. python -m bench.flask_app EXPORT PORT."""

from __future__ import annotations

import sys

import flask
import tensorflow as tf


def main() -> None:
    """Serves the model's default signature until the process ends."""
    model = tf.saved_model.load(sys.argv[1])
    infer = model.signatures["serving_default"]
    app = flask.Flask(__name__)

    @app.post("/predict")
    def predict() -> flask.Response:
        instances = flask.request.get_json()["instances"]
        outputs = infer(x=tf.constant(instances, dtype=tf.float32))
        return flask.jsonify(predictions=next(iter(outputs.values())).numpy().tolist())

    app.run("127.0.0.1", int(sys.argv[2]), threaded=True)


if __name__ == "__main__":
    main()
