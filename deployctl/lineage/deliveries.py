"""What each notification channel is still to be told, in the lineage database: so that no kill loses it.

A channel has a cursor, the newest event that was looked at for it, and a row for each event that it is to be told.
Both change in one transaction; the row goes when the receiver has taken the event, and stays, dead, when it is given
up. That makes it at least once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, select, update

from deployctl.domain.clock import Clock
from deployctl.domain.event import Event, EventKind
from deployctl.domain.manifest import format_time, parse_time
from deployctl.domain.revision import Revision
from deployctl.lineage.database import Database
from deployctl.lineage.rows import event_from_row, revision_from_row
from deployctl.lineage.tables import channels, deliveries, events, revisions

# Events that are looked at in one transaction.
_PAGE = 200
# A channel with so much outstanding is given nothing more until some of it is done: the events wait where they are.
MAX_OUTSTANDING = 1000
_OF_REVISIONS = frozenset({EventKind.REVISION_PENDING, EventKind.REVISION_SERVING, EventKind.REVISION_FAILED})


@dataclass(frozen=True, slots=True)
class Happening:
    """An event, with the revision that it is about, None where it is about none."""

    event: Event
    revision: Revision | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a channel is to be told.

    Attributes:
        sequence: the event's.
        attempts: how often it was tried and failed.
        next_at: when it is tried next; for a dead one, when it died.
        error: why the last attempt failed, "" without one.
    """

    channel: str
    sequence: int
    attempts: int
    next_at: datetime
    dead: bool
    error: str


@dataclass(frozen=True, slots=True)
class ChannelState:
    """Where a channel is.

    Attributes:
        sequence: the newest event that was looked at for it.
        behind: how many events there are after that.
        outstanding: how many deliveries are to be made, `failing` of them not for the first time.
        due_at: when the next one is, None without one.
        error: why the newest failed attempt failed, "" without one.
    """

    name: str
    sequence: int
    behind: int
    outstanding: int
    failing: int
    dead: int
    due_at: datetime | None
    error: str


class Deliveries:
    """The cursors and outstanding deliveries of all channels; threads may share it.

    Every method raises DatabaseError where the database cannot serve it.
    """

    def __init__(self, url: str, clock: Clock, *, busy_timeout_s: float) -> None:
        self._database = Database(url, busy_timeout_s=busy_timeout_s)
        self._clock = clock

    def close(self) -> None:
        """Closes the connections."""
        self._database.close()

    def begin(self, channel: str) -> None:
        """Makes a channel known that is new: it is told what happens from now on."""
        with self._database.reading() as connection:
            if _cursor(connection, channel) is not None:
                return
        with self._database.writing() as connection:
            if _cursor(connection, channel) is None:
                connection.execute(insert(channels).values(name=channel, sequence=_newest(connection)))

    def take_in(self, channel: str, wanted: Callable[[Happening], bool]) -> int:
        """Makes deliveries of the next events that `wanted` says are for the channel; returns how many it looked at.

        0 where there is no further event, or no room.
        """
        with self._database.reading() as connection:
            cursor = _cursor(connection, channel)
            room = MAX_OUTSTANDING - _count(connection, _outstanding(channel))
            if cursor is None or room <= 0:
                return 0
            found = [_happening(connection, event) for event in _after(connection, cursor, min(room, _PAGE))]
        if not found:
            return 0
        now = format_time(self._clock.now())
        fresh = {"channel": channel, "attempts": 0, "next_at": now, "dead": False, "error": ""}
        rows = [fresh | {"sequence": each.event.sequence} for each in found if wanted(each)]
        with self._database.writing() as connection:
            # Only from where we read: a daemon that has lost its lease without knowing must make nothing twice.
            here = and_(channels.c.name == channel, channels.c.sequence == cursor)
            moved = connection.execute(update(channels).where(here).values(sequence=found[-1].event.sequence))
            if moved.rowcount and rows:
                connection.execute(insert(deliveries), rows)
        return len(found)

    def due(self, channel: str) -> Delivery | None:
        """Returns the oldest delivery that is to be made now, None without one."""
        now = format_time(self._clock.now())
        query = select(deliveries).where(_outstanding(channel), deliveries.c.next_at <= now)
        with self._database.reading() as connection:
            row = connection.execute(query.order_by(deliveries.c.sequence).limit(1)).first()
        return None if row is None else _delivery(row)

    def happening(self, sequence: int) -> Happening | None:
        """Returns the event of a delivery, None where there is none of that sequence."""
        with self._database.reading() as connection:
            found = _after(connection, sequence - 1, 1)
            return _happening(connection, found[0]) if found and found[0].sequence == sequence else None

    def delivered(self, delivery: Delivery) -> None:
        """Forgets a delivery: the receiver has it."""
        with self._database.writing() as connection:
            connection.execute(delete(deliveries).where(_is(delivery)))

    def failed(self, delivery: Delivery, error: str, *, again_at: datetime | None) -> None:
        """Writes that an attempt failed; without a time to try again the delivery is dead."""
        at = self._clock.now() if again_at is None else again_at
        changed = {
            "attempts": delivery.attempts + 1,
            "error": error,
            "next_at": format_time(at),
            "dead": again_at is None,
        }
        with self._database.writing() as connection:
            connection.execute(update(deliveries).where(_is(delivery)).values(**changed))

    def dead(self, channel: str | None = None) -> tuple[Delivery, ...]:
        """Returns the deliveries that were given up, of one channel if it is given, by channel and event."""
        query = select(deliveries).where(deliveries.c.dead.is_(True))
        if channel is not None:
            query = query.where(deliveries.c.channel == channel)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return tuple(sorted(map(_delivery, rows), key=lambda each: (each.channel, each.sequence)))

    def revive(self, channel: str, sequences: Collection[int]) -> int:
        """Lets dead deliveries be tried again, as if for the first time; returns how many there were."""
        chosen = and_(
            deliveries.c.channel == channel, deliveries.c.dead.is_(True), deliveries.c.sequence.in_(sorted(sequences))
        )
        now = format_time(self._clock.now())
        with self._database.writing() as connection:
            return connection.execute(
                update(deliveries).where(chosen).values(dead=False, attempts=0, next_at=now)
            ).rowcount

    def look(self) -> frozenset[str]:
        """Returns the channels that have something to do now: events to look at, or a delivery that is due."""
        now = format_time(self._clock.now())
        due = select(deliveries.c.channel).where(deliveries.c.dead.is_(False), deliveries.c.next_at <= now).distinct()
        with self._database.reading() as connection:
            behind = select(channels.c.name).where(channels.c.sequence < _newest(connection))
            return frozenset((*connection.execute(behind).scalars(), *connection.execute(due).scalars()))

    def states(self) -> Mapping[str, ChannelState]:
        """Returns where each known channel is, by name."""
        with self._database.reading() as connection:
            newest = _newest(connection)
            known = connection.execute(select(channels.c.name, channels.c.sequence)).all()
            return {name: _state(connection, name, sequence, newest) for name, sequence in sorted(map(tuple, known))}


