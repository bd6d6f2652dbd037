"""Which engine the `docker` command would use: by DOCKER_HOST, by context, or the local one.

The SDK knows contexts too, but takes the local engine for one that is missing, and finds none without a config.json.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deployctl.errors import EngineError

_LOCAL = "unix:///var/run/docker.sock"
_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where an engine is, and how it is reached.

    Attributes:
        url: unix:///PATH, tcp://HOST:PORT or ssh://[USER@]HOST[:PORT].
        certificates: the directory of ca.pem, cert.pem and key.pem, None for a connection without TLS.
        verified: whether the engine must show a certificate of that authority.
    """

    url: str
    certificates: Path | None = None
    verified: bool = True

    @property
    def is_ssh(self) -> bool:
        """Whether it is reached by the `ssh` command."""
        return self.url.startswith("ssh://")

    @property
    def socket(self) -> str:
        """The path of the engine's socket on this machine, "" where it is reached in another way."""
        return self.url.removeprefix("unix://") if self.url.startswith("unix:///") else ""

    @property
    def host(self) -> str:
        """The machine that published ports are reached at: "" for this one."""
        name = urlsplit(self.url).hostname
        if self.url.startswith(("unix:", "npipe:", "/")) or name in {"localhost", None}:
            return ""
        try:
            return "" if ipaddress.ip_address(name or "").is_loopback else str(name)
        except ValueError:
            return str(name)


def engine_address(environment: Mapping[str, str], home: Path) -> EngineAddress:
    """Returns where the engine is.

    Args:
        environment: DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH, DOCKER_CONTEXT and DOCKER_CONFIG count.
        home: the user's directory, which has `.docker`.

    Raises:
        EngineError: there is no such context, or it cannot be read.
    """
    directory = Path(environment.get("DOCKER_CONFIG") or home / ".docker")
    url = environment.get("DOCKER_HOST", "")
    if not url:
        context = environment.get("DOCKER_CONTEXT") or _current_context(directory)
        if context != _DEFAULT:
            return _of_context(directory, context)
    verified = bool(environment.get("DOCKER_TLS_VERIFY"))
    certificates = environment.get("DOCKER_CERT_PATH") or (str(directory) if verified else "")
    return EngineAddress(url or _LOCAL, Path(certificates) if url and certificates else None, verified)


def _current_context(directory: Path) -> str:
    try:
        return str(
            json.loads((directory / "config.json").read_text(encoding="utf-8")).get("currentContext") or _DEFAULT
        )
    except FileNotFoundError:
        return _DEFAULT
    except (OSError, ValueError, AttributeError) as error:
        raise EngineError(f"cannot read {directory / 'config.json'}: {error}", hint="docker context ls") from error


def _of_context(directory: Path, name: str) -> EngineAddress:
    """Returns the endpoint of a context, as the client keeps it: in directories named after the name's hash."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    file = directory / "contexts" / "meta" / digest / "meta.json"
    try:
        endpoint: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["Endpoints"]["docker"]
        url, verified = str(endpoint["Host"]), not endpoint.get("SkipTLSVerify", False)
    except FileNotFoundError as error:
        raise EngineError(f"the docker client has no context {name!r}", hint="docker context ls") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"cannot read the context {name!r} in {file}: {error}", hint="docker context ls") from error
    certificates = directory / "contexts" / "tls" / digest / "docker"
    return EngineAddress(url, certificates if certificates.is_dir() else None, verified)
