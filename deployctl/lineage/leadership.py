"""Which of several daemons on one lineage database does the work: a lease in the database."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, insert, select, update

from deployctl.domain.clock import Clock
from deployctl.domain.manifest import format_time
from deployctl.lineage.database import Database
from deployctl.lineage.tables import leaders

_DUTY = "daemon"


class Leadership:
    """The lease of one daemon, for `holder`, a text that is like no other daemon's.

    The clocks of machines that share a database must agree to within a fraction of `lease_s`.
    """

    def __init__(self, url: str, holder: str, lease_s: float, clock: Clock) -> None:
        # A daemon that waits for the database longer than its lease lasts has lost it.
        self._database = Database(url, busy_timeout_s=lease_s / 3)
        self._holder = holder
        self._lease_s = lease_s
        self._clock = clock

    def hold(self) -> bool:
        """Takes the lease where nobody has it, or renews it; returns whether it is ours now.

        Raises:
            DatabaseError: the database cannot be asked.
        """
        now = self._clock.now()
        expires_at = format_time(now + timedelta(seconds=self._lease_s))
        with self._database.writing() as connection:
            row = connection.execute(select(leaders).where(leaders.c.duty == _DUTY)).mappings().first()
            if row is None:
                connection.execute(
                    insert(leaders).values(duty=_DUTY, holder=self._holder, token=1, expires_at=expires_at)
                )
                return True
            ours = row["holder"] == self._holder
            if not ours and row["expires_at"] > format_time(now):
                return False
            connection.execute(
                update(leaders)
                .where(leaders.c.duty == _DUTY)
                .values(holder=self._holder, token=row["token"] + (0 if ours else 1), expires_at=expires_at)
            )
            return True

    def holder(self) -> str | None:
        """Returns who has the lease now, None for nobody."""
        with self._database.reading() as connection:
            row = connection.execute(select(leaders).where(leaders.c.duty == _DUTY)).mappings().first()
        return str(row["holder"]) if row is not None and row["expires_at"] > format_time(self._clock.now()) else None

    def give_up(self) -> None:
        """Lets another daemon take the lease at once."""
        with self._database.writing() as connection:
            connection.execute(delete(leaders).where(leaders.c.duty == _DUTY, leaders.c.holder == self._holder))

    def close(self) -> None:
        """Closes the connections."""
        self._database.close()
