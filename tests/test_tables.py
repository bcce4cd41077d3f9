"""Tables made by arguments, against a real server."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import database as db
from database import repository
from database.settings import Settings
from database.tables import ColumnOptions


@pytest.fixture(autouse=True)
async def _server(empty_database: Settings) -> None:
    pass


async def described(name: str, schema: str = "public") -> dict[str, tuple[str, bool, str | None]]:
    columns = await repository.describe_table(name, schema=schema)
    return {each["name"]: (each["type"], each["nullable"], each["default"]) for each in columns}


async def test_the_mixins_of_core_db_as_arguments() -> None:
    """A key, times, and the columns asked for, in that order."""
    assert await db.create_table("users", {"name": "varchar(100) not null", "email": "varchar(255) NOT NULL UNIQUE"})
    assert await described("users") == {
        "id": ("uuid", False, "gen_random_uuid()"),
        "name": ("character varying(100)", False, None),
        "email": ("character varying(255)", False, None),
        "created_at": ("timestamp with time zone", False, "clock_timestamp()"),
        "updated_at": ("timestamp with time zone", False, "clock_timestamp()"),
    }
    user = await repository.insert("users", {"name": "Jane", "email": "jane@example.com"})
    changed = await repository.update_by_id("users", user["id"], {"name": "Joe"})
    assert changed["updated_at"] > user["updated_at"] and changed["created_at"] == user["created_at"]
    again = await repository.upsert("users", {"name": "Ann", "email": "jane@example.com"}, "email")
    assert again["updated_at"] > changed["updated_at"] and not again["inserted"]


@pytest.mark.parametrize(
    ("key", "type_", "example"),
    [("uuid", "uuid", str), ("uuid_text", "character varying(36)", str), ("identity", "bigint", int)],
)
async def test_every_kind_of_key(key: Any, type_: str, example: type) -> None:
    """Made by itself, and taken where it is given."""
    await db.create_table("things", {"name": "text"}, key=key, timestamps=False, uuid_column=True)
    assert list(await described("things")) == ["id", "uuid", "name"]
    assert (await described("things"))["id"][0] == type_
    row = await repository.insert("things", {"name": "a"})
    assert type(row["id"]) is example and len(row["uuid"]) == 36
    assert await repository.get_by_uuid("things", row["uuid"]) == row
    given_id = 17 if key == "identity" else "0195f000-0000-7000-8000-000000000000"
    assert (await repository.insert("things", {"id": given_id}))["id"] == given_id


async def test_keys_of_ones_own() -> None:
    """A list of columns, or none; unique keys and indexes beside it."""
    await db.create_table(
        "members",
        {"team": "text", "person": "integer", "place": "integer not null"},
        key=["team", "person"], timestamps=False, unique=[("team", "place")], indexes=["person", ("place", "team")],
    )  # fmt: skip
    row = {"team": "a", "person": 1, "place": 1}
    assert (await repository.upsert("members", row))["inserted"] is True
    assert (await repository.upsert("members", row | {"place": 2}, ["team", "person"]))["inserted"] is False
    definitions = await repository.execute_raw(
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'members' ORDER BY indexname"
    )
    assert [each["indexdef"].partition("(")[2] for each in definitions] == [
        "person)", "team, person)", "place, team)", "team, place)",
    ]  # fmt: skip
    assert await db.create_table("bare", {}, key=None, timestamps=False)
    assert await described("bare") == {}


async def test_types_are_postgresqls() -> None:
    """Modifiers, arrays, long names, domains and enums of one's own; the words behind them in any case."""
    async with db.get_db_connection() as conn:
        await conn.execute(
            "CREATE SCHEMA mine; CREATE TYPE mine.\"Mood; --\" AS ENUM ('sad'); CREATE DOMAIN age AS int"
        )
    types = {
        "a": "numeric(10, 2)", "b": "timestamp(3) with time zone", "c": "INTEGER[][] Not  Null", "d": "age",
        "e": 'mine."Mood; --"[]', "f": "double precision unique", "g": "interval day to second", "h": "jsonb NULL",
        "i": "pg_catalog.text", "j": "timestamptz UNIQUE NOT NULL",
    }  # fmt: skip
    await db.create_table("things", types, key=None, timestamps=False)
    found = await described("things")
    assert [each[0] for each in found.values()] == [
        "numeric(10,2)", "timestamp(3) with time zone", "integer[]", "age", 'mine."Mood; --"[]', "double precision",
        "interval day to second", "jsonb", "text", "timestamp with time zone",
    ]  # fmt: skip
    assert [name for name, each in found.items() if not each[1]] == ["c", "j"]


