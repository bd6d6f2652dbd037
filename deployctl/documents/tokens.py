"""Tokens as documents; none holds what opens anything."""

from __future__ import annotations

from typing import Any

from deployctl.domain.authority import Token


def token_document(token: Token) -> dict[str, Any]:
    """Returns what may be shown of a token."""
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role.value,
        "targets": sorted(token.targets),
        "models": sorted(token.models),
        "created_at": token.created_at,
        "created_by": token.created_by,
        "expires_at": token.expires_at,
    }
