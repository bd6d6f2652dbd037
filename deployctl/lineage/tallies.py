"""How much of what is recorded, for the metrics page: counted once, and then only what is new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import func, select

from deployctl.domain.manifest import parse_time
from deployctl.lineage.database import Database
from deployctl.lineage.tables import events, leaders


@dataclass(frozen=True, slots=True)
class Tally:
    """What there was when it was counted.

    Attributes:
        sequence: the newest event counted.
        at: when that one was recorded, None without any.
        events: how many there are by kind and target, "" for events of no target.
    """

    sequence: int = 0
    at: datetime | None = None
    events: Mapping[tuple[str, str], int] = field(default_factory=dict)


class Tallies:
    """Counts what the database of `url` holds.

    Every method raises DatabaseError where the database cannot serve it.
    """

    def __init__(self, url: str, *, busy_timeout_s: float) -> None:
        self._database = Database(url, busy_timeout_s=busy_timeout_s)

    def close(self) -> None:
        """Closes the connections."""
        self._database.close()

    def tally(self, before: Tally) -> Tally:
        """Returns `before` with the events that were appended since."""
        new = events.c.sequence > before.sequence
        groups = select(events.c.kind, events.c.target, func.count().label("number")).where(new)
        newest = select(events.c.sequence, events.c.at).order_by(events.c.sequence.desc()).limit(1)
        with self._database.reading() as connection:
            last = connection.execute(newest).first()
            if last is None or last.sequence <= before.sequence:
                return before
            counts = dict(before.events)
            for row in connection.execute(groups.group_by(events.c.kind, events.c.target)):
                key = (row.kind, row.target or "")
                counts[key] = counts.get(key, 0) + row.number
        return Tally(last.sequence, parse_time(last.at), counts)

    def leader(self) -> str:
        """Returns who leads among the daemons, or did last; "" for nobody."""
        with self._database.reading() as connection:
            return connection.execute(select(leaders.c.holder).limit(1)).scalar() or ""
