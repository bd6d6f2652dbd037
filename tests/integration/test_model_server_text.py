"""Operations that TensorFlow does not have: those of TensorFlow Text where it is installed, and unknown ones."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.model_server import ROOT, ModelServers, ServerEndedError
from tests.support.rest import call

UPSTREAM = ROOT / "tests/data/tensorflow_serving/saved_model_half_plus_two_cpu/00000123"
BUILD = """
import sys
import tensorflow as tf
import tensorflow_text as text

class Words(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def __call__(self, lines):
        words = text.UnicodeScriptTokenizer().tokenize(text.case_fold_utf8(lines))
        return {"words": words.to_tensor(default_value="")}

words = Words()
tf.saved_model.save(words, sys.argv[1], signatures={"serving_default": words.__call__})
"""

pytestmark = [pytest.mark.tensorflow]


@pytest.mark.skipif(importlib.util.find_spec("tensorflow_text") is None, reason="TensorFlow Text is not installed")
def test_a_model_of_tensorflow_text_is_served(model_servers: ModelServers, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path / "words" / "1")],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        capture_output=True,
        timeout=240,
    )

    server = model_servers.start(
        "--model_name=words",
        f"--model_base_path={tmp_path / 'words'}",
        # The package may be where only this process looks for it.
        environment={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    body = '{"instances": ["Grüße, WELT!", "a"]}'.encode()
    answer = json.loads(call(server.rest_port, "POST", "/v1/models/words:predict", body).body)

    assert answer == {"predictions": [["grüsse", ",", "welt", "!"], ["a", "", "", ""]]}


def test_an_operation_that_nobody_has_is_told_in_tensorflows_words(model_servers: ModelServers, tmp_path: Path) -> None:
    version = tmp_path / "m" / "1"
    shutil.copytree(UPSTREAM, version)
    graph = version / "saved_model.pb"
    # An operation's name among the graph's nodes, and in its list of operations: of equal length.
    graph.write_bytes(graph.read_bytes().replace(b"\x03Mul", b"\x03Mux"))

    with pytest.raises(ServerEndedError) as ended:
        model_servers.start("--model_name=m", f"--model_base_path={version.parent}")

    assert "NOT_FOUND: Op type not registered 'Mux' in binary" in str(ended.value)
