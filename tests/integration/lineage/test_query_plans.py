"""One model's or target's page must not cost more in a large database: SQLite's planner says how it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from deployctl.domain.names import VersionNumber
from deployctl.lineage.interface import LineageStore
from deployctl.lineage.migrate import upgrade
from deployctl.lineage.store import SqlLineageStore
from tests.support.lineage import MODEL, NOW, TARGET, pending, published, settled


def append(store: LineageStore) -> None:
    with store.transaction() as transaction:
        transaction.append(published())
        transaction.append(pending(transaction.next_revision(TARGET, MODEL)))
        transaction.append(settled(transaction.next_revision(TARGET, MODEL) - 1))
        transaction.current(TARGET, MODEL)


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.versions(MODEL),
        lambda store: store.manifest(MODEL, VersionNumber(1)),
        lambda store: store.current(TARGET),
        lambda store: store.pending(TARGET),
        lambda store: store.revisions(TARGET, MODEL, limit=10),
        lambda store: store.history(model=MODEL, limit=10),
        lambda store: store.history(target=TARGET, limit=10),
        lambda store: store.history(model=MODEL, target=TARGET, limit=10),
        append,
    ],
)
def test_no_table_is_read_whole_and_nothing_is_sorted(ask: Callable[[LineageStore], object], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lineage.db"
    upgrade(url, now=NOW)
    asked: list[tuple[str, Any]] = []
    with SqlLineageStore(url) as store:
        engine = store._database.engine
        event.listen(
            engine,
            "before_cursor_execute",
            lambda *call: asked.append((call[2], call[3] if not call[5] else call[3][0])),
        )
        ask(store)
        queries = [(text, values) for text, values in asked if text.split()[0] in ("SELECT", "UPDATE", "DELETE")]
        assert queries
        with engine.connect() as connection:
            for text, values in list(queries):
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all()
                steps = [str(row[-1]) for row in plan if "alembic_version" not in text]
                # Reading one end of an index in order is also called a scan; it comes with a limit of 1.
                reads = [step for step in steps if step.startswith("SCAN") and "LIMIT" not in text]
                sorts = [step for step in steps if "TEMP B-TREE" in step]
                assert (reads, sorts) == ([], []), text
