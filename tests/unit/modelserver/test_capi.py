"""TensorFlow's C library beside the other libraries of a Python process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.models import ROOT

pytestmark = pytest.mark.tensorflow

_LOAD_THEN = "from deployctl.modelserver.capi import c_api; c_api(); {}"


@pytest.mark.parametrize(
    "later",
    [
        "import hashlib; assert len(hashlib.sha256(b'x').digest()) == 32",
        "import hmac; hmac.digest(b'k', b'm', 'sha256')",
        "import secrets; secrets.token_bytes(8)",
        "import ssl; ssl.create_default_context()",
        "import numpy.random; numpy.random.default_rng(1).random(3)",
        "import grpc; grpc.ssl_channel_credentials()",
    ],
)
def test_modules_that_use_openssl_may_be_imported_after_tensorflow_was_loaded(later: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOAD_THEN.format(later)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
