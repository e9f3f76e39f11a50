"""Alembic runs this file: it migrates on the connection that `app.registry.migrate` hands over."""

from alembic import context

from app.registry.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite can change little of a table in place: rebuild it.
    render_as_batch=True,
)
# No transaction of its own: the connection comes inside one.
context.run_migrations()
