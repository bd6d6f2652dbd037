"""What notification channels are still to be told, and what they never were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployctl.config.daemon_settings import NotificationSettings
    from deployctl.lineage.deliveries import ChannelState, Delivery


def channel_document(
    name: str, settings: NotificationSettings, state: ChannelState | None, address: str
) -> dict[str, Any]:
    """Returns a channel of the settings; `address` is its URL without what may be secret of it."""
    return {
        "name": name,
        "format": settings.format.value,
        "url": address,
        "signed": bool(settings.secret_env),
        "events": list(settings.events),
        "sequence": state.sequence if state else None,
        "behind": state.behind if state else None,
        "outstanding": state.outstanding if state else None,
        "failing": state.failing if state else None,
        "dead": state.dead if state else None,
        "due_at": state.due_at if state else None,
        "error": state.error if state else "",
    }


def dead_document(delivery: Delivery, summary: str) -> dict[str, Any]:
    """Returns what was given up; `summary` says what happened."""
    return {
        "channel": delivery.channel,
        "event": delivery.sequence,
        "attempts": delivery.attempts,
        "given_up_at": delivery.next_at,
        "error": delivery.error,
        "summary": summary,
    }