async def test_defaults_are_values_of_the_column() -> None:
    """Texts with quotes, numbers, JSON, lists; some functions; a text that is called like one is a text."""
    columns: dict[str, str | ColumnOptions] = {
        "a": {"type": "text", "default": "it's \\ {now()}", "nullable": False},
        "b": {"type": "integer", "default": 0},
        "c": {"type": "jsonb", "default": {"a": ["it's"]}},
        "d": {"type": "text[]", "default": ["a,b", 'c"d', "e'f"]},
        "e": {"type": "boolean", "default": False},
        "f": {"type": "numeric(5, 2)", "default": Decimal("1.50")},
        "g": {"type": "timestamptz", "default": "now()", "comment": "it's when"},
        "h": {"type": "text", "default": "now()"},
        "i": {"type": "uuid", "default": "gen_random_uuid()", "unique": True},
    }
    await db.create_table("things", columns, timestamps=False)
    row = await repository.insert("things", {})
    assert [row[name] for name in "abcdef"] == [
        "it's \\ {now()}", 0, {"a": ["it's"]}, ["a,b", 'c"d', "e'f"], False, Decimal("1.50"),
    ]  # fmt: skip
    assert row["g"].tzinfo and row["h"] == "now()" and len(row["i"]) == 36
    comments = await repository.execute_raw("SELECT col_description('things'::regclass, 8) AS text")
    assert comments == [{"text": "it's when"}]
    with pytest.raises(db.InvalidDataError, match="column 'n' of table 'wrong'"):
        await db.create_table("wrong", {"n": {"type": "integer", "default": "many"}})
    assert not await repository.table_exists("wrong")


async def test_references() -> None:
    """To the primary key of another table, of the same schema or of another one."""
    await repository.create_schema("shop")
    await db.create_table("users", {})
    await db.create_table("orders", {"user_id": {"type": "uuid", "references": ("public", "users")}}, schema="shop")
    items: ColumnOptions = {"type": "uuid", "references": "orders", "on_delete": "CASCADE", "nullable": False}
    await db.create_table("items", {"order_id": items}, schema="shop")
    user = await repository.insert("users", {})
    order = await repository.insert("orders", {"user_id": user["id"]}, schema="shop")
    await repository.insert("items", {"order_id": order["id"]}, schema="shop")
    with pytest.raises(db.RepositoryError) as caught:
        await repository.delete_by_id("users", user["id"])
    assert caught.value.sqlstate == "23503"
    await repository.delete_by_id("orders", order["id"], schema="shop")
    assert await repository.count("items", schema="shop") == 0
    with pytest.raises(db.SchemaError, match="cannot create table 'x'"):
        await db.create_table("x", {"y": {"type": "uuid", "references": "nowhere"}})


async def test_a_trigger_only_if_asked_for() -> None:
    """Then the server keeps updated_at, also for SQL of one's own; a value that is given stays."""
    for name in ("kept", "kept too", "left"):
        await db.create_table(name, {"n": "integer"}, trigger=name != "left")
    for name in ("kept", "kept too", "left"):
        row = await repository.insert(name, {"n": 1})
        await repository.execute_raw(f'UPDATE "{name}" SET n = 2')
        after = await repository.get_by_id(name, row["id"])
        assert (after["updated_at"] > row["updated_at"]) is (name != "left")
        fixed = await repository.update_by_id(name, row["id"], {"updated_at": "2000-01-01T00:00:00Z"})
        assert fixed["updated_at"].year == 2000
    with pytest.raises(db.SchemaError, match="timestamps=True"):
        await db.create_table("x", {}, timestamps=False, trigger=True)


async def test_a_table_that_is_there_is_left_alone() -> None:
    """Also where many ask at once."""
    made = await asyncio.gather(*[db.create_table("users", {"name": "text"}, trigger=True) for _ in range(50)])
    assert sorted(made) == [False] * 49 + [True]
    assert await db.create_table("users", {"other": "integer"}) is False
    assert "other" not in await described("users")


