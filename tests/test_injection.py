"""
No name and no value becomes SQL: hostile texts in every position, against a real server with a table to be missed.

FUZZ_EXAMPLES says how many texts are tried; `make fuzz` tries 100,000, and as many questions of search.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import database
from database import ColumnMatchError, DatabaseError, InvalidDataError, RecordNotFoundError, SchemaError, Settings
from database import repository as db

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
_PIECES = [
    "'", '"', "\\", ";", "--", "/*", "*/", "$1", "$$", ":a", "::", "%", "_", "(", ")", "[", "]", "{", "}", ",", ".",
    " ", "\n", "\0", "\ud800", "ü", "name", "NAME", "data", "canary", "DROP TABLE canary", "DELETE FROM canary",
    "OR 1=1", "UNION SELECT", "pg_sleep(9)", "COMMIT", "E'", "U&'", "this", "given", "NULL", "true", "$eq", "$gt",
    "$or", "-",
]  # fmt: skip
_hostile = st.one_of(st.lists(st.sampled_from(_PIECES), max_size=6).map("".join), st.text(max_size=30))
_json = st.recursive(
    st.one_of(_hostile, st.integers(), st.floats(-1e9, 1e9, width=32), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_hostile, inner, max_size=3)),
    max_leaves=5,
)

_NAMES: dict[str, Callable[[str], Awaitable[object]]] = {
    "table": lambda text: db.fetch(text),
    "schema": lambda text: db.fetch("target", schema=text),
    "column of a condition": lambda text: db.fetch("target", {text: 1}),
    "path": lambda text: db.fetch("target", {f"data.{text}": 1}),
    "operator": lambda text: db.fetch("target", {"name": {f"${text}": "x"}}),
    "column of a row": lambda text: db.insert("target", {text: None}),
    "column of many rows": lambda text: db.insert_many("target", [{text: None}]),
    "column of an update": lambda text: db.update("target", {text: None}, {"id": -1}),
    "returned column": lambda text: db.fetch("target", columns=[text]),
    "order": lambda text: db.fetch("target", order_by=text),
    "conflict": lambda text: db.upsert("target", {"id": 1}, [text]),
    "name column": lambda text: db.get_by_name("target", "x", name_column=text),
    "deleted": lambda text: db.delete("target", {text: "no such value"}),
    "listed": lambda text: db.list_tables(schema=text),
    "exists": lambda text: db.table_exists(text, schema=text),
    "named parameter": lambda text: db.execute_raw("SELECT :a::text AS a", {"a": "x", text: text}),
}
_CONDITIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "equality": lambda value: {"name": value},
    "list": lambda value: {"name": {"$in": [value, value]}},
    "nin": lambda value: {"name": {"$nin": [value]}},
    "ne": lambda value: {"name": {"$ne": value}},
    "between": lambda value: {"name": {"$between": [value, value]}},
    "like": lambda value: {"name": {"$like": value}},
    "contains": lambda value: {"name": {"$contains": value}},
    "startswith": lambda value: {"name": {"$startswith": value}},
    "element": lambda value: {"tags": {"$contains": value}},
    "array": lambda value: {"tags": value},
    "json": lambda value: {"data": value},
    "json contains": lambda value: {"data": {"$contains": value}},
    "json path": lambda value: {"data.a": value},
    "json exists": lambda value: {"data": {"$exists": value}},
    "number": lambda value: {"number": value},
    "date": lambda value: {"at": {"$gt": value}},
    "uuid": lambda value: {"key": value},
    "mood": lambda value: {"mood": value},
    "whole": lambda value: value,
}


@pytest.fixture
def runner(database_in_sync_test: Settings) -> Any:
    """An event loop for all examples of a test, with a table to work on and one that must not change."""
    with asyncio.Runner() as runner:
        runner.run(
            _execute("""
            CREATE TABLE canary (id integer PRIMARY KEY);
            INSERT INTO canary VALUES (1), (2);
            CREATE TYPE mood AS ENUM ('a', 'b''c');
            CREATE TABLE target (
                id integer PRIMARY KEY DEFAULT 1, name text, tags text[], data jsonb, number integer, at timestamptz,
                key uuid, mood mood
            );
            INSERT INTO target VALUES (1, 'one', '{a}', '{"a": 1}');
            CREATE VIEW tables AS
                SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r';
            ALTER TABLE canary ADD COLUMN tables integer;
            UPDATE canary SET tables = (SELECT count(*) FROM tables);
        """)
        )
        yield runner
        runner.run(database.close_connection_pool())


async def _execute(script: str) -> None:
    async with database.get_db_connection() as conn:
        await conn.execute(script)


_CANARY = """
    SELECT (SELECT array_agg(id ORDER BY id) FROM canary) = '{1,2}'
       AND (SELECT count(*) FROM tables) = (SELECT min(tables) FROM canary)
       AND (SELECT count(*) FROM target WHERE id = 1) = 1
