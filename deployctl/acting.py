"""What a process that runs a command for a client elsewhere is told by the daemon: who acts, and with which files.

It is told in variables of its environment, which pass on to the processes that it starts to go on in the background.
What it may do is told in `deployctl.bootstrap.AUTHORITY_VARIABLE`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployctl.domain.event import Actor

ACTING_VARIABLE = "_DEPLOYCTL_ACTING"
# Which settings file and which --set words the daemon was given.
SETTINGS_VARIABLE = "_DEPLOYCTL_SETTINGS"


def is_for_another() -> bool:
    """Whether this process runs a command for a client elsewhere."""
    return bool(os.environ.get(ACTING_VARIABLE))


def told() -> Mapping[str, Any]:
    """Returns what this process was told, {} where it acts for nobody else."""
    text = os.environ.get(ACTING_VARIABLE)
    found: Mapping[str, Any] = json.loads(text) if text else {}
    return found


def actor() -> Actor | None:
    """Returns for whom this process acts, None where for nobody else."""
    from deployctl.domain.event import Actor

    return Actor(**told()["actor"]) if is_for_another() else None


def origin_of(path: str) -> str | None:
    """Returns where something that was sent has come from, None where it was not sent."""
    return next((str(each["origin"]) for each in told().get("inputs", ()) if each["path"] == path), None)


def inherited_settings() -> tuple[Path | None, tuple[str, ...]]:
    """Returns the settings file and the --set words that the daemon itself was given."""
    found = json.loads(os.environ.get(SETTINGS_VARIABLE) or "{}")
    return Path(found["config"]) if found.get("config") else None, tuple(found.get("flags", ()))
