"""A client of a daemon: the command as it is typed on a machine that has neither the settings nor the repository."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.daemon import RunningDaemon, daemon
from tests.support.workspace import Workspace

_ANSWERING = "answering at "


@dataclass
class Client(Workspace):
    """A workspace as somebody with a token uses it from elsewhere, in a directory of their own.

    Attributes:
        root: the workspace's, for tests that look at what a command has done there.
        place: where commands are typed.
    """

    place: Path = field(default_factory=Path)

    def start(self, *words: str, directory: Path | None = None, **options: Any) -> subprocess.Popen[str]:
        """Starts a command and does not wait for it."""
        return super().start(*words, directory=directory or self.place, **options)

    def run(self, *words: str, directory: Path | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return super().run(*words, directory=directory or self.place, **options)


def address_of(running: RunningDaemon, *, after: int = 0) -> str:
    """Returns the URL of a daemon's API, once it answers."""
    message: str = running.await_line(_ANSWERING, after=after)["message"]
    return message.partition(_ANSWERING)[2].split()[0]


def as_client(
    workspace: Workspace, url: str, *, role: str = "admin", name: str = "", words: tuple[str, ...] = ()
) -> Client:
    """Returns the workspace as somebody with a token of their own uses it from elsewhere.

    No settings can be found: whatever a command does, it does at `url`.
    """
    name = name or f"{role}-{len(list(workspace.root.glob('token-*')))}"
    token = workspace.ok("token", "create", name, "--role", role, *words, "-o", "name").split()[-1]
    (workspace.root / f"token-{name}").write_text(token)
    place = workspace.root / "elsewhere"
    place.mkdir(exist_ok=True)
    environment = {
        "DEPLOYCTL_SERVER": url,
        "DEPLOYCTL_TOKEN": token,
        "DEPLOYCTL_CONFIG": str(place / "absent" / "deployctl.toml"),
    }
    return Client(workspace.root, {**workspace.environment, **environment}, place)


@contextmanager
def client_of(workspace: Workspace, **environment: str) -> Iterator[Client]:
    """Runs a daemon in the workspace, and gives the workspace as an admin uses it from elsewhere.

    The daemon does nothing to the servers by itself.
    """
    idle = {"DEPLOYCTL_DAEMON_DRIFT": "report", "DEPLOYCTL_TARGETS_LOCAL_HEALTH_START": "false"}
    with daemon(workspace, **idle, **environment) as running:
        yield as_client(workspace, address_of(running))
        assert running.stop() == 0, running.errors()


def commands_directory(workspace: Workspace) -> Path:
    """Returns where the daemon keeps what its clients have sent and asked for."""
    return workspace.root / ".deployctl" / "remote"
