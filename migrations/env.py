"""Alembic's environment: runs in the connection and the transaction that `deployctl.lineage.migrate` gives it."""

from __future__ import annotations

from alembic import context

from deployctl.lineage.tables import metadata


def run() -> None:
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=metadata,
        # SQLite cannot alter most of a table; Alembic copies it instead.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


run()
