"""Which process it is: an identity that a reused process number does not share."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Fields of /proc/PID/stat after the command's name, counted from 0 (proc_pid_stat(5): state is 3, starttime 22).
_STATE, _START_TIME = 0, 19
_ENDED_STATES = frozenset({"Z", "X"})


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one machine, running or not.

    Attributes:
        boot: which start of the machine's kernel; "" where the system does not tell.
        started: when it started, in clock ticks since boot; "" where the system does not tell.
    """

    host: str
    boot: str
    pid: int
    started: str

    def is_known_dead(self) -> bool:
        """Whether it ran on this machine and has ended; of other machines nothing is known.

        Containers on one machine share its boot but not their process numbers; they have host names of their own.
        """
        if self.host != socket.gethostname():
            return False
        return self.boot != boot_id() or start_of(self.pid) != self.started

    def is_this_machines(self) -> bool:
        """Whether it runs, or ran, where this process runs."""
        return self.host == socket.gethostname() and self.boot == boot_id()


def this_process() -> ProcessIdentity:
    """Returns the identity of the calling process."""
    return ProcessIdentity(socket.gethostname(), boot_id(), os.getpid(), start_of(os.getpid()))


def boot_id() -> str:
    """Names this start of this machine's kernel, the same in all its containers; "" where there is none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return ""


def start_of(pid: int) -> str:
    """Returns when a process started, in clock ticks since boot (proc_pid_stat(5), field 22); "" if none runs."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if fields[_STATE] in _ENDED_STATES else fields[_START_TIME]
    return ""
