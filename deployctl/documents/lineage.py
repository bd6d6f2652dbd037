"""What the record itself is like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployctl.lineage.audit import Audit


def audit_document(found: Audit) -> dict[str, Any]:
    """Returns whether the chain of events holds, and the state is what they say."""
    broken = found.broken
    link = {"sequence": broken.sequence, "reason": broken.reason} if broken else None
    return {"intact": found.is_intact, "verified": found.verified, "broken": link, "disagreement": found.disagreement}