async def test_in_the_callers_transaction() -> None:
    """What is made there goes with it, and an error there spoils nothing."""
    with pytest.raises(RuntimeError):
        async with db.get_db_transaction() as conn:
            assert await db.create_table("users", {"name": {"type": "text", "default": "x"}}, conn=conn)
            with pytest.raises(db.SchemaError, match="no type 'nonsense'"):
                await db.create_table("others", {"name": "nonsense"}, conn=conn)
            assert (await repository.insert("users", {}, conn=conn))["name"] == "x"
            raise RuntimeError
    assert not await repository.table_exists("users")
    assert await db.create_table("users", {"other": "text"})
    assert (await repository.insert("users", {"other": "y"}))["other"] == "y"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "the name of a table has 1 to 63 bytes"),
        ({"name": "a\0b"}, "the name of a table"),
        ({"schema": "x" * 64}, "the name of a schema"),
        ({"columns": {"": "text"}}, "the name of a column"),
        ({"columns": {"a": "serial"}}, "column 'a' of table 't': there is no type 'serial'; .* key='identity'"),
        ({"columns": {"a": "text default 'x'"}}, "only NOT NULL and UNIQUE are read"),
        ({"columns": {"a": "text default 1"}}, "there is no type 'text default 1'"),
        ({"columns": {"a": "text primary key"}}, "there is no type"),
        ({"columns": {"a": "text, b text"}}, "there is no type"),
        ({"columns": {"a": "text); DROP TABLE canary; --"}}, "is no type"),
        ({"columns": {"a": "text --"}}, "is no type"),
        ({"columns": {"a": "text /* x */"}}, "is no type"),
        ({"columns": {"a": "setof text"}}, "there is no type"),
        ({"columns": {"a": "record"}}, "there is no type 'record'"),
        ({"columns": {"a": "varchar(0)"}}, "there is no type"),
        ({"columns": {"a": "nowhere.type"}}, "there is no type"),
        ({"columns": {"a": ""}}, "is no type"),
        ({"columns": {"a": 1}}, "give the name of its type"),
        ({"columns": {"a": {"default": 1}}}, "give the name of its type"),
        ({"columns": {"a": {"type": "text", "size": 1}}}, "not 'size'"),
        ({"columns": {"a": {"type": "text", "on_delete": "cascade"}}}, "on_delete needs references"),
        ({"columns": {"a": {"type": "text", "references": "t", "on_delete": "drop"}}}, "on_delete is one of"),
        ({"columns": {"a": {"type": "text", "references": ("a", "b", "c")}}}, "references is a table"),
        ({"columns": {"id": "text"}}, "two columns 'id'"),
        ({"columns": {"updated_at": "text"}}, "two columns 'updated_at'"),
        ({"columns": {"uuid": "text"}, "uuid_column": True}, "two columns 'uuid'"),
        ({"key": "serial"}, "key is one of uuid, uuid_text, identity"),
        ({"key": ["b"]}, "key is a list of its columns: a, created_at"),
        ({"key": [1]}, "names are a str or a list of str"),
        ({"unique": "a"}, "unique is a list of columns"),
        ({"unique": ["b"]}, "unique lists its columns"),
        ({"indexes": [[]]}, "indexes lists its columns"),
        ({"schema": "nowhere"}, "cannot create table 't'"),
    ],
)
async def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    """Whatever is no name, no type and no option is an error that says so, and nothing is made."""
    with pytest.raises(db.SchemaError, match=message):
        await db.create_table(**{"name": "t", "columns": {"a": "text"}} | arguments)
    assert await repository.list_tables() == []


_HOSTILE = st.text(st.sampled_from("a\"'`;-/*()[].,\\$ \n{}%\0é") | st.characters(), max_size=20)
_TYPES = st.sampled_from(["text", "int", "canary", "varchar(5)", 'x"', "); DROP TABLE canary", "--", "/*", "'"])


async def test_nothing_hostile_becomes_sql() -> None:
    """Whatever the texts are, the canary lives, and a table that is made has the columns asked for."""
    await repository.execute_raw("CREATE TABLE canary (id integer)")
    loop = asyncio.get_running_loop()

    async def attempt(name: str, column: str, type_: str, default: str, comment: str) -> None:
        options: ColumnOptions = {"type": type_, "default": default, "comment": comment}
        try:
            await db.create_table(name, {column: options}, timestamps=False)
        except db.DatabaseError:
            return
        if name != "canary":
            assert list(await described(name)) == ["id", column]
            assert (await repository.insert(name, {}))[column] == default
            await repository.execute_raw('DROP TABLE "{}"'.format(name.replace('"', '""')))

    cases: list[tuple[str, str, str, str, str]] = []
    types = st.lists(_TYPES | _HOSTILE, max_size=3).map(" ".join) | st.just("text")

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(_HOSTILE, _HOSTILE, types, _HOSTILE, _HOSTILE))
    def collect(case: tuple[str, str, str, str, str]) -> None:
        cases.append(case)

    await loop.run_in_executor(None, collect)
    for case in cases:
        await attempt(*case)
    assert await repository.list_tables() == ["canary"]
