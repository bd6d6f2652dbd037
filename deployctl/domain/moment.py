"""Moments as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from deployctl.errors import UsageError

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)


def parse_moment(text: str, now: datetime) -> datetime:
    """Returns a moment in the past: "14:00" is the last time that it was 14:00 UTC, else RFC 3339; aware, UTC.

    Without an offset UTC is meant, as in all that is shown.

    Raises:
        UsageError: `text` is neither, or it is to come.
    """
    clock = _TIME.fullmatch(text)
    if clock:
        hour, minute, second = (int(part or 0) for part in clock.groups())
        moment = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
        return moment if moment <= now else moment - timedelta(days=1)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no moment: write 14:00 or 2026-11-21T14:00:00Z, in UTC") from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if moment > now:
        raise UsageError(f"{text} is still to come; it is {now:%Y-%m-%dT%H:%M:%SZ} now")
    return moment
