"""What systemd is told of the daemon (sd_notify(3)); nothing where it did not start it."""

from __future__ import annotations

import logging
import os
import socket

_log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Sends lines such as "READY=1" to the socket that systemd named, if it did."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # A name in Linux's abstract namespace begins with a NUL, which systemd writes as @.
    place = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(1.0)
            channel.sendto(state.encode(), place)
    except OSError as error:
        _log.warning("cannot tell systemd %s: %s", state, error)


def watchdog_interval_s() -> float | None:
    """Returns how often systemd wants to hear that the daemon is alive, None for never."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    # Half of the limit, as sd_watchdog_enabled(3) advises.
    return int(microseconds) / 2e6 if microseconds.isdigit() and ours else None