"""


async def _is_alive() -> bool:
    (row,) = await (await database.get_connection_pool()).fetch(_CANARY)
    return bool(row[0])


def _fuzzed(number: int) -> settings:
    return settings(
        max_examples=number, deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=True
    )


def test_hostile_names(runner: asyncio.Runner) -> None:
    """A name is a column's or an error before it is SQL."""

    @_fuzzed(_EXAMPLES)
    @given(st.sampled_from(sorted(_NAMES)), _hostile)
    def check(position: str, text: str) -> None:
        async def call() -> None:
            try:
                await _NAMES[position](text)
            except (ColumnMatchError, SchemaError, InvalidDataError) as exc:
                assert exc.original_error is None
            except DatabaseError as exc:
                # a name that was a column's, whose constraint refuses the row
                assert exc.sqlstate == "23505"
            assert await _is_alive()

        runner.run(call())

    check()


def test_hostile_values_in_conditions(runner: asyncio.Runner) -> None:
    """A value is compared, or refused before it is sent."""

    @_fuzzed(_EXAMPLES)
    @given(st.sampled_from(sorted(_CONDITIONS)), st.one_of(_hostile, _json))
    def check(position: str, value: Any) -> None:
        async def call() -> None:
            try:
                await db.fetch("target", _CONDITIONS[position](value))
                await db.count("target", _CONDITIONS[position](value))
            except (ColumnMatchError, InvalidDataError) as exc:
                assert exc.original_error is None
            assert await _is_alive()

        runner.run(call())

    check()


_TEXTS = {
    "english": "# One or the other\n\nNAME the data: it's a canary & OR 1=1, the 'value' \\ is NULL.\n",
    "german": "Die Daten heißen Über-Name; 50% _wahr_.\n",
    "simple": "入門とPython3の使い方。한국어 책 ใช้เก็บข้อมูล\n",
}
_operators = st.lists(
    st.sampled_from([*_PIECES, "+", "*", "|", "&", "!", "<->", ":*A", "“", "»", "日本", "입", "ก็", "\u00ad", "\u0130"]),
    max_size=8,
).map("".join)


def test_hostile_questions(runner: asyncio.Runner) -> None:
    """Any text is a question, which finds something or nothing."""

    async def store() -> None:
        await database.init_document_table()
        for language, text in _TEXTS.items():
            await database.insert_document(language, language, text, language=language)

    @_fuzzed(_EXAMPLES * 3 // 2)  # two searches each
    @given(st.one_of(_hostile, _operators, st.text(max_size=200)), _hostile)
    def check(question: str, code: str) -> None:
        async def call() -> None:
            found = await database.search_documents(question, 3, exact=len(question) % 2 == 0)
            assert {row["code"] for row in found} <= _TEXTS.keys()
            assert all(row["rank"] > 0 and row["snippet"] for row in found)
            with suppress(InvalidDataError):  # no JSON holds NUL
                assert await database.search_sections(f"data {question}", 3, where={"metadata.a": code}) == []
            await database.suggest_terms(question)
            assert await _is_alive()

        runner.run(call())

    runner.run(store())
    check()


def test_hostile_values_are_stored_as_they_are(runner: asyncio.Runner) -> None:
    """What is stored comes back the same, is found by its value, and is nothing but a value."""

    @_fuzzed(_EXAMPLES)
    @given(_hostile, st.lists(_hostile, max_size=3), _json)
    def check(text: str, texts: list[str], value: Any) -> None:
        async def call() -> None:
            row = {"id": 2, "name": text, "tags": texts, "data": value}
            try:
                stored = await db.upsert("target", row)
                assert (stored["name"], stored["tags"], stored["data"]) == (text, texts, value)
                assert await db.get_by_name("target", text) is not None
                assert await db.exists("target", {"tags": texts})
                assert await db.count("target", {"name": {"$contains": text}}) >= 1
                (many,) = await db.upsert_many("target", [row], returning=True)
                assert (many["name"], many["tags"], many["data"]) == (text, texts, value)
                assert await db.execute_raw("SELECT :v::text AS v", {"v": text}) == [{"v": text}]
                await db.delete_by_id("target", 2)
            except (InvalidDataError, RecordNotFoundError) as exc:
                assert exc.original_error is None
            assert await _is_alive()

        runner.run(call())

    check()
