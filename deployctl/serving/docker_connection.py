"""Connections to engines: by socket, with TLS, or by the `ssh` command as the `docker` command does.

The SDK reaches an engine by SSH only with another library, which costs each command a tenth of a second.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import docker
import requests
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.tls import TLSConfig
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool

from deployctl.errors import EngineUnavailableError
from deployctl.serving.docker_address import EngineAddress

# What the adapter is called by; nothing is at that path.
_PLACEHOLDER = "http+unix:///ssh"
_END_S = 5.0


def connected(address: EngineAddress, timeout_s: int) -> docker.DockerClient:
    """Returns a client of the engine at `address`; the errors are the SDK's, but for an engine behind SSH.

    Raises:
        EngineUnavailableError: ssh does not reach it; its own words.
    """
    if address.is_ssh:
        return _by_ssh(address, timeout_s)
    if address.certificates is None:
        return docker.DockerClient(base_url=address.url, timeout=timeout_s)
    ca, cert, key = (str(address.certificates / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    tls = TLSConfig(client_cert=(cert, key) if os.path.exists(cert) else None, ca_cert=ca, verify=address.verified)

    def make(version: str) -> docker.DockerClient:
        client = docker.DockerClient(base_url=address.url, tls=tls, version=version, timeout=timeout_s)
        # REQUESTS_CA_BUNDLE would go before the engine's own authority.
        client.api.trust_env = False
        return client

    return _negotiated(make)


def _by_ssh(address: EngineAddress, timeout_s: int) -> docker.DockerClient:
    adapter = _SshAdapter(address.url, timeout_s)

    def make(version: str) -> docker.DockerClient:
        client = docker.DockerClient(base_url=_PLACEHOLDER, version=version, timeout=timeout_s)
        client.api.mount("http+docker://", adapter)
        return client

    try:
        return _negotiated(make)
    except requests.exceptions.RequestException as error:
        reason = adapter.words() or str(error)
        adapter.close()
        raise EngineUnavailableError(address.url, reason) from error


def _negotiated(make: Callable[[str], docker.DockerClient]) -> docker.DockerClient:
    """Returns a client that speaks the engine's version, which the SDK could ask only before `make` has changed it."""
    first = make(MINIMUM_DOCKER_API_VERSION)
    return make(str(first.api.version(api_version=False)["ApiVersion"]))


class _SshAdapter(UnixHTTPAdapter):  # type: ignore[misc]
    """Carries each connection to the engine over an `ssh` of its own, which runs `docker system dial-stdio` there."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """Connects nothing yet; `url` is ssh://[USER@]HOST[:PORT]."""
        super().__init__(_PLACEHOLDER, timeout_s)
        self._command = _ssh(url)
        self._timeout_s = timeout_s
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the adapter lives
        self._children: list[subprocess.Popen[bytes]] = []

    def get_connection(self, url: str, proxies: Any = None) -> Any:
        """Returns the connections, which are made when they are needed."""
        del proxies
        with self.pools.lock:
            if not self.pools.get(url):
                self.pools[url] = _Connections(self, url, self._timeout_s)
            return self.pools[url]

    def dial(self) -> socket.socket:
        """Returns a connection to the engine.

        Raises:
            OSError: there is no command `ssh`.
        """
        ours, theirs = socket.socketpair()
        try:
            ours.settimeout(self._timeout_s)
            self._children.append(
                subprocess.Popen(
                    self._command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._words,
                    start_new_session=True,
                )
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def words(self) -> str:
        """Returns the last line that ssh has written, "" for none."""
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_END_S)
        self._words.seek(0)
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def close(self) -> None:
        """Closes all connections, and ends what carries them."""
        super().close()
        self.pools.clear()
        for child in self._children:
            child.terminate()
        for child in self._children:
            try:
                child.wait(_END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(_END_S)
        self._words.close()


class _Connection(UnixHTTPConnection):  # type: ignore[misc]
    def __init__(self, adapter: _SshAdapter, url: str, timeout_s: float) -> None:
        super().__init__(url, "", timeout_s)
        self._adapter = adapter

    def connect(self) -> None:
        self.sock = self._adapter.dial()


class _Connections(UnixHTTPConnectionPool):  # type: ignore[misc]
    def __init__(self, adapter: _SshAdapter, url: str, timeout_s: float) -> None:
        super().__init__(url, "", timeout_s)
        self._adapter = adapter

    def _new_conn(self) -> _Connection:
        return _Connection(self._adapter, self.base_url, self.timeout)


def _ssh(url: str) -> list[str]:
    parts = urlsplit(url)
    user = ["-l", parts.username] if parts.username else []
    port = ["-p", str(parts.port)] if parts.port else []
    return ["ssh", "-o", "ConnectTimeout=30", "-T", *user, *port, "--", str(parts.hostname), "docker system dial-stdio"]
