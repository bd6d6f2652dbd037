"""An object store on loopback for tests, started once for each worker; every test has a bucket of its own.

STORE_UNDER_TEST names another store to hold the repository against, http://KEY:SECRET@HOST:PORT, such as a RADOS
Gateway: `STORE_UNDER_TEST=… pytest tests/contract/test_model_repository.py`.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from deployctl.domain.clock import Clock
from deployctl.repository.cache import CacheOptions, VersionCache
from deployctl.repository.s3 import S3ModelRepository
from deployctl.repository.s3_client import S3Store
from deployctl.repository.s3_session import S3Options
from deployctl.system import SystemClock

# Any will do for the store of the suite, which checks no signatures.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
_PORTS_TRIED = 3
_READY_WITHIN_S = 30


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of one test, with a client that goes past the code under test."""

    endpoint: str
    name: str
    client: Any

    def options(self, **changes: Any) -> S3Options:
        """Returns how a repository below the prefix `models` reaches it."""
        return replace(
            S3Options(bucket=self.name, prefix="models", endpoint_url=self.endpoint, region="us-east-1"), **changes
        )

    def keys(self, prefix: str = "") -> list[str]:
        """Returns the keys below `prefix`, which comes after `models/`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=f"models/{prefix}")
        return [each["Key"].removeprefix("models/") for page in pages for each in page.get("Contents", ())]

    def put(self, key: str, body: bytes) -> None:
        """Puts an object as anyone else might."""
        self.client.put_object(Bucket=self.name, Key=f"models/{key}", Body=body)

    def remove(self, key: str) -> None:
        """Removes an object as anyone else might."""
        self.client.delete_object(Bucket=self.name, Key=f"models/{key}")

    def read(self, key: str) -> bytes:
        """Returns the bytes of an object."""
        body: bytes = self.client.get_object(Bucket=self.name, Key=f"models/{key}")["Body"].read()
        return body

    def repository(
        self, cache: Path, clock: Clock | None = None, *, max_bytes: int = 0, **changes: Any
    ) -> S3ModelRepository:
        """Returns a repository in this bucket with a cache in `cache`."""
        clock = clock or SystemClock()
        return S3ModelRepository(
            S3Store(self.options(**changes)),
            VersionCache(CacheOptions(cache, max_bytes=max_bytes), clock, frozenset),
            clock,
        )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running store; skips where it cannot be had."""
    other = urlsplit(os.environ.get("STORE_UNDER_TEST", ""))
    if other.netloc:
        yield f"{other.scheme}://{other.netloc.rpartition('@')[2]}"
        return
    missing = [name for name in ("ministack", "boto3") if importlib.util.find_spec(name) is None]
    if missing:
        if "s3" in os.environ.get("DEPLOYCTL_REQUIRE", "").split(","):
            pytest.fail(f"DEPLOYCTL_REQUIRE names s3, but {missing[0]} is not installed")
        pytest.skip(f"{missing[0]} is not installed")
    with running_store(tmp_path_factory.mktemp("store")) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new, empty bucket; credentials for it are in the environment, as in AWS's own chain."""
    other = urlsplit(os.environ.get("STORE_UNDER_TEST", ""))
    own = {"AWS_ACCESS_KEY_ID": other.username or "", "AWS_SECRET_ACCESS_KEY": other.password or ""}
    for name, value in (own if other.netloc else CREDENTIALS).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return make_bucket(s3_server)


def make_bucket(endpoint: str, name: str = "") -> Bucket:
    """Makes a bucket with credentials from the environment."""
    client = make_client(endpoint)
    name = name or f"test-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=name)
    return Bucket(endpoint, name, client)


def make_client(endpoint: str) -> Any:
    """Returns an S3 client of AWS's SDK."""
    import boto3
    from botocore.config import Config

    config = Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config)


@contextmanager
def running_store(directory: Path) -> Iterator[str]:
    """Runs a store on a free port of loopback while the block runs, and gives its URL."""
    server, port = _started(directory)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _started(directory: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Starts a store; on another port where somebody took the one that was free."""
    environment = os.environ | {"BIND_HOST": "127.0.0.1", "SERVICES": "s3", "HOME": str(directory)}
    command = [str(Path(sys.executable).with_name("ministack"))]
    for _ in range(_PORTS_TRIED):
        port, log = free_port(), directory / "log"
        with log.open("wb") as file:
            server = subprocess.Popen(
                command,
                env=environment | {"GATEWAY_PORT": str(port), "TMPDIR": str(directory)},
                cwd=directory,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
            )
        if _is_ready(server, port):
            return server, port
        server.kill()
        server.wait()
    raise AssertionError(f"the object store did not start: {log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    """Returns a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(server: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the store answers in time; False as soon as it has ended."""
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
        except urllib.error.HTTPError as answer:
            answer.close()
        except OSError:
            threading.Event().wait(0.02)
            continue
        # Somebody else may answer there.
        return server.poll() is None
    return False
