"""What Docker's SDK raises, in this program's words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import requests
import urllib3
from docker import errors as sdk_errors

from deployctl.errors import (
    BasePathNotVisibleError,
    DeployctlError,
    EngineError,
    EngineUnavailableError,
    PortTakenError,
    SettingsError,
)
from deployctl.serving.docker_facts import GoneError

_PORT_TAKEN = re.compile(r"(?:Bind for |listen tcp[46]? )(\S+?):(\d+)(?: failed: port is already allocated|: bind:)")
_NO_NETWORK = re.compile(r"network (\S+) not found")
_NO_SOURCE = re.compile(r"bind source path does not exist: (\S+)")


@contextlib.contextmanager
def translated(address: str, *, reads_settings: bool = False) -> Iterator[None]:
    """Turns the SDK's errors of the block into this program's.

    Args:
        address: of the engine, for messages.
        reads_settings: whether the block gives the SDK what a user has set, such as sizes.

    Raises:
        GoneError: the engine does not know what it was asked about.
        EngineUnavailableError: nothing answers.
        PortTakenError, BasePathNotVisibleError, EngineError: the engine refused.
        SettingsError: the SDK does not understand a setting.
    """
    try:
        yield
    except sdk_errors.NotFound as error:
        raise _absent(address, error) from error
    except sdk_errors.APIError as error:
        raise _refusal(address, error) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise EngineUnavailableError(address, _innermost(error)) from error
    except sdk_errors.DockerException as error:
        if not reads_settings:
            raise EngineUnavailableError(address, _innermost(error)) from error
        # The SDK reads sizes and rules itself, e.g. memory = "4 GB".
        raise SettingsError(f"a Docker setting is not understood: {error}") from error


def _absent(address: str, error: Any) -> EngineError:
    words = words_of(error)
    if network := _NO_NETWORK.search(words):
        return EngineError(
            f"the Docker engine at {address} has no network {network[1]}", hint=f"docker network create {network[1]}"
        )
    return GoneError(f"the Docker engine at {address} does not know it: {words}")


def _refusal(address: str, error: Any) -> DeployctlError:
    words = words_of(error)
    if taken := _PORT_TAKEN.search(words):
        return PortTakenError(
            f"port {taken[2]} of {taken[1]} is in use on the engine's machine by another program or container",
            hint=f"docker ps --filter publish={taken[2]}",
        )
    if missing := _NO_SOURCE.search(words):
        return BasePathNotVisibleError(
            f"the Docker engine at {address} has no directory {missing[1]} to mount", hint="deployctl doctor"
        )
    return EngineError(f"the Docker engine at {address} refused: {words}")


def words_of(error: Any) -> str:
    """Returns what the engine said, in one line."""
    return " ".join(str(getattr(error, "explanation", None) or error).split())


def _innermost(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
