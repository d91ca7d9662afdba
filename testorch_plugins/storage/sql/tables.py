"""The tables that the SQL stores share. A change here is an Alembic migration there (`migrations/versions`)."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)  # fmt: skip

REVISION: Final = "0001"
"""The migration that these tables are the result of."""

metadata = MetaData()

_offset = BigInteger().with_variant(Integer, "sqlite")

meta = Table("meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

projects = Table(
    "projects",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("head", _offset, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("run_id", Text, nullable=False),
    Column("key", Text),
    Column("status", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("last_offset", _offset, nullable=False),
    Column("fold_version", Integer, nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("summary", LargeBinary),
    UniqueConstraint("project_id", "run_id"),
    Index("runs_by_start", "started_at", "run_id"),
    Index("runs_of_project", "project_id", "started_at", "run_id"),
    Index("runs_by_key", "project_id", "key", "started_at"),
    Index("runs_by_status", "status", "started_at"),
)

batches = Table(
    "batches",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("last_offset", _offset, primary_key=True, autoincrement=False),
    Column("first_offset", _offset, nullable=False),
    Column("run", ForeignKey("runs.id", ondelete="CASCADE")),
    Column("source", Text, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("last_seq", BigInteger),
    Column("count", Integer, nullable=False),
    Column("encoding", SmallInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("batches_of_run", "run", "last_offset"),
)

results = Table(
    "results",
    metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("test_id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("test_key", BigInteger, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("status", Text, nullable=False),
    Column("ok", Boolean),
    Column("outcome", Text),
    Column("duration_ms", Float),
    Column("begin", LargeBinary),
    Column("end", LargeBinary),
    Index("results_of_test", "test_key", "run"),
)
"""`test_key` is 64 bits of a hash of project and test id: a small index for a test's history over all runs."""

plain_events = Table(
    "plain_events",
    metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("content_hash", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

streams = Table(
    "streams",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("stream_id", Text, primary_key=True),
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("acked_seq", BigInteger, nullable=False),
    Column("accepted", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("duplicates", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Index("streams_of_run", "run"),
)

cursors = Table(
    "cursors",
    metadata,
    Column("reporter", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("offset", _offset, nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
