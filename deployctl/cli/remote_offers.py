"""What the shell offers while a command for a daemon is typed: what the daemon has, or nothing, soon."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from deployctl.cli.placing import Server
from deployctl.cli.remote_connection import Api, ConnectionLostError, api_of
from deployctl.errors import DeployctlError

# A shell waits for as long as this, also where a name is looked up that nobody answers for.
_PATIENCE_S = 2.0
_MOST = 500


class ServerOffers:
    """What a daemon has.

    Each method returns [] where the daemon does not answer at once, or refuses.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def targets(self) -> Sequence[str]:
        """The names of the targets."""
        return [each["name"] for each in self._asked("/v1/status", "targets")]

    def models(self) -> Sequence[str]:
        """The names of the models."""
        return [each["model"] for each in self._asked("/v1/models", "models")]

    def labels(self, model: str) -> Sequence[str]:
        """The labels that a model has on any target."""
        targets = self._asked(f"/v1/status?model={quote(model)}", "targets")
        return sorted({label for target in targets for each in target["models"] for label in each["labels"]})

    def versions(self, model: str) -> Sequence[str]:
        """The numbers of a model's versions."""
        found = self._asked(f"/v1/models/{quote(model, safe='')}/versions", "versions")
        return [str(each["version"]) for each in found]

    def operations(self) -> Sequence[str]:
        """The ids of operations, newest first."""
        return [each["id"] for each in self._asked(f"/v1/operations?limit={_MOST}", "operations")]

    def _asked(self, path: str, key: str) -> Sequence[Any]:
        answers: list[Any] = []

        def ask() -> None:
            with suppress(DeployctlError, ConnectionLostError, KeyError, TypeError):
                api: Api = replace(api_of(self._server), timeout_s=_PATIENCE_S, connect_timeout_s=_PATIENCE_S)
                answers.extend(api.ask("GET", path)[key])

        # Left to itself where it takes too long: nothing bounds the time that looking up a name takes.
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(_PATIENCE_S)
        return [] if asking.is_alive() else answers
