"""A client of a daemon: the command as it is typed on a machine that has neither the settings nor the repository."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.support.daemon import RunningDaemon, daemon
from tests.support.workspace import Workspace

_ANSWERING = "answering at "


def address_of(running: RunningDaemon, *, after: int = 0) -> str:
    """Returns the URL of a daemon's API, once it answers."""
    message: str = running.await_line(_ANSWERING, after=after)["message"]
    return message.partition(_ANSWERING)[2].split()[0]


def as_client(
    workspace: Workspace, url: str, *, role: str = "admin", name: str = "", words: tuple[str, ...] = ()
) -> Workspace:
    """Returns the workspace as somebody with a token of their own uses it from elsewhere.

    No settings can be found: whatever a command does, it does at `url`.
    """
    name = name or f"{role}-{len(list(workspace.root.glob('token-*')))}"
    token = workspace.ok("token", "create", name, "--role", role, *words, "-o", "name").split()[-1]
    (workspace.root / f"token-{name}").write_text(token)
    environment = {
        "DEPLOYCTL_SERVER": url,
        "DEPLOYCTL_TOKEN": token,
        "DEPLOYCTL_CONFIG": str(workspace.root / "absent" / "deployctl.toml"),
    }
    return replace(workspace, environment={**workspace.environment, **environment})


@contextmanager
def client_of(workspace: Workspace, **environment: str) -> Iterator[Workspace]:
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
