"""Who may do what: roles, and tokens that give one for some targets and models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from deployctl.domain.event import EventKind
from deployctl.domain.names import ModelName, TargetName, parse_model_name, parse_target_name
from deployctl.errors import DeniedError


class Role(StrEnum):
    """What somebody may do; each may do what the one before it may."""

    VIEWER = "viewer"
    DEPLOYER = "deployer"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether who has this role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


# The least role for each action: the verbs of operations, and the kinds of events. What is not here needs an admin.
ROLES: Mapping[str, Role] = {
    "metrics": Role.VIEWER,
    "publish": Role.DEPLOYER,
    "adopt": Role.DEPLOYER,
    "validate": Role.DEPLOYER,
    "golden record": Role.DEPLOYER,
    "promote": Role.DEPLOYER,
    "rollback": Role.DEPLOYER,
    "resume": Role.DEPLOYER,
    "freeze": Role.DEPLOYER,
    "unfreeze": Role.DEPLOYER,
    "abort": Role.DEPLOYER,
    "reconcile": Role.ADMIN,
    "up": Role.ADMIN,
    "down": Role.ADMIN,
    "restart": Role.ADMIN,
    "upgrade": Role.ADMIN,
    "break-glass": Role.ADMIN,
    "lock release": Role.ADMIN,
    "gc": Role.ADMIN,
    "copy": Role.ADMIN,
    "retire": Role.ADMIN,
    "db rebuild": Role.ADMIN,
    EventKind.VERSION_PUBLISHED: Role.DEPLOYER,
    EventKind.VERSION_ADOPTED: Role.DEPLOYER,
    EventKind.VERSION_VALIDATED: Role.DEPLOYER,
    EventKind.REVISION_PENDING: Role.DEPLOYER,
    EventKind.REVISION_SERVING: Role.DEPLOYER,
    EventKind.REVISION_FAILED: Role.DEPLOYER,
    EventKind.REVISION_REVIEWED: Role.ADMIN,
    EventKind.TARGET_FROZEN: Role.DEPLOYER,
    EventKind.TARGET_UNFROZEN: Role.DEPLOYER,
    EventKind.VERSION_QUARANTINED: Role.ADMIN,
    EventKind.VERSION_RELEASED: Role.ADMIN,
    EventKind.VERSION_REFUSED: Role.ADMIN,
    EventKind.VERSION_RETIRED: Role.ADMIN,
    EventKind.TARGET_STARTED: Role.ADMIN,
    EventKind.TARGET_STOPPED: Role.ADMIN,
    EventKind.TARGET_UPGRADED: Role.ADMIN,
    EventKind.TARGET_DRIFTED: Role.ADMIN,
    EventKind.TARGET_DEGRADED: Role.ADMIN,
    EventKind.TARGET_RECOVERED: Role.ADMIN,
    EventKind.LOCK_RELEASED: Role.ADMIN,
    EventKind.TOKEN_CREATED: Role.ADMIN,
    EventKind.TOKEN_REVOKED: Role.ADMIN,
}
# What concerns a model in the repository and changes no target: who may act on some targets only may do it.
_OF_NO_TARGET = frozenset(
    {
        "publish",
        "adopt",
        "validate",
        "golden record",
        "abort",
        EventKind.VERSION_PUBLISHED,
        EventKind.VERSION_ADOPTED,
        EventKind.VERSION_VALIDATED,
    }
)

_TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Authority:
    """What the bearer of a token may do.

    Attributes:
        id: the token's id.
        name: the token's name.
        targets: those that it is for; empty for all.
        models: those that it is for; empty for all.
        address: from where it is used, "" where that is not known.
    """

    id: str
    name: str
    role: Role
    targets: frozenset[TargetName] = frozenset()
    models: frozenset[ModelName] = frozenset()
    address: str = ""

    def allows(self, action: str, target: TargetName | None = None, model: ModelName | None = None) -> bool:
        """Whether it may do `action`: a verb of an operation, or a kind of event.

        Without a model, every model is meant; so without a target, unless the action concerns none.
        """
        if not self.role.includes(ROLES.get(action, Role.ADMIN)):
            return False
        on_target = not self.targets or (action in _OF_NO_TARGET if target is None else target in self.targets)
        return on_target and (not self.models or model in self.models)

    def require(self, action: str, target: TargetName | None = None, model: ModelName | None = None) -> None:
        """Raises DeniedError where it may not do `action`."""
        if self.allows(action, target, model):
            return
        self.check_role(ROLES.get(action, Role.ADMIN), action)
        what = f"{model or 'every model'} on {target or 'every target'}"
        raise DeniedError(f"token {self.name} is not for {what}, which {action} concerns")

    def sees(self, target: TargetName | None = None, model: ModelName | None = None) -> bool:
        """Whether it may read about a target and a model; what names neither may be read by all."""
        on_target = target is None or not self.targets or target in self.targets
        return on_target and (model is None or not self.models or model in self.models)

    def check_role(self, role: Role, what: str) -> None:
        """Raises DeniedError where its role is less than `role`, which `what` needs."""
        if not self.role.includes(role):
            raise DeniedError(f"token {self.name} has the role {self.role}, and {what} needs {role}")

    def check_target(self, target: str) -> None:
        """Raises DeniedError where it is not for `target`."""
        if self.targets and target not in self.targets:
            raise DeniedError(f"token {self.name} is not for target {target}")

    def check_model(self, model: str) -> None:
        """Raises DeniedError where it is not for `model`."""
        if self.models and model not in self.models:
            raise DeniedError(f"token {self.name} is not for model {model}")

    def check_all_models(self, what: str) -> None:
        """Raises DeniedError where it is for some models only, and `what` concerns all."""
        if self.models:
            raise DeniedError(f"token {self.name} is not for every model, which {what} concerns: name one")

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values; `from_json` gives the same authority back."""
        return {
            "id": self.id,
            "name": self.name,
            "role": self.role.value,
            "targets": sorted(self.targets),
            "models": sorted(self.models),
            "address": self.address,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Authority:
        """Returns what `to_json` was given.

        Raises:
            KeyError, ValueError, TypeError: it is no such document.
        """
        return cls(
            id=document["id"],
            name=document["name"],
            role=Role(document["role"]),
            targets=frozenset(map(parse_target_name, document["targets"])),
            models=frozenset(map(parse_model_name, document["models"])),
            address=document["address"],
        )


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is recorded: its secret is nowhere.

    Attributes:
        id: the part of the token by which it is found; no secret.
        digest: sha256 of the whole token, in hex.
        created_by: who made it, e.g. "ada@laptop".
        expires_at: None for one that never does.
    """

    id: str
    name: str
    digest: str
    role: Role
    created_at: datetime
    created_by: str
    targets: frozenset[TargetName] = field(default_factory=frozenset)
    models: frozenset[ModelName] = field(default_factory=frozenset)
    expires_at: datetime | None = None

    def in_force(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at

    def authority(self, address: str = "") -> Authority:
        """Returns what its bearer at `address` may do."""
        return Authority(self.id, self.name, self.role, self.targets, self.models, address)


def is_token_name(text: str) -> bool:
    """Whether `text` can name a token: it becomes the user of what is recorded."""
    return _TOKEN_NAME.fullmatch(text) is not None
