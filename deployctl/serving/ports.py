"""TCP ports of this machine: which are free, and who holds the others."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class PortHolder:
    """A process that listens on a port, as far as /proc tells this user."""

    pid: int
    name: str


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on `port` of `host` now; connections that are still closing don't matter.

    Raises:
        OSError: this machine has no such address, or this user may not use the port.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def accepts(host: str, port: int, *, timeout_s: float) -> bool:
    """Whether something accepts connections at `port` of `host`."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def free_ports(host: str, count: int) -> tuple[int, ...]:
    """Returns ports that are free now, all different; another program may take one before it is used."""
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(count):
            probe = held.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
            probe.bind((host, 0))
            ports.append(int(probe.getsockname()[1]))
        return tuple(ports)


def holder(port: int) -> PortHolder | None:
    """Returns who listens on `port`, None where that is another user's process or cannot be told."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    if not sockets:
        return None
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and not sockets.isdisjoint(_descriptors(entry)):
            return PortHolder(int(entry.name), _name(entry))
    return None


def _listening(table: str, port: int) -> list[str]:
    """Returns the inodes of the sockets that listen on `port` (proc(5), /proc/net/tcp)."""
    try:
        lines = Path("/proc/net", table).read_text().splitlines()[1:]
    except OSError:
        return []
    fields = (line.split() for line in lines)
    return [field[9] for field in fields if field[3] == _LISTEN and int(field[1].rpartition(":")[2], 16) == port]


def _descriptors(process: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(descriptor))
    return found


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "?"
