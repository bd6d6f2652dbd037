"""An authority that nobody else knows, and a certificate of it for this machine, made by OpenSSL."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_MAKE_S = 60


def make_certificates(directory: Path) -> Path:
    """Writes ca.pem, cert.pem and key.pem for 127.0.0.1, which do for both sides; skips without `openssl`."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    authority = ["-subj", "/CN=authority", "-keyout", "ca-key.pem", "-out", "ca.pem"]
    own = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    of_authority = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-addext", "basicConstraints=critical,CA:FALSE"]
    for command in ([*new, *authority], [*new, *of_authority, *own]):
        subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=_MAKE_S)
    return directory
