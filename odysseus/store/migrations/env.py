"""Alembic's entry: runs the migrations on the connection that `odysseus.store.database` hands over."""

from alembic import context

from odysseus.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
