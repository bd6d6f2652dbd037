"""The engine is found as the `docker` command finds it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from deployctl.errors import EngineError
from deployctl.serving.docker_address import EngineAddress, engine_address


def add_context(home: Path, name: str, *, current: bool = False, tls: bool = False, **endpoint: Any) -> Path:
    """Keeps a context as the client does, and returns the directory of its certificates."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    meta = home / ".docker" / "contexts" / "meta" / digest / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    certificates = home / ".docker" / "contexts" / "tls" / digest / "docker"
    if tls:
        certificates.mkdir(parents=True)
    if current:
        (home / ".docker" / "config.json").write_text(json.dumps({"currentContext": name}))
    return certificates


def test_is_the_local_engine_where_nothing_else_is_said(tmp_path: Path) -> None:
    assert engine_address({}, tmp_path) == EngineAddress("unix:///var/run/docker.sock", verified=False)


def test_docker_host_goes_before_a_context(tmp_path: Path) -> None:
    add_context(tmp_path, "production", current=True, Host="tcp://10.0.0.1:2376")
    environment = {"DOCKER_HOST": "ssh://ada@10.0.0.2", "DOCKER_CONTEXT": "production"}

    found = engine_address(environment, tmp_path)

    assert (found.url, found.is_ssh, found.host) == ("ssh://ada@10.0.0.2", True, "10.0.0.2")


def test_docker_context_goes_before_the_current_one(tmp_path: Path) -> None:
    add_context(tmp_path, "staging", Host="unix:///run/staging.sock")
    add_context(tmp_path, "production", current=True, Host="tcp://10.0.0.1:2375")

    assert engine_address({}, tmp_path).url == "tcp://10.0.0.1:2375"
    assert engine_address({"DOCKER_CONTEXT": "staging"}, tmp_path).url == "unix:///run/staging.sock"
    assert engine_address({"DOCKER_CONTEXT": "default"}, tmp_path).url == "unix:///var/run/docker.sock"


def test_a_context_brings_its_certificates(tmp_path: Path) -> None:
    certificates = add_context(
        tmp_path, "production", current=True, tls=True, Host="tcp://10.0.0.1:2376", SkipTLSVerify=False
    )

    assert engine_address({}, tmp_path) == EngineAddress("tcp://10.0.0.1:2376", certificates, verified=True)


def test_the_environment_names_certificates(tmp_path: Path) -> None:
    host = {"DOCKER_HOST": "tcp://10.0.0.1:2376"}

    verified = engine_address({**host, "DOCKER_TLS_VERIFY": "1"}, tmp_path)
    other = engine_address({**host, "DOCKER_CERT_PATH": "/certificates"}, tmp_path)

    assert verified == EngineAddress(host["DOCKER_HOST"], tmp_path / ".docker", verified=True)
    assert other == EngineAddress(host["DOCKER_HOST"], Path("/certificates"), verified=False)


def test_docker_config_says_where_contexts_are(tmp_path: Path) -> None:
    add_context(tmp_path, "production", Host="tcp://10.0.0.1:2375")
    environment = {"DOCKER_CONFIG": str(tmp_path / ".docker"), "DOCKER_CONTEXT": "production"}

    assert engine_address(environment, Path("/nobody")).url == "tcp://10.0.0.1:2375"


def test_a_context_that_is_not_there_is_not_taken_for_the_local_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no context 'production'") as raised:
        engine_address({"DOCKER_CONTEXT": "production"}, tmp_path)

    assert raised.value.hint == "docker context ls"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"Endpoints": {}}'])
def test_a_context_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    add_context(tmp_path, "production", current=True)
    (meta,) = (tmp_path / ".docker" / "contexts" / "meta").glob("*/meta.json")
    meta.write_text(text)

    with pytest.raises(EngineError, match="production"):
        engine_address({}, tmp_path)


@pytest.mark.parametrize(
    ("url", "host"),
    [("unix:///run/d.sock", ""), ("tcp://127.0.0.1:2376", ""), ("tcp://[::1]:1", ""), ("tcp://engine:2376", "engine")],
)
def test_published_ports_are_reached_at_the_engines_machine(url: str, host: str) -> None:
    assert EngineAddress(url).host == host
