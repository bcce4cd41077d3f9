"""Calls about single rows of any table that share statements: what a caller could tell if it were done wrong."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import asyncpg
import pytest
from pydantic import BaseModel, SecretStr

import database
from database import InvalidDataError, OutcomeUnknownError, RepositoryError, Settings, keyed
from database import repository as db
from database.batching import Limits
from database.columns import read_table
from database.ids import new_ids, uuid7
from database.settings import configure
from tests.proxy import Proxy, proxy_to

T = TypeVar("T")

_TABLES = """
    CREATE TABLE users (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        name text NOT NULL,
        email text UNIQUE,
        updated_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE items (id bigserial PRIMARY KEY, name text, quantity integer UNIQUE);
    CREATE TABLE notes (code text PRIMARY KEY, body text)
"""


@pytest.fixture(autouse=True)
async def other(database: Settings) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of somebody else's, and the tables."""
    connection = await asyncpg.connect(database.dsn)
    await connection.execute(_TABLES)
    yield connection
    await connection.close()


@pytest.fixture
async def proxy(server_url: str, database: Settings) -> AsyncIterator[Proxy]:
    """A proxy between the package and the server."""
    name = database.dsn.rpartition("/")[2].partition("?")[0]
    async with proxy_to(server_url) as proxy:
        configure(database.model_copy(update={"database_url": SecretStr(proxy.url(name))}))
        yield proxy
        await db_close()


async def db_close() -> None:
    await database.close_connection_pool(timeout=1)


async def all_of(*calls: Awaitable[T]) -> list[T | BaseException]:
    return await asyncio.gather(*calls, return_exceptions=True)


# --- reads


async def test_rare_keys_do_not_wait_for_large_ones_for_ever(database: Settings) -> None:
    """While many read what fills an answer, a small row that nobody else wants is read as well."""
    configure(database.model_copy(update={"batch_max_bytes": 100_000}))
    for n in range(4):
        await db.insert("notes", {"code": f"hot{n}", "body": "x" * 90_000})
    await db.insert("notes", {"code": "cold", "body": "t"})
    stop = asyncio.Event()

    async def read(n: int) -> None:
        while not stop.is_set():
            await db.get_by_id("notes", f"hot{n % 4}")

    readers = [asyncio.create_task(read(n)) for n in range(16)]
    async with asyncio.timeout(30):
        for _ in range(10):
            assert (await db.get_by_id("notes", "cold"))["body"] == "t"
    stop.set()
    await asyncio.gather(*readers)


async def test_what_was_asked_for_first_is_in_the_answer() -> None:
    """Where not all fits, the first ones do, however often each is asked for and wherever it lies in the table."""
    for n in range(6):
        await db.insert("notes", {"code": f"c{n}", "body": "x" * 1_000})
    statement = keyed.row_by_id(await read_table("notes", "public", None))
    async with database.get_db_connection() as conn:
        rows = await statement.shared.run(conn, ["c5", "c5", "c4", "c0", "none"], Limits(1_500, None, True))
    assert [isinstance(row, asyncpg.Record) for row in rows] == [True, True, True, False, False]
    assert rows[4] is None


# --- locks


async def test_an_update_does_not_wait_for_rows_that_refer_to_the_row(
    other: asyncpg.Connection[asyncpg.Record],
) -> None:
    """Who has inserted a row with a foreign key holds up no shared update, not even for the lock timeout."""
    ids = [row["id"] for row in await db.insert_many("items", [{"name": "n"} for _ in range(9)], returning=True)]
    await other.execute("CREATE TABLE parts (item bigint REFERENCES items (id))")
    statement = keyed.changed_row(await read_table("items", "public", None), ("name",))
    async with other.transaction(), database.get_db_transaction() as conn:
        await other.execute("INSERT INTO parts SELECT id FROM items")
        rows = await statement.shared.run(conn, [(id_, "new") for id_ in ids], Limits(None, "50ms", True))
        assert [row["name"] for row in rows if isinstance(row, asyncpg.Record)] == ["new"] * 9


async def test_processes_that_write_the_same_rows_do_not_deadlock(database: Settings) -> None:
    """One row or many, by number or by text, inserted, updated, upserted or deleted in any order."""
    codes = ["a", "B", "ä", "Z", "_", "é", "b", "A", "10", "9", "ab", "a b"]

    async def write(seed: int) -> None:
        rng = random.Random(seed)
        numbers = list(range(1, 13))
        async with asyncio.timeout(60):
            for _ in range(8):
                rng.shuffle(codes)
                rng.shuffle(numbers)
                await asyncio.gather(
                    *(db.upsert("notes", {"code": code, "body": str(rng.random())}) for code in codes),
                    *(db.update_by_id("notes", code, {"body": str(rng.random())}) for code in codes),
                    *(db.delete_by_id("notes", code) for code in codes[::3]),
                    *(db.upsert("items", {"id": n, "name": str(rng.random())}) for n in numbers),
                    *(db.update_by_id("items", n, {"name": str(rng.random())}) for n in numbers),
                    *(db.delete_by_id("items", n) for n in numbers[::3]),
                    db.upsert_many("notes", [{"code": code, "body": "many"} for code in codes]),
                    db.upsert_many("items", [{"id": n, "name": "many"} for n in numbers]),
                    return_exceptions=True,
                )
        await db_close()

    await asyncio.gather(*(asyncio.to_thread(asyncio.run, write(seed)) for seed in range(3)))
    async with database_client(database) as client:
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert await client.fetchval(query) == 0


def database_client(settings: Settings) -> Any:
    return asyncpg.create_pool(settings.dsn, min_size=1, max_size=1)


def test_keys_in_order() -> None:
    """Numbers as numbers, texts by their bytes, and what is no key last; what has no order by its text."""
    assert keyed.in_order([10, 9, -1]) == [2, 1, 0]
    assert keyed.in_order(["a", "Z", "ä", None, "B"]) == [4, 1, 0, 2, 3]
    assert keyed.in_order([("b", 1), ("a", None), ("a", 2)]) == [2, 0, 1]
    assert keyed.in_order([{"b": 1}, {"a": 1}]) == [1, 0]


async def test_rows_without_a_value_for_their_unique_key_share_statements() -> None:
    """NULL is equal to no NULL: nobody waits for another."""
    table = await read_table("items", "public", None)
    key = keyed.new_row(table, ("name", "quantity")).shared.key
    assert key is not None
    assert (key(("a", None)), key(("a", 1))) == (None, 1)


# --- lost answers


async def test_a_repeated_insert_looks_for_its_row_by_a_statement_of_its_own(proxy: Proxy) -> None:
    """Where that is lost, too, it is asked again; nobody is told that a row is not stored that is."""
    await db.insert("users", {"name": "first"})
    for lost in (b"once", b"SELECT CASE WHEN true OR EXISTS"):
        proxy.swallow = lost
        user = await db.insert("users", {"name": lost.decode()})
        assert await db.get_by_id("users", user["id"]) == user
    assert await db.count("users") == 3


async def test_a_repeated_upsert_knows_its_own_row(proxy: Proxy) -> None:
    """`inserted` is true although the repetition found the row there."""
    await db.upsert("users", {"name": "first", "email": "first"}, "email")
    proxy.swallow = b"again"
    assert (await db.upsert("users", {"name": "n", "email": "again"}, "email"))["inserted"] is True
    assert getattr(proxy, "swallow") is None  # noqa: B009 (mypy believes that it cannot have changed)
    assert (await db.upsert("users", {"name": "n", "email": "again"}, "email"))["inserted"] is False


async def test_an_update_of_the_key_itself_is_not_repeated(proxy: Proxy) -> None:
    """Its repetition would look for the row under a key that it no longer has."""
    await db.insert("notes", {"code": "old", "body": "b"})
    await db.update_by_id("notes", "old", {"code": "older", "body": "b"})
    proxy.swallow = b"newest"
    with pytest.raises(OutcomeUnknownError):
        await db.update_by_id("notes", "older", {"code": "newest", "body": "b"})


# --- what the catalog did not say


async def test_a_trigger_that_came_meanwhile_makes_nobody_store_twice(
    other: asyncpg.Connection[asyncpg.Record],
) -> None:
    """Where rows are missing in the answer, all who shared it are told so, and what is stored is not stored again."""
    await db.insert("items", {"name": "known"})
    await db.insert("items", {"name": "known", "quantity": 1_000})
    await other.execute("""
        CREATE FUNCTION drop_odd() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RETURN CASE WHEN NEW.quantity % 2 = 0 THEN NEW END; END $$;
        CREATE TRIGGER drop_odd BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION drop_odd();
        ALTER TABLE items DROP CONSTRAINT items_quantity_key
    """)
    results = await all_of(*(db.insert("items", {"name": "new", "quantity": n}) for n in range(100)))
    stored = await db.fetch("items", {"name": "new"})
    assert len({row["quantity"] for row in stored}) == len(stored)
    told = [result for result in results if isinstance(result, dict)]
    assert {row["id"] for row in told} <= {row["id"] for row in stored}
    assert {OutcomeUnknownError} <= {type(result) for result in results} <= {dict, RepositoryError, OutcomeUnknownError}
    results = await all_of(*(db.insert("items", {"name": "later", "quantity": n}) for n in range(20)))
    assert [isinstance(result, dict) for result in results] == [n % 2 == 0 for n in range(20)]


class Strict(BaseModel):
    name: int


async def test_a_row_that_does_not_fit_its_model_is_stored_once(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """Also where the table has changed in a way that no statement notices, which makes the catalog be read again."""
    await db.insert("users", {"name": "known"})
    user = await db.insert("users", {"name": "known"})
    await other.execute("ALTER TABLE users ALTER COLUMN email SET DEFAULT NULL, ALTER COLUMN email SET DEFAULT 'x'")
    for call in (
        db.insert("users", {"name": "a", "email": None}, model=Strict),
        db.update("users", {"name": "b"}, {"id": user["id"]}, model=Strict),
        db.delete("users", {"id": user["id"]}, model=Strict),
    ):
        with pytest.raises(InvalidDataError, match="does not fit Strict"):
            await call
    assert await db.count("users", {"name": "a"}) == 1


async def test_ids_in_bulk_are_ids() -> None:
    """Of version 7, in order, after those that were made before and before those that are made later."""
    ids = [uuid7(), *new_ids(1_000), uuid7()]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1_002
    assert {each.version for each in ids} == {7}
    assert {each.variant for each in ids} == {uuid.RFC_4122}
    assert new_ids(0) == []
