"""Alembic's entry: runs the migrations on the connection that `schema.migrate` hands over, in its transaction."""

from alembic import context

from testorch_plugins.storage.sql.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
