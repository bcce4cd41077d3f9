"""Any table: what goes in comes out, one row or many, alone or at once; against a real server."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_interface, ip_network
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import BaseModel, SecretStr

import database
from database import (
    ColumnMatchError,
    DatabaseError,
    InvalidDataError,
    OutcomeUnknownError,
    RecordNotFoundError,
    RepositoryError,
    Settings,
    close_connection_pool,
    get_connection_pool,
)
from database import repository as db
from database.settings import configure
from tests.proxy import proxy_to

from .conftest import direct_dsn

_TABLES = """
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TYPE pair AS (amount integer, note text, mood mood);
    CREATE TABLE users (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        name text NOT NULL,
        email varchar(50) UNIQUE,
        age integer,
        updated_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE items (id bigserial PRIMARY KEY, name text, quantity integer DEFAULT 1);
    CREATE TABLE places (country text, code text, name text, PRIMARY KEY (country, code));
    CREATE TABLE kinds (
        id integer PRIMARY KEY,
        a_jsonb jsonb, a_json json, a_bool boolean, a_small smallint, a_int integer, a_big bigint,
        a_real real, a_double double precision, a_numeric numeric(6, 2), a_text text, a_varchar varchar(5),
        a_char char(3), a_name name,
        a_bytea bytea, a_uuid uuid, a_date date, a_time time, a_timetz timetz, a_timestamp timestamp,
        a_timestamptz timestamptz, a_interval interval, an_inet inet, a_cidr cidr, a_mood mood, a_pair pair,
        a_range int4range, a_tsrange tstzrange, a_multirange int4multirange, a_point point,
        texts text[], ints integer[], uuids uuid[], jsons jsonb[], moods mood[], pairs pair[], ranges int4range[],
        dates date[], byteas bytea[], bools boolean[]
    )
"""


@pytest.fixture(autouse=True)
async def tables(database: Settings) -> AsyncIterator[None]:
    """Tables with a uuid key, a counted one, one of two columns, and one with a column of every kind."""
    await _execute(_TABLES)
    yield


async def _execute(script: str) -> None:
    async with database.get_db_connection() as conn:
        await conn.execute(script)


class Colour(enum.Enum):
    RED = "red"


class Mood(enum.Enum):
    OK = "ok"


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Inner(BaseModel):
    when: datetime
    tags: set[str]


class Index:  # what numpy's integers have
    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


class Float(float):  # as numpy's
    def __repr__(self) -> str:
        return f"np.float64({float(self)})"


_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")
_MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
_AT_TWO = timezone(timedelta(hours=2))
_NASTY = ["a,b", '"', "\\", "{}", "NULL", "", " ", "ü", "null", "(,)", "'"]

VALUES: list[tuple[str, Any, Any]] = [
    ("a_jsonb", {"a": [1, 2.5, None, True, "ü"], "b": {}}, ...),
    ("a_jsonb", [1, "two"], ...),
    ("a_jsonb", "text", ...),
    ("a_jsonb", 4711, ...),
    ("a_jsonb", True, ...),
    ("a_jsonb", None, None),
    ("a_jsonb", db.JSON_NULL, None),
    ("a_jsonb", {"at": _MOMENT, "on": date(2024, 2, 29)}, {"at": _MOMENT.isoformat(), "on": "2024-02-29"}),
    ("a_jsonb", {"id": _ID, "n": Decimal("1.10"), "c": Colour.RED}, {"id": str(_ID), "n": "1.10", "c": "red"}),
    ("a_jsonb", {"s": {3, 1, 2}, "p": Point(1, 2), "t": (1, 2)}, {"s": [1, 2, 3], "p": {"x": 1, "y": 2}, "t": [1, 2]}),
    ("a_jsonb", Inner(when=_MOMENT, tags={"a"}), {"when": "2024-02-29T12:30:15.123456Z", "tags": ["a"]}),
    ("a_jsonb", {"slash": "\\u0000"}, ...),
    ("a_json", {"b": 1, "a": [1]}, ...),
    ("a_json", "text", ...),
    ("a_bool", True, ...),
    ("a_small", -32768, ...),
    ("a_int", 2**31 - 1, ...),
    ("a_big", -(2**63), ...),
    ("a_real", 0.5, ...),
    ("a_double", 1e300, ...),
    ("a_double", 3, 3.0),
    ("a_double", float("inf"), ...),
    ("a_numeric", Decimal("1234.56"), ...),
    ("a_numeric", "-0.10", Decimal("-0.10")),
    ("a_numeric", 0.1, Decimal("0.10")),
    ("a_numeric", 7, Decimal("7.00")),
    ("a_numeric", "9999.994", Decimal("9999.99")),
    ("a_numeric", Index(3), Decimal("3.00")),
    ("a_numeric", Float(0.1), Decimal("0.10")),
    ("a_text", "", ...),
    ("a_text", "Zeile\r\n\t\U0001f600", ...),
    ("a_text", _ID, str(_ID)),
    ("a_varchar", "12345", ...),
    ("a_varchar", "12345   ", "12345"),
    ("a_char", "ab", "ab "),
    ("a_bytea", b"\0\xff\\x", ...),
    ("a_bytea", bytearray(b"ab"), b"ab"),
    ("a_uuid", _ID, str(_ID)),
    ("a_uuid", str(_ID).upper(), str(_ID)),
    ("a_date", "2024-02-29", date(2024, 2, 29)),
    ("a_date", date(1, 1, 1), ...),
    ("a_time", "12:30", time(12, 30)),
    ("a_timetz", time(12, 30), time(12, 30, tzinfo=UTC)),
    ("a_timestamp", "2024-02-29T12:30:15", datetime(2024, 2, 29, 12, 30, 15)),
    ("a_timestamp", datetime(2024, 2, 29, 14, 0, tzinfo=_AT_TWO), datetime(2024, 2, 29, 12, 0)),
    ("a_timestamptz", _MOMENT, ...),
    ("a_timestamptz", "2024-02-29T12:30:15.123456Z", _MOMENT),
    ("a_timestamptz", "2024-02-29T14:30:15.123456+02:00", _MOMENT),
    ("a_timestamptz", _MOMENT.replace(tzinfo=None), _MOMENT),
    ("a_timestamptz", date(2024, 2, 29), datetime(2024, 2, 29, tzinfo=UTC)),
    ("a_interval", timedelta(days=-3, seconds=5, microseconds=7), ...),
    ("a_interval", "P1DT2H", timedelta(days=1, hours=2)),
    ("an_inet", "10.1.2.3/8", ip_interface("10.1.2.3/8")),
    ("an_inet", ip_interface("::1/64"), ...),
    ("a_cidr", "10.0.0.0/8", ip_network("10.0.0.0/8")),
    ("a_mood", "ok", ...),
    ("a_mood", Mood.OK, "ok"),
    ("a_pair", {"amount": 1, "note": 'a"b\\,()', "mood": "sad"}, ...),
    ("a_pair", (None, "", None), {"amount": None, "note": "", "mood": None}),
    ("a_range", (1, 5), asyncpg.Range(1, 5)),
    ("a_range", asyncpg.Range(empty=True), ...),
    ("a_range", range(3, 7), asyncpg.Range(3, 7)),
    ("a_tsrange", ("2024-02-29", None), asyncpg.Range(datetime(2024, 2, 29, tzinfo=UTC), None)),
    ("a_multirange", [(1, 2), (4, 6)], [asyncpg.Range(1, 2), asyncpg.Range(4, 6)]),
    ("a_multirange", [], ...),
    ("a_point", "(1,2)", ...),
    ("texts", _NASTY, ...),
    ("texts", [], ...),
    ("texts", ["a", None], ...),
    ("texts", ("a", "b"), ["a", "b"]),
    ("ints", [[1, 2], [3, 4]], ...),
    ("ints", [[[1], [2]], [[3], [None]]], ...),
    ("ints", {7}, [7]),
    ("uuids", [_ID, str(_ID), None], [str(_ID), str(_ID), None]),
    ("jsons", [{"a": 1}, [1, 2], "s", 1, None, db.JSON_NULL], [{"a": 1}, [1, 2], "s", 1, None, None]),
    ("jsons", [[1, 2], [3]], ...),
    ("moods", ["sad", None, "happy"], ...),
    ("pairs", [{"amount": 1, "note": _NASTY[1], "mood": None}, None], ...),
    ("ranges", [(1, 2), None], [asyncpg.Range(1, 2), None]),
    ("dates", ["2024-02-29", None], [date(2024, 2, 29), None]),
    ("byteas", [b"\0\\", b""], ...),
    ("bools", [True, False, None], ...),
]  # fmt: skip


@pytest.mark.parametrize("on", ["pool", "conn", "foreign"])
async def test_values_come_back_as_python_means_them(on: str, database: Settings) -> None:
    """Every kind of column, each way to store a row, also on connections that know nothing of the package."""
    connection = await asyncpg.connect(direct_dsn(database)) if on == "foreign" else None
    expected: dict[int, tuple[str, Any]] = {}
    rows = []
    for number, (column, given, returned) in enumerate(VALUES):
        rows.append({"id": number, column: given})
        expected[number] = (column, given if returned is ... else returned)

    async def check(stored: dict[str, Any]) -> None:
        column, value = expected[stored["id"] % 1_000]
        assert stored[column] == value
        assert type(stored[column]) is type(value) or isinstance(value, uuid.UUID)

    async def store(conn: Any) -> None:
        for row in rows:
            await check(await db.insert("kinds", row, conn=conn))
            await check(await db.get_by_id("kinds", row["id"], conn=conn))
        many = [row | {"id": row["id"] + 1_000} for row in rows]
        for stored in await db.insert_many("kinds", many, returning=True, conn=conn):
            await check(stored)
        for stored in await db.upsert_many("kinds", many, returning=True, conn=conn):
            await check(stored)
        for row in rows:
            values = {name: value for name, value in row.items() if name != "id"}
            await check(await db.update_by_id("kinds", row["id"], values, conn=conn))

    if on == "conn":
        async with _transaction() as conn:
            await store(conn)
    else:
        await store(connection)
    if connection is not None:
        await connection.close()
    concurrent = [row | {"id": row["id"] + 2_000} for row in rows]
    for stored in await asyncio.gather(*(db.insert("kinds", row) for row in concurrent)):
        await check(stored)
    for stored in await asyncio.gather(*(db.upsert("kinds", row) for row in concurrent)):
        await check(stored)
    for stored in await asyncio.gather(*(db.get_by_id("kinds", row["id"]) for row in concurrent)):
        await check(stored)


def _transaction() -> Any:
    return database.get_db_transaction()


async def test_many_rows_by_copy_are_the_same_rows() -> None:
    """A thousand rows take the way of COPY; jsonb, arrays and NULLs come out as they went in."""
    rows = [
        {"id": n, "a_jsonb": {"n": n, "s": "\\u0000 ü"} if n % 3 else None, "jsons": [{"n": n}, [n], None],
         "texts": _NASTY, "a_timestamptz": "2024-02-29T12:30:15.123456Z", "a_numeric": "1.5", "uuids": [str(_ID)],
         "ints": [[n], [n]]}
        for n in range(1_000)
    ]  # fmt: skip
    assert await db.insert_many("kinds", rows) == 1_000
    stored = await db.fetch("kinds", order_by="id")
    assert [row["a_jsonb"] for row in stored] == [row["a_jsonb"] for row in rows]
    assert [row["jsons"] for row in stored] == [row["jsons"] for row in rows]
    last = stored[-1]
    assert (last["texts"], last["a_timestamptz"], last["a_numeric"]) == (_NASTY, _MOMENT, Decimal("1.50"))
    assert (last["uuids"], last["ints"]) == ([str(_ID)], [[999], [999]])
    assert await db.count("kinds", {"a_jsonb": {"$is_null": True}}) == 334


async def test_the_null_of_json_and_the_null_of_sql() -> None:
    """Both can be stored, both are read as None, and a condition tells them apart."""
    await db.insert("kinds", {"id": 1, "a_jsonb": None})
    await db.insert("kinds", {"id": 2, "a_jsonb": db.JSON_NULL})
    assert [row["id"] for row in await db.fetch("kinds", {"a_jsonb": None})] == [1]
    assert [row["id"] for row in await db.fetch("kinds", {"a_jsonb": db.JSON_NULL})] == [2]


REFUSED: list[tuple[str, Any, str]] = [
    ("a_jsonb", {"n": float("nan")}, "needs JSON"),
    ("a_jsonb", {"n": float("inf")}, "needs JSON"),
    ("a_jsonb", {"o": object()}, "needs JSON: object is not JSON"),
    ("a_jsonb", {(1, 2): 3}, "needs JSON: the keys of an object are str"),
    ("a_jsonb", {"s": "a\0b"}, "cannot hold a text with a NUL character"),
    ("a_jsonb", {"s": "\ud800"}, "cannot hold a text with a lone surrogate"),
    ("a_bool", 1, "needs a bool, not int"),
    ("a_small", 2**15, "holds integers from -32768 to 32767; this one is out of range"),
    ("a_int", -(2**31) - 1, "out of range"),
    ("a_big", 2**63, "out of range"),
    ("a_int", True, "needs an int, not bool"),
    ("a_int", 1.0, "needs an int, not float"),
    ("a_int", "1", "needs an int, not str"),
    ("a_real", 1e39, "holds no number that is so large"),
    ("a_double", "1", "needs a float, not str"),
    ("a_double", 10**400, "holds no number that is so large"),
    ("a_numeric", "12345.6", "holds numbers of up to 4 digits before the point"),
    ("a_numeric", "9999.995", "holds numbers of up to 4 digits before the point"),
    ("a_numeric", True, "needs a Decimal, not bool"),
    ("a_numeric", "abc", "needs a Decimal, or its text"),
    ("a_name", "ü" * 32, "holds texts of up to 63 bytes"),
    ("a_numeric", Decimal("Infinity"), "does not hold infinity"),
    ("a_text", "a\0b", "cannot hold a text with a NUL character"),
    ("a_text", "\udfff", "cannot hold a text with a lone surrogate"),
    ("a_text", 1, "needs a str, not int"),
    ("a_varchar", "123456", "holds texts of up to 5 characters"),
    ("a_bytea", "text", "needs bytes, not str"),
    ("a_uuid", "no uuid", "needs a UUID, or its text"),
    ("a_uuid", 1, "needs a UUID, or its text, not int"),
    ("a_date", "29.2.2024", "needs a date, or its text in ISO 8601"),
    ("a_date", _MOMENT, "needs a date, not datetime"),
    ("a_time", time(1, tzinfo=UTC), "holds times without a zone"),
    ("a_timestamptz", "yesterday", "needs a datetime, or its text in ISO 8601"),
    ("a_timestamptz", datetime(1, 1, 1, tzinfo=_AT_TWO), "holds times of the years 1 to 9999"),
    ("a_interval", 5, "needs a timedelta, not int"),
    ("an_inet", "10.0.0.256", "needs an IP address, or its text"),
    ("a_cidr", "10.0.0.1/8", "needs an IP network, or its text"),
    ("a_mood", "furious", "needs one of sad, ok, happy"),
    ("a_pair", {"amount": 1, "other": 2}, "has the parts amount, note, mood, and no other"),
    ("a_pair", {"amount": "x"}, "has a part 'amount' that needs an int, not str"),
    ("a_range", (5, 1), "needs a range whose lower bound is not above the upper one"),
    ("a_range", "[1,5)", "needs a Range of asyncpg"),
    ("texts", "text", "needs a list, not str"),
    ("texts", ["a", 1], "needs a str, not int"),
    ("ints", [[1, 2], [3]], "needs an array whose parts are of the same length"),
    ("ints", [1, [2]], "needs an array whose parts are all lists, or none of them"),
    ("ints", [[[[[[[1]]]]]]], "holds arrays of up to 6 dimensions"),
    ("texts", {"a": 1}, "needs a list, not dict"),
]


@pytest.mark.parametrize(("column", "value", "reason"), REFUSED)
async def test_what_cannot_be_stored_is_refused_before_it_is_sent(column: str, value: Any, reason: str) -> None:
    """`InvalidDataError` with table, column and reason, by every way in; no transaction is spoilt."""
    row = {"id": 1, column: value}
    async with database.get_db_transaction() as conn:
        for call in (
            db.insert("kinds", row, conn=conn),
            db.insert_many("kinds", [row], conn=conn),
            db.upsert("kinds", row, conn=conn),
            db.update("kinds", {column: value}, {"id": 1}, conn=conn),
        ):
            with pytest.raises(InvalidDataError) as caught:
                await call
            assert str(caught.value).startswith(f"column {column!r} of table 'kinds' ")
            assert reason in str(caught.value)
            assert caught.value.sqlstate is None
        await db.insert("kinds", {"id": 2}, conn=conn)
    assert await db.count("kinds") == 1


async def test_a_column_that_contains_itself_is_refused() -> None:
    """No endless recursion."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidDataError, match="column 'a_jsonb' of table 'kinds' needs JSON"):
        await db.insert("kinds", {"id": 1, "a_jsonb": value})


async def test_vectors() -> None:
    """pgvector's types take lists and arrays of numpy and give lists; what has another dimension is refused."""
    try:
        await _execute("CREATE EXTENSION vector")
    except DatabaseError:
        pytest.skip("this server has no pgvector")
    await _execute(
        "CREATE TABLE parts (id integer PRIMARY KEY, v vector(3), h halfvec(3), s sparsevec(3), vs vector[])"
    )
    values = {"v": [1, 2.5, 0.1], "h": (1, 0, -1), "s": [0, 1.5, 0], "vs": [[1.0, 2.0], [3.0]]}
    returned = {"v": [1.0, 2.5, 0.1], "h": [1.0, 0.0, -1.0], "s": [0.0, 1.5, 0.0], "vs": [[1.0, 2.0], [3.0]]}
    assert await db.insert("parts", {"id": 1} | values) == {"id": 1} | returned
    await db.insert_many("parts", [{"id": n} | values for n in range(2, 500)])
    assert await db.get_by_id("parts", 499) == {"id": 499} | returned
    assert await db.count("parts", {"v": [1, 2.5, 0.1]}) == 499

    class Array:  # what numpy's arrays have
        def tolist(self) -> list[float]:
            return [1.0, 2.0, 3.0]

    assert (await db.update_by_id("parts", 1, {"v": Array()}))["v"] == [1.0, 2.0, 3.0]
    for value, reason in (
        ([1, 2], "has 3 dimensions, not 2"),
        ([1, 2, float("nan")], "holds finite numbers only"),
        ("[1,2,3]", "needs a list of float"),
        ([], "needs at least one dimension"),
    ):
        with pytest.raises(InvalidDataError, match=f"column 'v' of table 'parts' {reason}"):
            await db.insert("parts", {"id": 1_000, "v": value})
    with pytest.raises(InvalidDataError, match="column 'h' of table 'parts' holds finite numbers"):
        await db.insert("parts", {"id": 1_000, "h": [1e6, 1, 1]})


# --- single rows


async def test_a_row_is_stored_read_changed_and_deleted() -> None:
    """Plain fresh dicts; a key that is made here; what is not there raises `RecordNotFoundError`."""
    user = await db.insert("users", {"name": "Jane", "email": "j@x"}, schema="public")
    assert type(user) is dict
    assert list(user) == ["id", "name", "email", "age", "updated_at"]
    assert uuid.UUID(user["id"]).version == 7
    assert await db.get_by_id("users", user["id"]) == user
    assert await db.get_by_id("users", uuid.UUID(user["id"])) == user
    assert await db.get_by_uuid("users", user["id"]) == user
    assert await db.get_by_name("users", "Jane") == user
    assert await db.get_by_name("users", "j@x", name_column="email") == user
    assert await db.get_by_column("users", "age", None) == user
    changed = await db.update_by_id("users", user["id"], {"age": 30})
    assert changed == user | {"age": 30, "updated_at": changed["updated_at"]}
    assert changed["updated_at"] > user["updated_at"]
    assert await db.delete_by_id("users", user["id"]) == changed
    for call in (db.get_by_id("users", _ID), db.update_by_id("users", _ID, {"age": 1}), db.delete_by_id("users", _ID)):
        with pytest.raises(RecordNotFoundError, match="there is no row under this key in table 'users'"):
            await call
    assert await db.get_by_id_or_none("users", _ID) is None
    assert await db.get_by_uuid("users", _ID) is None
    assert await db.get_by_name("users", "Jane") is None
    assert await db.fetch_one("users") is None


async def test_keys_that_are_no_keys() -> None:
    """A key of the wrong type or None, and a table without a single key: a clear answer."""
    with pytest.raises(InvalidDataError, match="column 'id' of table 'items' needs an int, not str"):
        await db.get_by_id("items", "1")
    with pytest.raises(InvalidDataError, match="None is no key"):
        await db.delete_by_id("items", None)
    with pytest.raises(RepositoryError, match="the primary key of table 'places' has the columns country, code"):
        await db.get_by_id("places", "de")
    with pytest.raises(InvalidDataError, match="there is nothing to update in table 'items'"):
        await db.update_by_id("items", 1, {})
    with pytest.raises(ColumnMatchError, match="table 'items' has no column of type uuid"):
        await db.get_by_uuid("items", _ID)


async def test_many_by_id() -> None:
    """In the order asked for, without those that are not there; none at all without SQL."""
    ids = [row["id"] for row in await db.insert_many("users", [{"name": str(n)} for n in range(5)], returning=True)]
    rows = await db.get_many_by_id("users", [ids[3], str(_ID), ids[1], ids[3]])
    assert [row["id"] for row in rows] == [ids[3], ids[1], ids[3]]
    assert await db.get_many_by_id("users", []) == []
    await _execute("CREATE TABLE codes (code char(5) PRIMARY KEY); INSERT INTO codes VALUES ('a'), ('b')")
    assert await db.get_many_by_id("codes", ["b", "x", "a "]) == [{"code": "b    "}, {"code": "a    "}]
    assert await asyncio.gather(*(db.get_by_id("codes", "a") for _ in range(5))) == [{"code": "a    "}] * 5


async def test_defaults_and_generated_values_come_back() -> None:
    """What the database adds is in the row that insert returns, also where nothing is given."""
    assert await db.insert("items", {}) == {"id": 1, "name": None, "quantity": 1}
    assert await db.insert_many("items", [{}, {"name": "x"}, {}], returning=True) == [
        {"id": 2, "name": None, "quantity": 1},
        {"id": 4, "name": "x", "quantity": 1},
        {"id": 3, "name": None, "quantity": 1},
    ]


async def test_a_refused_row_says_which_constraint() -> None:
    """`RepositoryError` with the SQLSTATE; no value of the row in its text."""
    await db.insert("users", {"name": "a", "email": "secret@x"})
    with pytest.raises(RepositoryError, match="constraint users_email_key of table users") as caught:
        await db.insert("users", {"name": "a", "email": "secret@x"})
    assert caught.value.sqlstate == "23505"
    assert "secret" not in str(caught.value)
    with pytest.raises(RepositoryError, match="column name of table users is NOT NULL"):
        await db.insert("users", {"email": "b"})


async def test_update_and_delete_with_a_condition() -> None:
    """They return the rows, or their number; without a condition they refuse, unless all rows are meant."""
    await db.insert_many("items", [{"name": f"n{n}", "quantity": n} for n in range(10)])
    rows = await db.update("items", {"name": "few"}, {"quantity": {"$lt": 3}})
    assert sorted((row["quantity"], row["name"]) for row in rows) == [(0, "few"), (1, "few"), (2, "few")]
    assert await db.update("items", {"name": "none"}, {"quantity": 99}) == []
    assert await db.delete("items", {"name": "few"}, returning=False) == 3
    conditions: list[dict[str, Any] | None]
    conditions = [None, {}, {"$and": [{}]}, {"$or": [{"name": "x"}, {}]}, {"$and": [{"$and": [{}]}]}]
    for empty in conditions:
        for call in (db.update("items", {"name": "x"}, empty), db.delete("items", empty)):
            with pytest.raises(InvalidDataError, match="without a condition concerns every row: say all_rows=True"):
                await call
    assert await db.update("items", {"quantity": 0}, all_rows=True, returning=False) == 7
    assert len(await db.delete("items", all_rows=True)) == 7
    assert await db.count("items") == 0


async def test_updated_at_is_kept() -> None:
    """Every way to change a row sets it, unless the values do."""
    user = await db.insert("users", {"name": "a", "email": "e"})
    times = [user["updated_at"]]
    times.append((await db.update("users", {"age": 1}, {"email": "e"}))[0]["updated_at"])
    times.append((await db.upsert("users", {"name": "b", "email": "e"}, "email"))["updated_at"])
    await db.upsert_many("users", [{"name": "b", "email": "e"}], "email")
    times.append((await db.get_by_id("users", user["id"]))["updated_at"])
    assert times == sorted(set(times))
    assert (await db.update_by_id("users", user["id"], {"updated_at": "2000-01-01"}))["updated_at"].year == 2000


# --- upsert


async def test_upsert_says_whether_it_inserted() -> None:
    """New: True, replaced: False; columns that are not given stay as they are."""
    first = await db.upsert("users", {"name": "a", "email": "e", "age": 1}, "email")
    assert first.pop("inserted") is True
    second = await db.upsert("users", {"name": "b", "email": "e"}, ["email"])
    assert second["inserted"] is False
    assert (second["id"], second["name"], second["age"]) == (first["id"], "b", 1)
    assert (await db.upsert("places", {"country": "de", "code": "b"}))["inserted"] is True
    assert (await db.upsert("places", {"country": "de", "code": "b"}))["inserted"] is False
    with pytest.raises(InvalidDataError, match="table 'users' has no unique key on name; its unique keys: id; email"):
        await db.upsert("users", {"name": "a"}, "name")
    with pytest.raises(InvalidDataError, match="the key of an upsert needs values: email of table 'users'"):
        await db.upsert("users", {"name": "a"}, "email")


async def test_an_upsert_leaves_the_primary_key_of_the_row_that_is_there() -> None:
    """A key that a model makes by default does not replace the one that other tables refer to."""
    first = await db.upsert("users", {"id": _ID, "name": "a", "email": "e"}, "email")
    again = await db.upsert("users", {"id": uuid.uuid4(), "name": "b", "email": "e"}, "email")
    assert (again["id"], again["name"], again["inserted"]) == (first["id"], "b", False)
    await db.upsert_many("users", [{"id": uuid.uuid4(), "name": "c", "email": "e"}], "email")
    assert [(row["id"], row["name"]) for row in await db.fetch("users")] == [(str(_ID), "c")]


async def test_upsert_into_a_partitioned_table() -> None:
    """Its rows do not tell whether they are new, and the answer is right all the same."""
    await _execute("""
        CREATE TABLE parted (id integer PRIMARY KEY, note text) PARTITION BY HASH (id);
        CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 1, REMAINDER 0)
    """)
    results = await asyncio.gather(*(db.upsert("parted", {"id": 1, "note": str(n)}) for n in range(20)))
    assert [row["inserted"] for row in results].count(True) == 1
    assert await db.get_by_id("parted", 1) in [{"id": 1, "note": str(n)} for n in range(20)]
    rows = [{"id": n, "note": "many"} for n in (3, 1, 2)]
    told = await db.upsert_many("parted", rows, returning=True)
    assert [(row["id"], row["inserted"]) for row in told] == [(3, True), (1, False), (2, True)]
    assert await db.upsert_many("parted", rows) == 3


async def test_concurrent_upserts_of_one_key_leave_one_row() -> None:
    """Fifty at once: one row, one of them the insert."""
    results = await asyncio.gather(*(db.upsert("users", {"name": f"{n}", "email": "e"}, "email") for n in range(50)))
    assert [row["inserted"] for row in results].count(True) == 1
    assert await db.count("users") == 1


# --- many rows


@pytest.mark.parametrize("number", [0, 1, 7, 199, 200, 5_001])
async def test_many_rows_are_all_there(number: int) -> None:
    """By INSERT or by COPY, in the order given where they are returned."""
    rows = [{"name": f"n{n}", "quantity": number - n} for n in range(number)]
    assert await db.insert_many("items", rows) == number
    assert await db.count("items") == number
    stored = await db.insert_many("items", iter(rows), returning=True)
    assert [(row["name"], row["quantity"]) for row in stored] == [(row["name"], row["quantity"]) for row in rows]
    users = [{"email": f"e{n % 7}{n}", "name": "n"} for n in range(number)]
    told = await db.upsert_many("users", users, "email", returning=True)
    assert [(row["email"], row["inserted"]) for row in told] == [(row["email"], True) for row in users]
    assert await db.upsert_many("users", users, "email") == number
    assert await db.count("users") == number


async def test_many_rows_are_stored_all_or_none() -> None:
    """One that is refused, by us or by the server, and nothing of the call is stored."""
    for number in (10, 1_000):
        rows: list[dict[str, Any]] = [{"name": "n", "email": f"{n}"} for n in range(number)]
        for bad in ({"name": "a\0", "email": "x"}, {"name": None, "email": "x"}, {"email": "x"}):
            with pytest.raises(RepositoryError):
                await db.insert_many("users", [*rows, bad])
            with pytest.raises(RepositoryError):
                await db.upsert_many("users", [*rows, bad], "email")
    assert await db.count("users") == 0


async def test_the_same_key_twice_in_one_call_is_an_error() -> None:
    """It names the rows and the key, and holds no value."""
    rows = [{"name": "n", "email": f"secret{n % 5}"} for n in range(7)]
    for call in (db.insert_many("users", rows), db.upsert_many("users", rows, "email")):
        with pytest.raises(InvalidDataError) as caught:
            await call
        assert str(caught.value) == "rows 0 and 5 (counted from 0) have the same key email of table 'users'"
    assert await db.insert_many("users", [{"name": "n", "email": None}] * 3) == 3
    with pytest.raises(InvalidDataError, match=r"rows 1 and 2 .* have the same key country, code"):
        await db.upsert_many("places", [{"country": c, "code": "1"} for c in "abb"])


async def test_the_same_key_twice_is_found_across_rows_of_different_columns() -> None:
    """Whatever else they have values for; keys that only the server finds equal are told, too."""
    rows = [{"email": "same", "name": "a"}, {"email": "other", "name": "x"}, {"name": "b", "age": 1, "email": "same"}]
    for call in (db.insert_many("users", rows), db.upsert_many("users", rows, "email")):
        with pytest.raises(InvalidDataError, match=r"rows 0 and 2 .* have the same key email"):
            await call
    await _execute("CREATE TABLE padded (code char(3) PRIMARY KEY)")
    with pytest.raises(InvalidDataError, match="two of them have the same key, as the server compares keys"):
        await db.upsert_many("padded", [{"code": "a"}, {"code": "a "}])


async def test_many_rows_are_counted_by_the_server() -> None:
    """A trigger that drops rows is noticed, and a rule is obeyed."""
    await _execute("""
        CREATE FUNCTION drop_odd() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RETURN CASE WHEN NEW.quantity % 2 = 0 THEN NEW END; END $$;
        CREATE TRIGGER drop_odd BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION drop_odd();
        CREATE TABLE ruled (id integer PRIMARY KEY);
        CREATE RULE nothing AS ON INSERT TO ruled DO INSTEAD NOTHING
    """)
    for number in (10, 1_000):
        rows = [{"quantity": n} for n in range(number)]
        assert await db.insert_many("items", rows) == number // 2
        with pytest.raises(RepositoryError, match="the server did not return all of them"):
            await db.insert_many("items", rows, returning=True)
        assert await db.insert_many("ruled", [{"id": n} for n in range(number)]) == 0
    assert await db.count("items") == 505


async def test_many_rows_in_any_order_do_not_deadlock() -> None:
    """The same keys in opposite orders, at once, by insert and upsert: nobody waits for ever, nobody is refused."""
    rows = [{"name": "n", "email": f"e{n:04}"} for n in range(300)]
    await asyncio.gather(
        *(db.upsert_many("users", rows if round_ % 2 else rows[::-1], "email") for round_ in range(10))
    )
    assert await db.count("users") == 300


async def test_many_upserts_meet_a_row_that_is_stored_meanwhile(database: Settings) -> None:
    """New rows go straight into the table; where somebody is quicker with one of them, it is updated."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    other = await asyncpg.connect(direct_dsn(database))
    watcher = await asyncpg.connect(direct_dsn(database))
    try:
        async with other.transaction():
            await other.execute("INSERT INTO items (id, name) VALUES (1200, 'theirs')")
            upsert = asyncio.create_task(db.upsert_many("items", [{"id": n, "name": "many"} for n in range(2_500)]))
            async with asyncio.timeout(60):
                while not await watcher.fetchval(waiting):
                    assert not upsert.done()
        assert await upsert == 2_500
    finally:
        await other.close()
        await watcher.close()
    assert await db.count("items", {"name": "many"}) == await db.count("items") == 2_500
    assert await db.upsert_many("items", [{"id": n, "name": "again"} for n in range(1_000, 3_500)]) == 2_500
    assert await db.count("items", {"name": "again"}) == 2_500
    pairs = [{"country": str(n % 50), "code": str(n), "name": "n"} for n in range(2_500)]
    assert await db.upsert_many("places", pairs) == await db.upsert_many("places", pairs) == 2_500


async def test_rows_with_different_columns() -> None:
    """Each gets the defaults of what it lacks."""
    stored = await db.insert_many(
        "items", [{"name": "a"}, {"quantity": 5}, {"quantity": 6, "name": "c"}], returning=True
    )
    assert [(row["name"], row["quantity"]) for row in stored] == [("a", 1), (None, 5), ("c", 6)]


# --- concurrent calls


async def test_concurrent_calls_get_their_own_rows_and_their_own_errors() -> None:
    """Two hundred at once: inserts, reads, updates and deletions each get what is theirs; a bad one fails alone."""
    emails = [f"e{n}" for n in range(200)]
    emails[77] = emails[3]
    results = await asyncio.gather(
        *(db.insert("users", {"name": str(n), "email": email}) for n, email in enumerate(emails)),
        return_exceptions=True,
    )
    failed = [result for result in results if isinstance(result, RepositoryError)]
    assert [error.sqlstate for error in failed] == ["23505"]
    rows = [result for result in results if isinstance(result, dict)]
    assert {row["name"] for row in rows} | {"3", "77"} == {str(n) for n in range(200)}
    assert await asyncio.gather(*(db.get_by_id("users", row["id"]) for row in rows)) == rows
    missing = await asyncio.gather(*(db.get_by_id_or_none("users", uuid.uuid4()) for _ in range(50)))
    assert missing == [None] * 50
    changed = await asyncio.gather(*(db.update_by_id("users", row["id"], {"age": n}) for n, row in enumerate(rows)))
    assert [row["age"] for row in changed] == list(range(199))
    deleted = await asyncio.gather(*(db.delete_by_id("users", row["id"]) for row in rows * 2), return_exceptions=True)
    assert sum(isinstance(result, RecordNotFoundError) for result in deleted) == 199
    assert await db.count("users") == 0


async def test_concurrent_inserts_without_a_key_of_ours_keep_their_rows() -> None:
    """Counted keys: each caller's row is the one with its values."""
    rows = await asyncio.gather(*(db.insert("items", {"name": f"n{n}", "quantity": n}) for n in range(500)))
    assert [(row["name"], row["quantity"]) for row in rows] == [(f"n{n}", n) for n in range(500)]
    assert len({row["id"] for row in rows}) == 500


async def test_updates_of_one_row_come_one_after_the_other() -> None:
    """In the order in which they were made: the last one is what remains."""
    item = await db.insert("items", {"quantity": 0})
    rows = await asyncio.gather(*(db.update_by_id("items", item["id"], {"quantity": n}) for n in range(100)))
    assert [row["quantity"] for row in rows] == list(range(100))
    assert (await db.get_by_id("items", item["id"]))["quantity"] == 99


async def test_a_locked_row_holds_up_only_who_needs_it() -> None:
    """Updates, upserts and deletions of other rows that are made at the same moment go on."""
    ids = [row["id"] for row in await db.insert_many("items", [{"quantity": n} for n in range(60)], returning=True)]
    async with database.get_db_transaction() as conn:
        await conn.execute("SELECT FROM items WHERE id = $1 FOR UPDATE", ids[7])
        updates = [asyncio.create_task(db.update_by_id("items", id_, {"name": "x"})) for id_ in ids[:20]]
        deletions = [asyncio.create_task(db.delete_by_id("items", id_)) for id_ in [ids[7], *ids[20:40]]]
        upserts = [asyncio.create_task(db.upsert("items", {"id": id_, "name": "y"})) for id_ in [ids[7], *ids[40:]]]
        free = [*updates[:7], *updates[8:], *deletions[1:], *upserts[1:]]
        async with asyncio.timeout(20):
            await asyncio.gather(*free)
        held = [updates[7], deletions[0], upserts[0]]
        assert not any(task.done() for task in held)
    await asyncio.gather(*held, return_exceptions=True)
    assert await db.count("items", {"name": "x"}) >= 19


async def test_without_sharing_the_results_are_the_same(database: Settings) -> None:
    """DB_BATCHING=off sends every call by itself."""
    configure(database.model_copy(update={"batching": "off"}))
    await close_connection_pool()
    rows = await asyncio.gather(*(db.insert("items", {"quantity": n}) for n in range(30)))
    assert [row["quantity"] for row in rows] == list(range(30))
    assert await asyncio.gather(*(db.get_by_id("items", row["id"]) for row in rows)) == rows
    pool = await get_connection_pool()
    assert not pool.companions


async def test_a_trigger_that_drops_rows_is_noticed() -> None:
    """No caller gets another's row, and nobody is told that a row is stored that is not."""
    await _execute("""
        CREATE FUNCTION drop_odd() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RETURN CASE WHEN NEW.quantity % 2 = 0 THEN NEW END; END $$;
        CREATE TRIGGER drop_odd BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION drop_odd()
    """)
    results = await asyncio.gather(*(db.insert("items", {"quantity": n}) for n in range(20)), return_exceptions=True)
    for number, result in enumerate(results):
        if number % 2:
            assert isinstance(result, RepositoryError)
            assert "the server did not return it" in str(result)
        else:
            assert isinstance(result, dict)
            assert result["quantity"] == number


async def test_large_rows_do_not_share_an_answer(database: Settings) -> None:
    """More than DB_BATCH_MAX_BYTES of texts asked for at once: all of them come."""
    await _execute("CREATE TABLE notes (id integer PRIMARY KEY, note text, data jsonb)")
    await db.insert_many("notes", [{"id": n, "note": f"{n}" * 300_000, "data": {"n": n}} for n in range(40)])
    rows = await asyncio.gather(*(db.get_by_id("notes", n % 40) for n in range(80)))
    assert [row["data"]["n"] for row in rows] == [n % 40 for n in range(80)]
    assert all(row["note"].startswith(str(row["id"])) for row in rows)


async def test_a_lost_answer_is_told_apart_by_the_key(database: Settings) -> None:
    """With a key of ours, the repetition finds the row: stored once. Without one, nobody knows, and that is said."""
    await db.insert("items", {"name": "known"})
    async with proxy_to(database.dsn) as proxy:
        await close_connection_pool()
        name = urlsplit(database.dsn).path[1:]
        configure(Settings(database_url=SecretStr(proxy.url(name)), min_connections=0))
        proxy.swallow = b"once"
        user = await db.insert("users", {"name": "once"})
        assert [row["id"] for row in await db.fetch("users")] == [user["id"]]
        proxy.swallow = b"often"
        assert (await db.update_by_id("users", user["id"], {"name": "often"}))["name"] == "often"
        for marker, call in (
            (b"perhaps", db.insert("items", {"name": "perhaps"})),
            (b"maybe", db.update("items", {"name": "maybe"}, {"id": 1})),
            (b"known", db.delete("items", {"name": "known"})),
        ):
            proxy.swallow = marker
            with pytest.raises(OutcomeUnknownError, match="table 'items'"):
                await call
        proxy.swallow = b"COMMIT"
        assert await db.insert_many("items", [{"name": "committed"}] * 300) == 300
        assert await db.count("items", {"name": "committed"}) == 300
        await close_connection_pool()
    configure(database)


# --- reading much


async def test_pages_with_numbers() -> None:
    """Items, total and the number of pages, of one moment; behind the last page there is the total all the same."""
    await db.insert_many("items", [{"name": f"n{n:02}"} for n in range(45)])
    page = await db.fetch_page("items", {"name": {"$gte": "n05"}}, order_by="-name", page=2, page_size=15)
    assert [item["name"] for item in page["items"]] == [f"n{n:02}" for n in range(29, 14, -1)]
    assert list(page["items"][0]) == ["id", "name", "quantity"]
    assert {key: value for key, value in page.items() if key != "items"} == {
        "total": 40, "page": 2, "page_size": 15, "total_pages": 3,
    }  # fmt: skip
    assert await db.fetch_page("items", {"name": "none"}, page=9) == {
        "items": [], "total": 0, "page": 9, "page_size": 20, "total_pages": 0,
    }  # fmt: skip
    assert (await db.fetch_page("items", page=9))["total"] == 45
    with pytest.raises(InvalidDataError, match="page and page_size begin at 1"):
        await db.fetch_page("items", page=0)


async def test_iterating_gives_every_row_of_one_moment() -> None:
    """In order, and whatever is stored meanwhile is not among them; the connection comes back."""
    await db.insert_many("items", [{"name": f"n{n}", "quantity": n} for n in range(3_000)])
    seen: list[int] = []
    async for row in db.iterate("items", {"quantity": {"$gte": 500}}, order_by="quantity", columns="quantity"):
        if len(seen) == 10:
            await db.insert("items", {"quantity": 999_999})
        seen.append(row["quantity"])
    assert seen == list(range(500, 3_000))
    pool = await database.get_connection_pool()
    async with asyncio.timeout(5):
        while pool.get_stats()["in_use"]:
            await asyncio.sleep(0)
    async with database.get_db_transaction() as conn:
        assert len([row async for row in db.iterate("items", {"quantity": {"$lt": 5}}, conn=conn)]) == 5


async def test_iterating_in_a_transaction_undoes_nothing_of_it() -> None:
    """Where the loop is left early, what its body has written through the same connection stays."""
    await db.insert_many("items", [{"name": f"n{n}"} for n in range(100)])
    async with database.get_db_transaction() as conn:
        async with aclosing(db.iterate("items", conn=conn)) as rows:
            async for _ in rows:
                await db.insert("items", {"name": "in the loop"}, conn=conn)
                break
        left = db.iterate("items", conn=conn)
        await anext(left)
        await db.insert("items", {"name": "in the loop"}, conn=conn)
        await left.aclose()
    assert await db.count("items", {"name": "in the loop"}) == 2
    async with database.get_db_connection() as conn:
        with pytest.raises(RepositoryError, match="needs a transaction"):
            await anext(db.iterate("items", conn=conn))


# --- models


class User(BaseModel):
    id: uuid.UUID | None = None
    name: str
    email: str | None = None
    age: int | None = None
    updated_at: str | None = None


class Older(BaseModel):
    name: str
    age: int


async def test_models_go_in_and_come_out() -> None:
    """Instances are stored, their unset fields left to the database; rows become instances, times text where asked."""
    user = await db.insert("users", User(name="Jane"), model=User)
    assert isinstance(user, User)
    assert isinstance(user.id, uuid.UUID)
    assert datetime.fromisoformat(user.updated_at or "").tzinfo is not None
    assert await db.get_by_id("users", user.id, model=User) == user
    assert await db.fetch("users", model=User) == [user]
    assert (await db.fetch_page("users", model=User))["items"] == [user]
    assert [each async for each in db.iterate("users", model=User)] == [user]
    assert (await db.update_by_id("users", user.id, User(name="Joan"), model=User)).name == "Joan"
    assert (await db.upsert("users", User(name="x", email="e"), "email", model=User)).email == "e"
    assert await db.insert_many("users", [User(name="a"), User(name="b", age=3)]) == 2
    assert await db.insert("items", Item(name="from a dataclass", quantity=3)) == {
        "id": 1, "name": "from a dataclass", "quantity": 3,
    }  # fmt: skip


@dataclasses.dataclass
class Item:
    name: str
    quantity: int


async def test_a_row_that_does_not_fit_its_model_is_an_error() -> None:
    """`InvalidDataError` with the field and what is wrong with it, without the row."""
    await db.insert("users", {"name": "secret"})
    with pytest.raises(InvalidDataError) as caught:
        await db.fetch("users", model=Older)
    assert str(caught.value) == "a row of table 'users' does not fit Older: age (int_type)"
    with pytest.raises(InvalidDataError, match="a row is a dict, a pydantic model or a dataclass, not str"):
        await db.insert("users", "name")


# --- raw SQL


async def test_raw_sql() -> None:
    """With numbers or names, rows as dicts or models; statements without rows give an empty list."""
    await db.insert_many("items", [{"name": f"n{n}", "quantity": n} for n in range(5)])
    assert await db.execute_raw("SELECT name FROM items WHERE quantity > $1 ORDER BY id", [3]) == [{"name": "n4"}]
    sql = "SELECT name, '{\"a\": 1}'::jsonb -> 'a' AS a FROM items WHERE quantity >= :least AND quantity < :most"
    assert await db.execute_raw(sql, {"least": 1, "most": 2}) == [{"name": "n1", "a": 1}]
    assert await db.execute_raw("UPDATE items SET name = 'x'") == []
    assert await db.execute_raw("VACUUM items") == []
    (row,) = await db.execute_raw("SELECT 'n' AS name, 1 AS age", model=Older)
    assert row == Older(name="n", age=1)
    with pytest.raises(DatabaseError) as caught:
        await db.execute_raw("SELECT nothing FROM items")
    assert caught.value.sqlstate == "42703"


async def test_raw_sql_in_a_schema() -> None:
    """Names without a schema are looked for there first, and only for the time of the statement."""
    await db.create_schema("project")
    await db.execute_raw("CREATE TABLE items (only_here text)", schema="project")
    await db.insert("items", {"only_here": "x"}, schema="project")
    assert await db.execute_raw("SELECT * FROM items", schema="project") == [{"only_here": "x"}]
    async with database.get_db_transaction() as conn:
        assert await db.execute_raw("SELECT * FROM items", schema="project", conn=conn) == [{"only_here": "x"}]
        assert await db.execute_raw("SELECT * FROM items", conn=conn) == []
    assert await db.execute_raw("SELECT * FROM items") == []


async def test_raw_sql_in_a_schema_that_refuses_a_transaction() -> None:
    """It concerns the table of that schema, and the connection is as before afterwards."""
    await db.create_schema("project")
    await db.execute_raw("CREATE TABLE items (only_here text)", schema="project")
    await db.execute_raw("CREATE INDEX CONCURRENTLY found ON items (only_here)", schema="project")
    assert await db.execute_raw("SELECT schemaname::text FROM pg_indexes WHERE indexname = 'found'") == [
        {"schemaname": "project"}
    ]
    paths = await asyncio.gather(*(db.execute_raw("SHOW search_path") for _ in range(10)))
    assert all("project" not in path[0]["search_path"] for path in paths)


async def test_a_value_from_outside_is_no_operator() -> None:
    """What looks a row up by one value takes no dict of operators for it."""
    await db.insert("users", {"name": "a"})
    for call in (
        db.get_by_uuid("users", {"$is_null": False}),
        db.get_by_name("users", {"$ne": "x"}),  # type: ignore[arg-type]
        db.get_by_column("users", "email", {"$is_null": True}),
        db.get_by_id("users", {"$ne": None}),
    ):
        with pytest.raises(InvalidDataError):
            await call


async def test_everything_takes_part_in_the_callers_transaction() -> None:
    """What is done through conn= is undone with it."""
    with pytest.raises(KeyError):
        async with database.get_db_transaction() as conn:
            user = await db.insert("users", {"name": "a", "email": "a"}, conn=conn)
            await db.upsert("users", {"name": "b", "email": "b"}, "email", conn=conn)
            await db.insert_many("users", [{"name": "c"}] * 500, conn=conn)
            await db.update("users", {"age": 1}, {"name": "c"}, conn=conn)
            await db.delete_by_id("users", user["id"], conn=conn)
            assert await db.count("users", conn=conn) == 501
            raise KeyError
    assert await db.count("users") == 0
