"""Names that nearly fit, and knowledge of a table that keeps up with its changes; against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

import database
from database import ColumnMatchError, InvalidDataError, RepositoryError, SchemaError, Settings
from database import repository as db

from .conftest import direct_dsn


@pytest.fixture
async def other(database: Settings) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection that has nothing to do with the package: another process, as far as it can tell."""
    connection = await asyncpg.connect(direct_dsn(database))
    await connection.execute("""
        CREATE TABLE users (
            id integer PRIMARY KEY,
            user_id integer,
            "displayName" text,
            categories text[],
            "Mixed Case" text,
            created_at timestamptz NOT NULL DEFAULT now()
        );
        INSERT INTO users (id, user_id) VALUES (1, 10)
    """)
    yield connection
    await connection.close()


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("user_id", "user_id"),
        ("USER_ID", "user_id"),
        ("userId", "user_id"),
        ("UserID", "user_id"),
        ("userid", "user_id"),
        ("user_ids", "user_id"),
        ("userIds", "user_id"),
        ("displayName", "displayName"),
        ("display_name", "displayName"),
        ("displayNames", "displayName"),
        ("category", "categories"),
        ("mixed case", "Mixed Case"),
        ("createdAt", "created_at"),
    ],
)
async def test_a_name_that_nearly_fits_is_used(name: str, column: str) -> None:
    """Case, underscores, camelCase, singular and plural: the row comes with the column's own name."""
    (row,) = await db.fetch("users", columns=[name])
    assert list(row) == [column]


@pytest.mark.usefixtures("other")
async def test_a_name_that_does_not_fit_is_an_error_with_a_suggestion() -> None:
    """The message lists the columns, and those that come close."""
    with pytest.raises(ColumnMatchError) as caught:
        await db.fetch("users", {"usr_id": 1})
    assert str(caught.value) == (
        "Column 'usr_id' not found in table 'users'. Available columns: id, user_id, displayName, categories, "
        "Mixed Case, created_at. Did you mean: user_id?"
    )
    with pytest.raises(ColumnMatchError) as caught:
        await db.insert("users", {"xyzzy": 1})
    assert str(caught.value).endswith("created_at.")
    with pytest.raises(ColumnMatchError, match=r"Column 'a{100}…' not found"):
        await db.fetch("users", {"a" * 5_000: 1})


