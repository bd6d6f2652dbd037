"""The client's side of the HTTP API: one connection, its errors in our words."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from deployctl import __version__
from deployctl.cli.placing import Server
from deployctl.errors import DeployctlError, ServerUnavailableError, UsageError

TOKEN_VARIABLE = "DEPLOYCTL_TOKEN"  # noqa: S105 - the variable's name
_MAX_ERROR_BYTES = 1 << 20


class ConnectionLostError(Exception):
    """The server was reached, and the connection broke before the answer was whole."""


class RefusalError(DeployctlError):
    """The server answered, and refused.

    Attributes:
        status: the HTTP status.
        document: what it said, as JSON; {} where that was none.
    """

    def __init__(
        self, message: str, *, hint: str | None, exit_code: int, status: int, document: dict[str, Any]
    ) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.status = status
        self.document = document


@dataclass(frozen=True, slots=True)
class Api:
    """The HTTP API of a daemon.

    Attributes:
        headers: sent with each request.
        timeout_s: how long to wait for the next bytes.
        connect_timeout_s: how long to wait for a connection.
    """

    url: SplitResult
    headers: Mapping[str, str]
    context: ssl.SSLContext | None
    timeout_s: float = 30.0
    connect_timeout_s: float = 10.0

    @contextmanager
    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        kind: str = "application/json",
        timeout_s: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Gives the answer of a request that was granted.

        Raises:
            ServerUnavailableError: the server cannot be reached; it has heard nothing.
            ConnectionLostError: the connection broke afterwards.
            RefusalError: the server refused.
        """
        with closing(self._connected(timeout_s or self.timeout_s)) as connection:
            try:
                connection.request(
                    method, self.url.path.rstrip("/") + path, body, {**self.headers, "Content-Type": kind}
                )
                response = connection.getresponse()
                if response.status >= 400:
                    raise self._refusal(response.status, response.read(_MAX_ERROR_BYTES))
                if response.status >= 300:
                    raise self._no_daemon(f", and answers with status {response.status}")
                yield response
            except (OSError, http.client.HTTPException) as error:
                raise ConnectionLostError(str(error) or type(error).__name__) from error

    def ask(self, method: str, path: str, document: Any = None, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Returns the JSON answer to a JSON request; raises as `request` does."""
        body = None if document is None else json.dumps(document).encode()
        with self.request(method, path, body, timeout_s=timeout_s) as response:
            data = response.read()
        try:
            answer: dict[str, Any] = json.loads(data or b"{}")
        except ValueError as error:
            raise self._no_daemon() from error
        return answer

    def _connected(self, timeout_s: float) -> http.client.HTTPConnection:
        host, port = self.url.hostname or "", self.url.port
        connection = (
            http.client.HTTPSConnection(host, port, timeout=self.connect_timeout_s, context=self.context)
            if self.url.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=self.connect_timeout_s)
        )
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise ServerUnavailableError(
                f"the certificate of {self.url.geturl()} cannot be trusted: {error.verify_message}",
                hint=f"deployctl --server {self.url.geturl()} --ca-file FILE status",
            ) from error
        except OSError as error:
            words = error.strerror or str(error)
            raise ServerUnavailableError(
                f"the daemon at {self.url.geturl()} cannot be reached: {words}",
                hint=f"curl -sS {self.url.geturl().rstrip('/')}/healthz",
            ) from error
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        return connection

    def _refusal(self, status: int, data: bytes) -> DeployctlError:
        try:
            document = json.loads(data)
            words, hint, code = str(document["error"]), document["hint"], int(document["exit_code"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return self._no_daemon(f", and answers with status {status}")
        return RefusalError(words, hint=hint, exit_code=code, status=status, document=document)

    def _no_daemon(self, more: str = "") -> ServerUnavailableError:
        url = self.url.geturl()
        return ServerUnavailableError(
            f"{url} is not the API of a deployctl daemon{more}", hint=f"curl -sS {url}/healthz"
        )


def api_of(server: Server, environment: Mapping[str, str] | None = None) -> Api:
    """Returns the API of a daemon, with the token of the file or the environment.

    Raises:
        UsageError: the URL is none, or the token or the certificates cannot be read.
    """
    environment = os.environ if environment is None else environment
    try:
        url = urlsplit(server.url.rstrip("/"))
        port = url.port
    except ValueError as error:
        raise UsageError(f"{server.url!r} is no URL of a server: {error}", hint="deployctl --help") from error
    if url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment or url.username:
        raise UsageError(f"{server.url!r} is no URL of a server, http(s)://HOST:PORT", hint="deployctl --help")
    del port
    headers = {"User-Agent": f"deployctl/{__version__}", "Accept": "application/json"}
    token = _token(server, environment)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return Api(url, headers, _tls(server) if url.scheme == "https" else None)


def is_in_the_clear(api: Api) -> bool:
    """Whether the token would cross a network for everyone to read."""
    if api.url.scheme == "https" or "Authorization" not in api.headers:
        return False
    host = api.url.hostname or ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _token(server: Server, environment: Mapping[str, str]) -> str:
    text = environment.get(TOKEN_VARIABLE, "")
    if server.token_file:
        try:
            text = Path(server.token_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"cannot read the token in {server.token_file}", hint=f"ls -l {server.token_file}"
            ) from error
    token = text.strip()
    if not token.isascii() or any(character.isspace() for character in token):
        raise UsageError("the token is more than one word", hint="deployctl --help")
    return token


def _tls(server: Server) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=server.ca_file or None)
    except OSError as error:
        raise UsageError(
            f"cannot read certificates from {server.ca_file}: {error.strerror or error}",
            hint=f"openssl x509 -in {server.ca_file} -noout -subject",
        ) from error
