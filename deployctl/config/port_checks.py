"""Checks of targets' ports that concern several settings at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deployctl.config.settings import RuntimeName, TargetSettings
from deployctl.domain.names import TargetName
from deployctl.errors import SettingsError

# A server that listens on one of these takes the port on every address of the machine.
_EVERY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, never listened on


def check_ports(targets: Mapping[TargetName, TargetSettings]) -> None:
    """Checks that no port is to be listened on twice.

    Two servers take one port of an address without an error from the system, and only one of them is answered.

    Raises:
        SettingsError: two ports of one target, or of two whose servers run on this machine, are the same.
    """
    seen: list[tuple[str, str, int]] = []
    for name, target in targets.items():
        ours = list(_ports(name, target))
        others = seen if target.runtime is not RuntimeName.EXTERNAL else []
        for place, (key, host, port) in enumerate(ours):
            for other, other_host, other_port in (*others, *ours[:place]):
                if port == other_port and _meet(host, other_host):
                    raise SettingsError(
                        f"{other} and {key} are both {port}, and only one server can be answered there",
                        hint=f"deployctl --set {key}=0 config show    (0 takes a free port at each start)",
                    )
        if target.runtime is not RuntimeName.EXTERNAL:
            seen += ours


def _ports(name: TargetName, target: TargetSettings) -> Iterator[tuple[str, str, int]]:
    if target.rest_port and not (target.runtime is RuntimeName.EXTERNAL and target.external.rest_url):
        yield f"targets.{name}.rest_port", target.host, target.rest_port
    if target.grpc_port:
        yield f"targets.{name}.grpc_port", target.host, target.grpc_port


def _meet(host: str, other: str) -> bool:
    return host == other or not _EVERY_ADDRESS.isdisjoint({host, other})
