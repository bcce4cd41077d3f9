"""
Any table: read, write and raw SQL, as flat functions. `from database import repository as db`.

Rows are fresh dicts, or instances of `model=`. Every function speaks through *conn* if given, else for itself. Tables
and columns are looked up in the catalog before their names become SQL; values are parameters, always.
"""

from __future__ import annotations

from .raw_sql import execute_raw
from .read_rows import (
    count,
    exists,
    fetch,
    fetch_one,
    fetch_page,
    get_by_column,
    get_by_id,
    get_by_id_or_none,
    get_by_name,
    get_by_uuid,
    get_many_by_id,
    iterate,
)
from .relations import create_schema, describe_table, list_tables, schema_exists, table_exists
from .values import JSON_NULL
from .write_rows import delete, delete_by_id, insert, insert_many, update, update_by_id, upsert, upsert_many

__all__ = [
    "JSON_NULL",
    "count",
    "create_schema",
    "delete",
    "delete_by_id",
    "describe_table",
    "execute_raw",
    "exists",
    "fetch",
    "fetch_one",
    "fetch_page",
    "get_by_column",
    "get_by_id",
    "get_by_id_or_none",
    "get_by_name",
    "get_by_uuid",
    "get_many_by_id",
    "insert",
    "insert_many",
    "iterate",
    "list_tables",
    "schema_exists",
    "table_exists",
    "update",
    "update_by_id",
    "upsert",
    "upsert_many",
]
