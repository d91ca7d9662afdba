"""Bringing a database to the schema of this program: made at once when it is new, by Alembic when it is older."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from importlib import resources

from sqlalchemy import Connection, insert, inspect, select, text

from testorch_core.errors import OpeningError
from testorch_plugins.storage.sql.tables import REVISION, meta, metadata

EPOCH_BYTES = 8
MIGRATIONS = resources.files("testorch_plugins.storage.sql") / "migrations"


def prepare(connection: Connection, *, place: str) -> None:
    """Make or migrate the tables, within a transaction that the caller holds.

    A new database gets its tables directly, which gives the same as all migrations (a test holds that) without importing
    Alembic. Raises `OpeningError` for a database that is newer than the program, or that isn't ours.
    """
    revision = _revision(connection, place)
    if revision == REVISION:
        return
    if revision is None:
        metadata.create_all(connection)
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": REVISION})
        connection.execute(insert(meta).values(key="epoch", value=secrets.token_hex(EPOCH_BYTES)))
        return
    migrate(connection, place=place, revision=revision)


def require_current(connection: Connection, *, place: str) -> None:
    """For readers, who change nothing: raises `OpeningError` unless the schema is exactly this program's."""
    revision = _revision(connection, place)
    if revision is None:
        raise OpeningError(f"{place} holds no testorch data yet; start `testorch serve` with it first")
    if revision == REVISION:
        return
    if revision not in _known_revisions():
        raise _newer(place, revision)
    raise OpeningError(f"{place} was made by an older testorch; start `testorch serve` with it once to migrate it")


def migrate(connection: Connection, *, place: str, revision: str) -> None:
    """Run the migrations that the database lacks. Raises `OpeningError` for a newer one."""
    if revision not in _known_revisions():
        raise _newer(place, revision)
    from alembic import command  # 0.3 s to import, and hardly ever needed
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, REVISION)


def epoch(connection: Connection) -> str:
    """The random word that was made with the database."""
    return str(connection.execute(select(meta.c.value).where(meta.c.key == "epoch")).scalar_one())


def require_ours(tables: Collection[str], *, place: str) -> None:
    """Raises `OpeningError` for a database that holds tables of something else. An empty one may become ours."""
    if tables and not {"alembic_version", "meta", "batches"}.issubset(tables):  # others use Alembic too
        raise OpeningError(f"{place} is not a testorch database: it has tables of something else; choose another")


def _revision(connection: Connection, place: str) -> str | None:
    tables = inspect(connection).get_table_names()
    require_ours(tables, place=place)
    if not tables:
        return None
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    if revision is None:
        raise OpeningError(f"{place} doesn't say which schema it has; restore it from a backup")
    return str(revision)


def _known_revisions() -> set[str]:
    names = [entry.name for entry in (MIGRATIONS / "versions").iterdir()]
    return {name.split("_")[0] for name in names if name[:1].isdigit() and name.endswith(".py")}


def _newer(place: str, revision: str) -> OpeningError:
    return OpeningError(
        f"{place} has the schema {revision}, newer than this testorch knows ({REVISION}); upgrade testorch"
    )
