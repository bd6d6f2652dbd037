"""Checks of targets' ports that concern several settings at once."""

from __future__ import annotations

from collections.abc import Mapping

from deployctl.config.settings import TargetSettings
from deployctl.domain.names import TargetName
from deployctl.errors import SettingsError


def check_ports(targets: Mapping[TargetName, TargetSettings]) -> None:
    """Checks that no target listens on one port twice: nothing would fail, and only one of the two would be answered.

    Ports of two targets may be the same: their servers may be on different machines, or never run at the same time.
    Where they are not, `up` says so.

    Raises:
        SettingsError: the REST port of a target is its gRPC port.
    """
    for name, target in targets.items():
        if target.rest_port == target.grpc_port != 0:
            rest, grpc = f"targets.{name}.rest_port", f"targets.{name}.grpc_port"
            raise SettingsError(
                f"{rest} and {grpc} are both {target.rest_port}, and only one server can be answered there",
                hint=f"deployctl --set {grpc}=0 config show    (0 takes a free port at each start)",
            )
