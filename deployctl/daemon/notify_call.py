"""One call of a webhook: signed, within its time, following no redirect, and never telling the URL's secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import os
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import SplitResult, unquote, urlsplit

from deployctl import __version__
from deployctl.config.daemon_settings import NotificationFormat, NotificationSettings
from deployctl.daemon.notify_words import Notice
from deployctl.errors import NotificationError, SettingsError

TIMESTAMP_HEADER = "Deployctl-Timestamp"
SIGNATURE_HEADER = "Deployctl-Signature"
ID_HEADER = "Deployctl-Id"
EVENT_HEADER = "Deployctl-Event"
# What a receiver answers is of no interest beyond its status.
_MAX_ANSWER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a channel's notices go, with its secrets.

    Attributes:
        key: of the signature, None for none.
        timeout_s: for a whole call, its name's resolution excepted.
    """

    name: str
    url: str = field(repr=False)
    key: bytes | None = field(repr=False)
    form: NotificationFormat
    timeout_s: float

    def __str__(self) -> str:
        return f"{self.name} ({shown_url(self.url)})"


def webhook(name: str, settings: NotificationSettings, environment: Mapping[str, str]) -> Webhook:
    """Returns a channel's webhook with the secrets that the environment holds.

    Raises:
        SettingsError: a variable that the settings name is not set, or holds no URL.
    """
    url = _variable(name, "url_env", settings.url_env, environment) if settings.url_env else settings.url
    problem = url_problem(url)
    if problem:
        where = f"{settings.url_env}, which notifications.{name}.url_env names," if settings.url_env else "its url"
        raise SettingsError(f"notifications.{name} cannot be called: {where} {problem}", hint="deployctl config show")
    key = _variable(name, "secret_env", settings.secret_env, environment) if settings.secret_env else ""
    return Webhook(name, url, key.encode() or None, settings.format, settings.timeout_s)


def _variable(name: str, key: str, variable: str, environment: Mapping[str, str]) -> str:
    value = environment.get(variable, "")
    if not value:
        raise SettingsError(
            f"notifications.{name}.{key} names {variable}, which is not set in the environment",
            hint=f"export {variable}=…",
        )
    return value


def url_problem(url: str) -> str:
    """Returns why nothing can be sent to `url`, without repeating it; "" where it can."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        return "is not an http:// or https:// URL"
    if not url.isascii() or any(letter.isspace() or not letter.isprintable() for letter in url):
        return "has letters that no URL has"
    return ""


def shown_address(settings: NotificationSettings) -> str:
    """Returns where a channel's calls go, for people: a URL, or the variable that has it."""
    return f"${settings.url_env}" if settings.url_env else shown_url(settings.url)


def shown_url(url: str) -> str:
    """Returns a webhook's URL for people: its path, query and user may be its secret, and are left out."""
    if url_problem(url):
        return "no URL"
    parts = urlsplit(url)
    rest = "/…" if parts.path.strip("/") or parts.query or parts.username else "/"
    return f"{parts.scheme}://{_host(parts)}{rest}"


def signature(key: bytes, timestamp: str, body: bytes) -> str:
    """Returns the signature's header: `v1=` and HMAC-SHA256, in hex, of the timestamp, a dot and the body."""
    return "v1=" + hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class Call:
    """One call, which another thread may give up."""

    def __init__(self, hook: Webhook) -> None:
        self._hook = hook
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._given_up = False
        self.late = False

    def give_up(self) -> None:
        """Ends the call as soon as may be; it raises NotificationError."""
        with self._lock:
            self._given_up = True
            if self._socket is not None:
                # Not closed: that is for the thread that uses it. And below TLS, which knows no threads.
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def __call__(self, notice: Notice, *, timestamp: int) -> None:
        """Returns once the receiver has taken the notice.

        Args:
            notice: what to tell.
            timestamp: seconds since 1970, which the receiver holds against its own clock.

        Raises:
            NotificationError: it has not, or did not say so.
        """
        hook = self._hook
        body = notice.body(hook.form)
        # Each read has its own time; a receiver that sends a letter now and then must not have us wait for ever.
        clock = threading.Timer(hook.timeout_s, self._end_late)
        clock.daemon = True
        clock.start()
        parts = urlsplit(hook.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        try:
            connection.sock = self._connected(parts)
            connection.request("POST", _path(hook.url), body, self._headers(notice, str(timestamp), body))
            with connection.getresponse() as answer:
                answer.read(_MAX_ANSWER_BYTES)
                _check(answer)
        except (OSError, http.client.HTTPException) as error:
            raise NotificationError(self._words(error)) from error
        finally:
            clock.cancel()
            connection.close()

    def _connected(self, parts: SplitResult) -> socket.socket:
        """Returns a connection, through TLS where the URL says so; it can be given up as soon as it is there."""
        secure = parts.scheme == "https"
        port = parts.port or (http.client.HTTPS_PORT if secure else http.client.HTTP_PORT)
        plain = socket.create_connection((parts.hostname or "", port), timeout=self._hook.timeout_s or None)
        if not secure:
            self._hold(plain)
            return plain
        context = ssl.create_default_context()
        wrapped = context.wrap_socket(plain, server_hostname=parts.hostname, do_handshake_on_connect=False)
        try:
            self._hold(wrapped)
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _hold(self, connection: socket.socket) -> None:
        with self._lock:
            self._socket = connection
            given_up = self._given_up
        if given_up:
            connection.close()
            raise TimeoutError

    def _headers(self, notice: Notice, timestamp: str, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"deployctl/{__version__}",
            "Connection": "close",
            ID_HEADER: notice.id,
            EVENT_HEADER: notice.event,
            TIMESTAMP_HEADER: timestamp,
        }
        if self._hook.key is not None:
            headers[SIGNATURE_HEADER] = signature(self._hook.key, timestamp, body)
        parts = urlsplit(self._hook.url)
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        return headers

    def _end_late(self) -> None:
        self.late = True
        self.give_up()

    def _words(self, error: Exception) -> str:
        """Returns what went wrong, in words that hold nothing of the URL but its host."""
        host = _host(urlsplit(self._hook.url))
        if self.late or isinstance(error, TimeoutError):
            return f"{host} did not answer within {self._hook.timeout_s:g} s"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the certificate of {host} is not good: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            return f"{host} does not speak TLS as we do: {error.reason}"
        if isinstance(error, socket.gaierror):
            return f"{host} has no address: {error.strerror}"
        if isinstance(error, OSError) and error.errno:
            return f"{host} cannot be reached: {os.strerror(error.errno)}"
        return f"{host} does not answer as an HTTP server does: {type(error).__name__}"


def _path(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{parts.port}" if parts.port else host


def _check(answer: http.client.HTTPResponse) -> None:
    if 200 <= answer.status < 300:
        return
    # Not the receiver's own words, which may repeat the URL.
    words = HTTPStatus(answer.status).phrase if answer.status in set(HTTPStatus) else "no status that we know"
    redirect = ", and redirects are not followed" if 300 <= answer.status < 400 else ""
    raise NotificationError(
        f"the receiver answered {answer.status} ({words}){redirect}", retry_after_s=_retry_after(answer)
    )


def _retry_after(answer: http.client.HTTPResponse) -> float:
    """Returns the seconds after which the receiver wants to be asked again, 0.0 where it does not say."""
    text = (answer.getheader("Retry-After") or "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0.0