async def test_two_winners_are_an_error(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """Where two columns do equally well, none is guessed; an exact name still is exact."""
    await other.execute('CREATE TABLE twins (id int PRIMARY KEY, "userId" int, user_id int, item int, items int)')
    await other.execute("INSERT INTO twins VALUES (1, 2, 3, 4, 5)")
    assert (await db.fetch("twins", columns="userId, user_id"))[0] == {"userId": 2, "user_id": 3}
    with pytest.raises(ColumnMatchError, match="Column 'userIds' of table 'twins' may be any of: userId, user_id"):
        await db.fetch("twins", columns="userIds")
    assert (await db.fetch("twins", columns="item"))[0] == {"item": 4}


@pytest.mark.usefixtures("other")
async def test_two_names_for_one_column_are_an_error() -> None:
    """Nobody can tell which of the two values is meant."""
    with pytest.raises(ColumnMatchError, match="'userId' and 'user_id' mean the same column 'user_id'"):
        await db.insert("users", {"id": 2, "userId": 1, "user_id": 2})


@pytest.mark.usefixtures("other")
async def test_a_missing_table_is_named_with_those_that_come_close() -> None:
    """Table and schema are looked up before they become SQL."""
    with pytest.raises(
        SchemaError, match=r"^Table 'user' not found in schema 'public'. Did you mean: users\?$"
    ) as caught:
        await db.fetch("user")
    assert caught.value.sqlstate == "42P01"
    with pytest.raises(SchemaError, match="The schema of a table is given as schema="):
        await db.fetch("public.users")
    with pytest.raises(SchemaError, match=r"Schema 'publik' not found. Did you mean: public\?"):
        await db.fetch("users", schema="publik")
    names: list[Any] = ["", "a\0b", "\ud800", "x" * 1_000, None, [], {"a": 1}]
    for name in names:
        with pytest.raises(SchemaError):
            await db.fetch(name)


async def test_the_catalog_is_read_once(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """A thousand calls, a hundred of them at once, look at the catalog one single time."""
    asked = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%pg_' || 'rewrite%'"
    await asyncio.gather(*(db.get_by_id("users", 1) for _ in range(100)))
    for _ in range(900):
        await db.get_by_id("users", 1)
    pool = await database.get_connection_pool()
    size = pool.get_size()
    connections = [await pool.acquire() for _ in range(size)]
    try:
        assert sum([await connection.fetchval(asked) for connection in connections]) == 1
    finally:
        for connection in connections:
            await pool.release(connection)


async def test_an_added_column_is_seen_at_once(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """Another process adds a column: rows have it, names find it, without a restart."""
    await db.get_by_id("users", 1)
    await db.fetch("users")
    await other.execute("ALTER TABLE users ADD COLUMN score integer DEFAULT 7")
    assert (await db.get_by_id("users", 1))["score"] == 7
    await other.execute("ALTER TABLE users ADD COLUMN rank integer DEFAULT 8")
    assert (await db.fetch("users"))[0]["rank"] == 8
    await other.execute("ALTER TABLE users ADD COLUMN level integer DEFAULT 9")
    assert await db.count("users", {"level": 9}) == 1
    await other.execute("ALTER TABLE users ADD COLUMN more integer DEFAULT 3")
    assert (await db.update_by_id("users", 1, {"score": 1}))["more"] == 3
    await other.execute("ALTER TABLE users ADD COLUMN last integer DEFAULT 4")
    async with database.get_db_transaction() as conn:
        assert "last" in [column["name"] for column in await db.describe_table("users", conn=conn)]
    assert (await db.insert("users", {"id": 5}))["last"] == 4


async def test_a_dropped_or_changed_column_is_seen_at_once(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """A statement that fails for a changed table is tried once more with fresh knowledge."""
    await db.get_by_id("users", 1)
    await other.execute('ALTER TABLE users DROP COLUMN "displayName"')
    assert "displayName" not in await db.get_by_id("users", 1)
    await other.execute("ALTER TABLE users RENAME COLUMN user_id TO member_id")
    assert (await db.get_by_id("users", 1))["member_id"] == 10
    await db.update("users", {"member_id": 11}, {"id": 1})
    await other.execute("ALTER TABLE users ALTER COLUMN member_id TYPE text")
    assert (await db.update_by_id("users", 1, {"member_id": "twelve"}))["member_id"] == "twelve"
    await other.execute("ALTER TABLE users ALTER COLUMN member_id TYPE jsonb USING to_jsonb(member_id)")
    assert (await db.get_by_id("users", 1))["member_id"] == "twelve"
    await other.execute("CREATE TYPE mood AS ENUM ('sad'); ALTER TABLE users ADD COLUMN mood mood")
    await db.update_by_id("users", 1, {"mood": "sad"})
    with pytest.raises(InvalidDataError, match="column 'mood' of table 'users' needs one of sad"):
        await db.update_by_id("users", 1, {"mood": "ok"})
    await other.execute("ALTER TYPE mood ADD VALUE 'ok'")
    assert (await db.update_by_id("users", 1, {"mood": "ok"}))["mood"] == "ok"


async def test_concurrent_calls_survive_a_change(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """Two hundred calls on their way while columns come and go: each gets its row."""
    await other.executemany("INSERT INTO users (id) VALUES ($1)", [(n,) for n in range(2, 202)])
    for round_ in range(5):
        calls = [asyncio.create_task(db.get_by_id("users", n)) for n in range(2, 202)]
        await other.execute(f"ALTER TABLE users ADD COLUMN extra{round_} integer DEFAULT {round_}")
        assert [row["id"] for row in await asyncio.gather(*calls)] == list(range(2, 202))
        rows = await asyncio.gather(*(db.get_by_id("users", n) for n in range(2, 202)))
        assert {row[f"extra{round_}"] for row in rows} == {round_}


async def test_a_table_that_is_made_again_is_another_table(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """Dropped: an error that says so. Made again with other columns: those are used."""
    await db.get_by_id("users", 1)
    await other.execute("DROP TABLE users")
    with pytest.raises(SchemaError, match="Table 'users' not found"):
        await db.get_by_id("users", 1)
    await other.execute("CREATE TABLE users (id text PRIMARY KEY, note text)")
    assert await db.insert("users", {"id": "a", "note": "n"}) == {"id": "a", "note": "n"}
    assert await db.get_by_id("users", "a") == {"id": "a", "note": "n"}


async def test_inside_of_a_transaction_a_new_column_breaks_nothing(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """A transaction does not fail because somebody has added a column; what it makes itself it can use."""
    await db.get_by_id("users", 1)
    await other.execute("ALTER TABLE users ADD COLUMN score integer DEFAULT 7")
    async with database.get_db_transaction() as conn:
        assert (await db.get_by_id("users", 1, conn=conn))["user_id"] == 10
        assert (await db.update_by_id("users", 1, {"score": 8}, conn=conn))["score"] == 8
        await conn.execute("CREATE TABLE fresh (id integer PRIMARY KEY)")
        await db.insert("fresh", {"id": 1}, conn=conn)
    assert await db.count("fresh") == 1
    async with database.get_db_transaction() as conn:
        await conn.execute("ALTER TABLE fresh ADD COLUMN note text")
        assert await db.insert("fresh", {"id": 2, "note": "n"}, conn=conn) == {"id": 2, "note": "n"}


async def test_a_transaction_that_meets_a_dropped_column_fails_once(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """Its statement cannot be repeated; the next transaction knows."""
    await db.get_by_id("users", 1)
    await other.execute("ALTER TABLE users DROP COLUMN user_id")
    with pytest.raises(RepositoryError) as caught:
        async with database.get_db_transaction() as conn:
            await db.get_by_id("users", 1, conn=conn)
    assert caught.value.sqlstate == "42703"
    async with database.get_db_transaction() as conn:
        assert "user_id" not in await db.get_by_id("users", 1, conn=conn)


async def test_what_a_transaction_does_to_a_table_is_its_own_until_it_is_committed(
    other: asyncpg.Connection[asyncpg.Record],
) -> None:
    """Rolled back, it was never there: no other transaction fails for it."""
    await db.get_by_id("users", 1)
    with pytest.raises(KeyError):
        async with database.get_db_transaction() as conn:
            await conn.execute("ALTER TABLE users DROP COLUMN categories, ADD COLUMN mine integer DEFAULT 1")
            await db.describe_table("users", conn=conn)
            assert (await db.get_by_id("users", 1, conn=conn))["mine"] == 1
            assert await db.count("users", {"mine": 1}, conn=conn) == 1
            await conn.execute("CREATE TABLE gone (id integer PRIMARY KEY)")
            await db.insert("gone", {"id": 1}, conn=conn)
            raise KeyError
    async with database.get_db_transaction() as conn:
        assert "categories" in await db.get_by_id("users", 1, conn=conn)
        with pytest.raises(SchemaError, match="Table 'gone' not found"):
            await db.fetch("gone", conn=conn)
    await db.get_by_id("users", 1)
    async with database.get_db_transaction(isolation="repeatable_read") as conn:
        await conn.execute("SELECT 1")
        await other.execute("ALTER TABLE users DROP COLUMN categories")
        assert "categories" not in await db.get_by_id("users", 1)
        await db.describe_table("users", conn=conn)
        async with database.get_db_transaction() as second:
            assert "categories" not in await db.get_by_id("users", 1, conn=second)


async def test_a_column_of_another_type_is_read_as_that_type(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """Also where the server would not refuse the statement that knows it as it was."""
    await other.execute("ALTER TABLE users ADD COLUMN key text DEFAULT '12345678-1234-5678-1234-567812345678'")
    await db.get_by_id("users", 1)
    before = (await db.fetch("users"))[0]["key"]
    await other.execute("ALTER TABLE users ALTER COLUMN key DROP DEFAULT, ALTER COLUMN key TYPE uuid USING key::uuid")
    for row in (await db.get_by_id("users", 1), (await db.fetch("users"))[0]):
        assert row["key"] == before
        assert type(row["key"]) is str


async def test_lanes_of_tables_that_have_changed_are_let_go(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """Also those that were busy when the change was noticed."""
    for number in range(5):
        await other.execute(f"ALTER TABLE users ADD COLUMN extra{number} integer")
        await asyncio.gather(*(db.get_by_id("users", 1) for _ in range(50)))
    pool = await database.get_connection_pool()
    assert len(pool.companions) <= 2


@pytest.mark.usefixtures("other")
async def test_wrong_values_at_once_have_the_catalog_read_once_or_twice() -> None:
    """Each refused value makes it be looked whether the table has changed; all who ask meanwhile get that answer."""
    await db.get_by_id("users", 1)
    await db.fetch("users")
    pool = await database.get_connection_pool()
    before = pool.get_stats()["requests"]
    results = await asyncio.gather(
        *(db.fetch("users", {"user_id": "wrong"}) for _ in range(200)), return_exceptions=True
    )
    assert {type(result) for result in results} == {InvalidDataError}
    assert pool.get_stats()["requests"] - before <= 2


async def test_each_connection_of_others_is_its_own_database(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """What is known of the default database is not taken for true on a connection to another one."""
    await db.get_by_id("users", 1)
    await other.execute(
        "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.users (id integer PRIMARY KEY, only_here text)"
    )
    assert await db.insert("users", {"id": 1, "onlyHere": "x"}, schema="elsewhere", conn=other) == {
        "id": 1,
        "only_here": "x",
    }
    assert (await db.get_by_id("users", 1, conn=other))["user_id"] == 10


async def test_describe_and_list(other: asyncpg.Connection[asyncpg.Record]) -> None:
    """What tables there are, and what their columns are."""
    await other.execute("""
        CREATE TABLE orders (
            id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            code varchar(10) NOT NULL UNIQUE,
            net numeric(8, 2) DEFAULT 0,
            gross numeric GENERATED ALWAYS AS (net * 2) STORED
        )
    """)
    common = {"primary_key": False, "unique": False, "generated": False, "default": None, "nullable": True}
    assert await db.describe_table("orders") == [
        common
        | {"name": "id", "type": "integer", "nullable": False, "primary_key": True, "unique": True, "generated": True},
        common | {"name": "code", "type": "character varying(10)", "nullable": False, "unique": True},
        common | {"name": "net", "type": "numeric(8,2)", "default": "0"},
        common | {"name": "gross", "type": "numeric", "default": "(net * (2)::numeric)", "generated": True},
    ]
    assert {"orders", "users"} <= set(await db.list_tables())
    assert await db.list_tables(schema="nowhere") == []
    assert await db.table_exists("orders")
    assert not await db.table_exists("orders", schema="nowhere")
    assert not await db.table_exists("x\0y")
    assert not await db.schema_exists("nowhere")
    assert (await asyncio.gather(*(db.create_schema('we"ird; DROP') for _ in range(10)))).count(True) == 1
    assert await db.schema_exists('we"ird; DROP')
    for name in ("", "x" * 64, "pg_own", "a\0b"):
        with pytest.raises(SchemaError, match="the name of a schema has 1 to 63 bytes"):
            await db.create_schema(name)
    with pytest.raises(InvalidDataError, match="column 'gross' of table 'orders' is made by the server alone"):
        await db.insert("orders", {"code": "x", "gross": 1})
