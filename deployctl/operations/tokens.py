"""Tokens of the HTTP API: made, listed, revoked, and recognised."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from deployctl.domain.authority import Authority, Role, Token, is_token_name
from deployctl.domain.event import EventKind
from deployctl.domain.manifest import format_time
from deployctl.domain.names import ModelName, TargetName
from deployctl.errors import InvalidNameError, NotFoundError, PreconditionError, UnauthenticatedError
from deployctl.lineage.interface import LineageStore
from deployctl.operations.context import Context

# A prefix by which scanners for leaked secrets can tell what was found.
_PREFIX = "dct"
_SECRET_BYTES = 32
_TOKEN = re.compile(r"dct_([0-9a-f]{12})_[A-Za-z0-9_-]{43}", re.ASCII)
# What an unknown id is compared with, so that it takes as long as a known one.
_NOBODY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new token; `secret` is what its bearer sends, and can never be shown again."""

    token: Token
    secret: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one lineage database."""

    lineage: LineageStore
    context: Context

    def create(
        self,
        name: str,
        role: Role,
        *,
        targets: frozenset[TargetName] = frozenset(),
        models: frozenset[ModelName] = frozenset(),
        expires_at: datetime | None = None,
        reason: str = "",
    ) -> CreatedToken:
        """Makes a token.

        Raises:
            InvalidNameError: `name` cannot name a token.
            PreconditionError: one of that name is in force.
        """
        if not is_token_name(name):
            raise InvalidNameError("token", name, "use 1 to 64 letters, digits, '.', '_' or '-'")
        now = self.context.clock.now()
        if any(each.name == name and each.in_force(now) for each in self.lineage.tokens()):
            raise PreconditionError(f"there is a token {name} already", hint=f"deployctl token revoke {name}")
        key = secrets.token_hex(6)
        secret = f"{_PREFIX}_{key}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        made = Token(key, name, _digest(secret), role, now, str(self.context.actor), targets, models, expires_at)
        data = {
            "id": made.id,
            "name": made.name,
            "role": made.role.value,
            "targets": sorted(targets),
            "models": sorted(models),
            "digest": made.digest,
            "expires_at": format_time(expires_at) if expires_at else None,
        }
        event = self.context.event(EventKind.TOKEN_CREATED, reason=reason, data=data)
        with self.lineage.transaction() as transaction:
            transaction.append(event)
        return CreatedToken(replace(made, created_at=event.at), secret)

    def revoke(self, name: str, *, reason: str = "") -> tuple[Token, ...]:
        """Lets the tokens with this name or id open nothing from now on, and returns them.

        Raises:
            NotFoundError: there is none.
        """
        found = tuple(each for each in self.lineage.tokens() if name in (each.name, each.id))
        if not found:
            raise NotFoundError(f"there is no token {name!r}", hint="deployctl token list")
        events = [
            self.context.event(EventKind.TOKEN_REVOKED, reason=reason, data={"id": each.id, "name": each.name})
            for each in found
        ]
        with self.lineage.transaction() as transaction:
            for event in events:
                transaction.append(event)
        return found


def authenticate(tokens: Callable[[], Iterable[Token]], secret: str, address: str, now: datetime) -> Authority:
    """Returns what the bearer of `secret` at `address` may do; `tokens` are asked for where it could be one of them.

    Raises:
        UnauthenticatedError: it is no token, or one that was revoked or has expired; which of them is not told.
        DatabaseError: the tokens cannot be read.
    """
    match = _TOKEN.fullmatch(secret)
    known = {each.id: each for each in tokens()} if match else {}
    found = known.get(match[1]) if match else None
    same = hmac.compare_digest(found.digest if found else _NOBODY, _digest(secret))
    if found is None or not same or not found.in_force(now):
        raise UnauthenticatedError("the token is wrong, was revoked or has expired", hint="deployctl token list")
    return found.authority(address)


def _digest(secret: str) -> str:
    # It has 256 random bits: nothing is gained by a slow hash, and a request would wait for it.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
