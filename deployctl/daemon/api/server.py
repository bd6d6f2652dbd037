"""The duty that answers the HTTP API."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.daemon.interface import Duty, Work
from deployctl.errors import PortTakenError, SettingsError

if TYPE_CHECKING:
    from deployctl.daemon.api.jobs import Jobs
    from deployctl.daemon.api.listener import Listener

_log = logging.getLogger(__name__)
_HEADER_BYTES = 16 << 10
_CONNECTIONS = 256
_KEEP_ALIVE_S = 15
# How long answers in progress, and streams, may take to end.
_GRACE_S = 3


class Api(Duty):
    """Answers at `daemon.listen`."""

    @property
    def name(self) -> str:
        """What logs call it."""
        return "api"

    def run(self, work: Work) -> None:
        """Answers until `work.stopping` is set."""
        with _listening(work.settings.daemon.listen) as listening:
            _Answering(work, listening).run()


class _Answering:
    """One uvicorn server."""

    def __init__(self, work: Work, listening: socket.socket) -> None:
        self._work = work
        self._listening = listening
        self._jobs: Jobs | None = None

    def run(self) -> None:
        """Returns once the server has ended, whoever ended it, and with it what clients have begun."""
        asyncio.run(self._serve())
        if self._jobs is not None:
            self._jobs.finish(self._work.settings.daemon.stop_timeout_s)

    async def _serve(self) -> None:
        server = self._server()
        _log.info("answering at %s", self._url())
        await server.serve(sockets=[self._listening])

    def _server(self) -> Listener:
        try:
            import uvicorn

            from deployctl.daemon.api.app import application
            from deployctl.daemon.api.jobs import Jobs
            from deployctl.daemon.api.listener import Listener
        except ImportError as error:
            words = f'the API needs {error.name}, which is not installed; daemon.listen = "" does without it'
            raise SettingsError(words, hint="pip install 'deployctl[daemon]'") from error

        settings = self._work.settings.daemon
        self._jobs = Jobs(self._work)
        config = uvicorn.Config(
            application(self._work, self._jobs),
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
            ssl_certfile=_file(self._work, settings.tls_cert_file),
            ssl_keyfile=_file(self._work, settings.tls_key_file),
        )
        try:
            config.load()
        except OSError as error:
            raise SettingsError(
                f"daemon.tls_cert_file cannot be used: {error}", hint="deployctl config show"
            ) from error
        return Listener(config, self._work.stopping)

    def _url(self) -> str:
        scheme = "https" if self._work.settings.daemon.tls_cert_file else "http"
        host, port = self._listening.getsockname()[:2]
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _file(work: Work, text: str) -> Path | None:
    return work.settings.root / text if text else None


def _listening(listen: str) -> socket.socket:
    """Returns a socket that listens at HOST:PORT.

    Raises:
        SettingsError: `listen` is no such text.
        PortTakenError: the port is in use.
    """
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"daemon.listen = {listen!r} is not HOST:PORT", hint="deployctl config show daemon")
    _warn_where_open(host)
    try:
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, int(port)), family=family, backlog=128)
    except OSError as error:
        raise PortTakenError(f"the API cannot listen at {listen}: {error.strerror}", hint="ss -ltnp") from error


def _warn_where_open(host: str) -> None:
    with suppress(ValueError):
        if not ipaddress.ip_address(host).is_loopback:
            _log.warning("the API can be reached from other machines, at %s", host)
