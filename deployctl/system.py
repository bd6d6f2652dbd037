"""The machine as operations see it: its clock, and who acts on it."""

from __future__ import annotations

import os
import secrets
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from deployctl.domain.clock import Clock
from deployctl.domain.event import Actor
from deployctl.domain.secret import masked

# How CI systems tell a job its own address, most exact first.
_CI_JOB_VARIABLES = ("CI_JOB_URL", "BUILD_URL", "CIRCLE_BUILD_URL", "BUILDKITE_BUILD_URL")


class SystemClock(Clock):
    """The system's time."""

    def now(self) -> datetime:
        """Returns the aware UTC time."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Returns seconds that only grow, from an arbitrary start."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Returns after `seconds`; a signal handler that raises ends it earlier."""
        threading.Event().wait(seconds)


def new_operation(at: datetime) -> str:
    """Returns an id for one run of an operation; ids sort by time."""
    # Several may begin within a second, and what is spooled is appended in the order of the ids.
    return f"{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03}-{secrets.token_hex(4)}"


def find_actor(environment: Mapping[str, str], command: Sequence[str]) -> Actor:
    """Returns who runs this process: the OS user, the machine, the CI job, and the command line without passwords."""
    # A file name that is no text in the system's encoding could not be recorded as it is.
    words = masked(shlex.join(command)).encode(errors="backslashreplace").decode()
    return Actor(_user(), os.uname().nodename, _ci_job(environment), words)


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        # A container may run as a number that has no name.
        return str(os.geteuid())


def _ci_job(environment: Mapping[str, str]) -> str:
    if environment.get("GITHUB_ACTIONS") == "true":
        parts = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
        server, repository, run = (environment.get(part, "") for part in parts)
        return f"{server}/{repository}/actions/runs/{run}"
    job = next((environment[name] for name in _CI_JOB_VARIABLES if environment.get(name)), "")
    return job or ("ci" if environment.get("CI", "").lower() in {"true", "1"} else "")
