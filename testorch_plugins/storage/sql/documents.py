"""Plugins' own small JSON documents in the SQL stores. Versions make a compare-and-set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, delete, insert, select, update

from testorch_core.interfaces.storage import Documents, Page
from testorch_plugins.storage.sql.tables import documents

if TYPE_CHECKING:
    from testorch_plugins.storage.sql.store import SqlStore


class SqlDocuments(Documents):
    """The documents of one plugin instance."""

    def __init__(self, store: SqlStore, instance: str) -> None:
        self._store = store
        self._instance = instance

    async def get(self, key: str) -> tuple[Mapping[str, Any], int] | None:
        def query(connection: Connection) -> tuple[Mapping[str, Any], int] | None:
            where = (documents.c.instance == self._instance, documents.c.key == key)
            row = connection.execute(select(documents.c.body, documents.c.version).where(*where)).one_or_none()
            return None if row is None else (orjson.loads(row.body), row.version)

        return await self._store.reading(query)

    async def put(self, key: str, document: Mapping[str, Any], *, expected_version: int | None = None) -> int | None:
        body = orjson.dumps(dict(document))

        def change(connection: Connection) -> int | None:
            where = (documents.c.instance == self._instance, documents.c.key == key)
            version = connection.execute(select(documents.c.version).where(*where)).scalar_one_or_none() or 0
            if expected_version is not None and version != expected_version:
                return None
            values = {"version": version + 1, "body": body}
            if version:
                connection.execute(update(documents).where(*where).values(**values))
            else:
                connection.execute(insert(documents).values(instance=self._instance, key=key, **values))
            return version + 1

        return await self._store.writing(change)

    async def delete(self, key: str) -> bool:
        def change(connection: Connection) -> bool:
            where = (documents.c.instance == self._instance, documents.c.key == key)
            return connection.execute(delete(documents).where(*where)).rowcount == 1

        return await self._store.writing(change)

    async def page(self, *, after: str | None = None, limit: int = 100) -> Page[tuple[str, Mapping[str, Any]]]:
        def query(connection: Connection) -> Page[tuple[str, Mapping[str, Any]]]:
            wanted = select(documents.c.key, documents.c.body).where(documents.c.instance == self._instance)
            if after is not None:
                wanted = wanted.where(documents.c.key > after)
            rows = list(connection.execute(wanted.order_by(documents.c.key).limit(limit + 1)))
            shown = tuple((row.key, orjson.loads(row.body)) for row in rows[:limit])
            return Page(shown, shown[-1][0] if len(rows) > limit else None)

        return await self._store.reading(query)
