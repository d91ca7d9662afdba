"""The first schema. Written out, and never changed again, so that it stays what old databases were made with."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_offset = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    meta = op.create_table(
        "meta", sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("head", _offset, nullable=False),
    )
    _create_runs()
    _create_batches()
    _create_results()
    _create_positions()
    op.bulk_insert(meta, [{"key": "epoch", "value": secrets.token_hex(8)}])


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("last_offset", _offset, nullable=False),
        sa.Column("fold_version", sa.Integer, nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Column("summary", sa.LargeBinary),
        sa.UniqueConstraint("project_id", "run_id"),
    )
    op.create_index("runs_by_start", "runs", ["started_at", "run_id"])
    op.create_index("runs_of_project", "runs", ["project_id", "started_at", "run_id"])
    op.create_index("runs_by_key", "runs", ["project_id", "key", "started_at"])
    op.create_index("runs_by_status", "runs", ["status", "started_at"])


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("last_offset", _offset, primary_key=True, autoincrement=False),
        sa.Column("first_offset", _offset, nullable=False),
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.id", ondelete="CASCADE")),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("last_seq", sa.BigInteger),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("encoding", sa.SmallInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("batches_of_run", "batches", ["run", "last_offset"])


def _create_results() -> None:
    op.create_table(
        "results",
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("test_id", sa.Text, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("test_key", sa.BigInteger, nullable=False),
        sa.Column("final", sa.Boolean, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("ok", sa.Boolean),
        sa.Column("outcome", sa.Text),
        sa.Column("duration_ms", sa.Float),
        sa.Column("begin", sa.LargeBinary),
        sa.Column("end", sa.LargeBinary),
    )
    op.create_index("results_of_test", "results", ["test_key", "run"])


def _create_positions() -> None:
    op.create_table(
        "plain_events",
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("content_hash", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "streams",
        sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("stream_id", sa.Text, primary_key=True),
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("acked_seq", sa.BigInteger, nullable=False),
        sa.Column("accepted", sa.BigInteger, nullable=False),
        sa.Column("refused", sa.BigInteger, nullable=False),
        sa.Column("duplicates", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_index("streams_of_run", "streams", ["run"])
    op.create_table(
        "cursors",
        sa.Column("reporter", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("offset", _offset, nullable=False),
    )
    op.create_table(
        "documents",
        sa.Column("instance", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
