from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.support.models import ROOT

# Not in the Python packages of TensorFlow and TensorFlow Serving: from their .proto files and gRPC's.
NOT_SHIPPED = {
    "deployctl.wire.tensorflow.serving.SSLConfig",
    "deployctl.wire.tensorflow.serving.PrometheusConfig",
    "deployctl.wire.tensorflow.serving.MonitoringConfig",
    "deployctl.wire.tensorflow.serving.BatchingParameters",
    "deployctl.wire.health.HealthCheckRequest",
    "deployctl.wire.health.HealthCheckResponse",
}


@pytest.mark.tensorflow
def test_every_message_has_the_names_numbers_and_types_of_upstream() -> None:
    if find_spec("tensorflow_serving") is None:
        pytest.skip("tensorflow-serving-api is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.compare_protos"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["different"] == []
    assert set(result["absent"]) == NOT_SHIPPED
    assert len(result["compared"]) > 100