def _state(connection: Connection, name: str, sequence: int, newest: int) -> ChannelState:
    waiting = _outstanding(name)
    failed = and_(deliveries.c.channel == name, deliveries.c.attempts > 0)
    due_at = connection.execute(select(func.min(deliveries.c.next_at)).where(waiting)).scalar()
    last = select(deliveries.c.error).where(failed).order_by(deliveries.c.sequence.desc()).limit(1)
    return ChannelState(
        name=name,
        sequence=sequence,
        behind=max(0, newest - sequence),
        outstanding=_count(connection, waiting),
        failing=_count(connection, and_(waiting, deliveries.c.attempts > 0)),
        dead=_count(connection, and_(deliveries.c.channel == name, deliveries.c.dead.is_(True))),
        due_at=None if due_at is None else parse_time(due_at),
        error=connection.execute(last).scalar() or "",
    )


def _outstanding(channel: str) -> ColumnElement[bool]:
    return and_(deliveries.c.channel == channel, deliveries.c.dead.is_(False))


def _is(delivery: Delivery) -> ColumnElement[bool]:
    return and_(deliveries.c.channel == delivery.channel, deliveries.c.sequence == delivery.sequence)


def _count(connection: Connection, where: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).select_from(deliveries).where(where)).scalar_one()


def _cursor(connection: Connection, channel: str) -> int | None:
    return connection.execute(select(channels.c.sequence).where(channels.c.name == channel)).scalar()


def _newest(connection: Connection) -> int:
    return connection.execute(select(func.max(events.c.sequence))).scalar() or 0


def _after(connection: Connection, sequence: int, limit: int) -> list[Event]:
    query = select(events).where(events.c.sequence > sequence).order_by(events.c.sequence).limit(limit)
    return [event_from_row(row) for row in connection.execute(query).mappings()]


def _happening(connection: Connection, event: Event) -> Happening:
    content = event.content
    if content.kind not in _OF_REVISIONS:
        return Happening(event, None)
    query = select(revisions).where(
        revisions.c.target == content.target,
        revisions.c.model == content.model,
        revisions.c.number == content.data["revision"],
    )
    row = connection.execute(query).mappings().first()
    return Happening(event, None if row is None else revision_from_row(row))


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(row.channel, row.sequence, row.attempts, parse_time(row.next_at), row.dead, row.error)
