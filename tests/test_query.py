"""SQL for any table: conditions, orders and pages, against a real server; and what never becomes SQL."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import database
from database import InvalidDataError, Settings
from database import repository as db
from database.conditions import escape_like, read_where
from database.exceptions import DocumentError
from database.placeholders import number_names
from database.query import check_page, quote_identifier

_PEOPLE = """
    CREATE TABLE people (
        id integer PRIMARY KEY,
        name text NOT NULL,
        age integer,
        tags text[],
        data jsonb
    );
    INSERT INTO people VALUES
        (1, 'Ann', 30, '{a,b}', '{"author": {"name": "x", "age": 30}, "tags": ["hot"], "n": 1}'),
        (2, 'Bob', NULL, '{}', '{"author": {"name": null}, "n": "1"}'),
        (3, '100%', 50, NULL, NULL),
        (4, 'a_b', 18, '{a}', '{"n": true}'),
        (5, 'a\\b', 18, '{c}', '[1, 2]')
"""


@pytest.fixture(autouse=True)
async def people(database: Settings) -> AsyncIterator[None]:
    """A table with names that LIKE might misread, NULLs, arrays and JSON of all kinds."""
    await _execute(_PEOPLE)
    yield


async def _execute(script: str) -> None:
    async with database.get_db_connection() as conn:
        await conn.execute(script)


async def _ids(where: dict[str, Any] | None) -> list[int]:
    return [row["id"] for row in await db.fetch("people", where, order_by="id")]


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        (None, [1, 2, 3, 4, 5]),
        ({}, [1, 2, 3, 4, 5]),
        ({"name": "Ann"}, [1]),
        ({"age": None}, [2]),
        ({"age": [18, 30]}, [1, 4, 5]),
        ({"age": {18, 30}}, [1, 4, 5]),
        ({"age": [18, None]}, [2, 4, 5]),
        ({"age": {"$eq": 30}}, [1]),
        ({"age": {"$eq": None}}, [2]),
        ({"age": {"$ne": 30}}, [2, 3, 4, 5]),
        ({"age": {"$ne": None}}, [1, 3, 4, 5]),
        ({"age": {"$gt": 18}}, [1, 3]),
        ({"age": {"$gte": 18, "$lt": 50}}, [1, 4, 5]),
        ({"age": {"$lte": 18}}, [4, 5]),
        ({"age": {"$in": [30, None]}}, [1, 2]),
        ({"age": {"$nin": [30]}}, [2, 3, 4, 5]),
        ({"age": {"$nin": [30, None]}}, [3, 4, 5]),
        ({"age": {"$between": [18, 30]}}, [1, 4, 5]),
        ({"age": {"$is_null": True}}, [2]),
        ({"age": {"$is_null": False}}, [1, 3, 4, 5]),
        ({"name": {"$like": "a%"}}, [4, 5]),
        ({"name": {"$ilike": "A%"}}, [1, 4, 5]),
        ({"name": {"$like": r"100\%"}}, [3]),
        ({"name": {"$contains": "%"}}, [3]),
        ({"name": {"$contains": "_"}}, [4]),
        ({"name": {"$contains": "\\"}}, [5]),
        ({"name": {"$startswith": "a_"}}, [4]),
        ({"tags": ["a", "b"]}, [1]),
        ({"tags": {"$contains": "a"}}, [1, 4]),
        ({"tags": {"$contains": ["a", "b"]}}, [1]),
        ({"tags": []}, [2]),
        ({"tags": {"$in": [["a"], ["c"]]}}, [4, 5]),
        ({"data": [1, 2]}, [5]),
        ({"data": {"n": True}}, [4]),
        ({"data": None}, [3]),
        ({"data": {"$contains": {"author": {"name": "x"}}}}, [1]),
        ({"data": {"$exists": "n"}}, [1, 2, 4]),
        ({"data.author.name": "x"}, [1]),
        ({"data.author.name": None}, [2, 3, 4, 5]),
        ({"data.author.name": {"$exists": True}}, [1, 2]),
        ({"data.author.name": {"$exists": False}}, [3, 4, 5]),
        ({"data.author.age": {"$gte": 18}}, [1]),
        ({"data.n": 1}, [1]),
        ({"data.n": "1"}, [2]),
        ({"data.n": {"$gt": 0}}, [1]),
        ({"data.n": {"$between": [0, 1]}}, [1]),
        ({"data.n": {"$in": [True, "1"]}}, [2, 4]),
        ({"data.n": {"$ne": 1}}, [2, 3, 4, 5]),
        ({"data.tags": {"$contains": "hot"}}, [1]),
        ({"data.author.name": {"$contains": "x"}}, [1]),
        ({"data.author.name": {"$like": "_"}}, [1]),
        ({"data.0": 1}, [5]),
        ({"$or": [{"age": 30}, {"name": "Bob"}]}, [1, 2]),
        ({"$and": [{"age": 18}, {"$not": {"name": "a_b"}}]}, [5]),
        ({"$not": {"age": 18}}, [1, 2, 3]),
        ({"$not": {"$or": [{"age": 18}, {"age": None}]}}, [1, 3]),
        ({"$and": [{}]}, [1, 2, 3, 4, 5]),
        ({"AGE": 30, "Names": "Ann"}, [1]),
    ],
)
async def test_a_condition_finds_the_rows_that_it_says(where: dict[str, Any] | None, ids: list[int]) -> None:
    """Each operator means in the server what it means in Python; NULL is just not equal."""
    assert await _ids(where) == ids
    assert await db.count("people", where) == len(ids)
    assert await db.exists("people", where) == bool(ids)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"age": {"$gte ": 1}}, r"'\$gte ' is not an operator here; .* Did you mean: \$gte\?"),
        ({"age": {"$gte": 1, "lt": 2}}, "the condition on 'age' mixes operators with other keys"),
        ({"$gte": 1}, r"\$gte stands with a column"),
        ({"$xor": []}, r"'\$xor' is not an operator here; there are \$and, \$or, \$not"),
        ({"$or": []}, r"\$or takes a list of conditions, with at least one in it"),
        ({"$or": {"age": 1}}, r"\$or takes a list"),
        ({"$not": 1}, "a condition is a dict of column and value, not int"),
        ({"age": []}, "the list for 'age' is empty, so that no row fits"),
        ({"age": {"$in": []}}, "the list for 'age' is empty, so that no row fits"),
        ({"age": {"$nin": []}}, "the list for 'age' is empty, so that every row fits"),
        ({"age": {"$in": 1}}, r"\$in on 'age' takes a list, not int"),
        ({"age": {"$between": [1]}}, r"\$between on 'age' takes two values"),
        ({"age": {"$gt": None}}, r"\$gt on 'age' takes a value; for NULL there is \$is_null"),
        ({"age": {"$is_null": 1}}, r"\$is_null on 'age' takes True or False, not int"),
        ({"age": "30"}, "column 'age' of table 'people' needs an int, not str"),
        ({"age": 2**31}, "column 'age' of table 'people' holds integers from"),
        ({"age": {"$like": "1%"}}, r"\$like looks into text; column 'age' is integer"),
        ({"age": {"$contains": "1"}}, r"\$contains looks into text, an array or JSON; column 'age' is integer"),
        ({"name": {"$contains": 1}}, "column 'name' of table 'people' is compared with a str here, not with int"),
        ({"name": {"$like": "a\\"}}, "the pattern for column 'name' ends with a backslash"),
        ({"name": {"$exists": True}}, r"\$exists with True or False asks for a path into JSON"),
        ({"name.first": "x"}, "column 'name' of table 'people' is text: a path leads into json and jsonb only"),
        ({"data": {"$eq": float("nan")}}, "column 'data' of table 'people' needs JSON"),
        ([("age", 1)], "a condition is a dict of column and value, not list"),
        ({1: 1}, "the name of a column in a condition is a str, not int"),
    ],
)
async def test_what_is_no_condition_is_refused_with_its_reason(where: Any, message: str) -> None:
    """An unknown operator, a value of the wrong type, an empty list: an error that says so, and no SQL."""
    with pytest.raises(InvalidDataError, match=message) as caught:
        await db.fetch("people", where)
    assert caught.value.original_error is None


async def test_nesting_has_a_limit() -> None:
    """A condition from outside cannot exhaust the stack."""
    where: dict[str, Any] = {"age": 1}
    for _ in range(10_000):
        where = {"$not": where}
    with pytest.raises(InvalidDataError, match="nested at most 32 times"):
        await db.fetch("people", where)


async def test_rows_come_in_the_order_asked_for() -> None:
    """Descending with a minus, several columns, as text or as a list."""
    rows = await db.fetch("people", order_by="-age,name", columns="name")
    assert [row["name"] for row in rows] == ["Bob", "100%", "Ann", "a\\b", "a_b"]
    assert rows == await db.fetch("people", order_by=["-age", "name"], columns=["name"])
    assert list(rows[0]) == ["name"]


@pytest.mark.parametrize("order_by", ["", "id", "-id", "age", "-age", "age,-name", "-age,-name", "name,age"])
async def test_pages_hold_every_row_once(order_by: str) -> None:
    """Page after page by key: every row once, in the order of the whole, also where columns are equal or NULL."""
    choice = random.Random(7)
    rows = [{"id": n, "name": choice.choice("xyz"), "age": choice.choice([None, 1, 2])} for n in range(6, 100)]
    await db.insert_many("people", rows)
    whole = await db.fetch("people", order_by=order_by, limit=1_000)
    assert len(whole) == 99
    for size in (1, 7, 50):
        pages: list[dict[str, Any]] = []
        while page := await db.fetch("people", order_by=order_by, limit=size, after=pages[-1] if pages else None):
            pages += page
        assert pages == whole


async def test_after_takes_a_row_or_its_values() -> None:
    """`after` is the last row, or the values of the columns that rows are sorted by; anything else is refused."""
    third = (await db.fetch("people", order_by="id"))[2]
    for after in (third, 3, [3], {"ID": 3}):
        assert [row["id"] for row in await db.fetch("people", after=after)] == [4, 5]
    with pytest.raises(InvalidDataError, match="the row given as after= has no column 'id'"):
        await db.fetch("people", after={"name": "Ann"})
    with pytest.raises(InvalidDataError, match="after= is the last row of the page before, or its values of age, id"):
        await db.fetch("people", order_by="age", after=3)
    await _execute("CREATE VIEW elders AS SELECT * FROM people WHERE age > 20")
    with pytest.raises(InvalidDataError, match="after= needs an order: table 'elders' has no primary key"):
        await db.fetch("elders", after=3)


async def test_limit_and_offset() -> None:
    """A page by numbers; behind the last row there is nothing, and a negative number is refused."""
    assert [row["id"] for row in await db.fetch("people", limit=2, offset=1)] == [2, 3]
    assert await db.fetch("people", limit=2, offset=5) == []
    assert await db.fetch("people", limit=0) == []
    for page in ({"limit": -1}, {"offset": -1}, {"limit": 2**63}, {"limit": 1.5}, {"limit": True}):
        with pytest.raises(InvalidDataError, match="limit and offset"):
            await db.fetch("people", **page)


async def test_a_seen_shape_is_the_same_sql() -> None:
    """Calls that differ in values alone use one prepared statement; those that differ in shape do not."""
    async with database.get_db_connection() as conn:
        for age in range(20):
            await db.fetch("people", {"age": {"$gte": age}, "name": str(age)}, limit=age, conn=conn)
            await db.fetch("people", {"age": list(range(age + 1))}, conn=conn)
        names = await conn.fetch("SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%people%'")
    assert len([row for row in names if 'FROM "public"."people"' in row["statement"]]) == 2


async def test_no_value_stands_in_the_sql() -> None:
    """What is prepared holds parameters in place of every value and every path."""
    async with database.get_db_connection() as conn:
        where = {"name": "Secret1", "data.Secret2": {"$contains": "Secret3"}, "tags": ["Secret4"], "age": [4711]}
        await db.fetch("people", where, limit=4711, conn=conn)
        prepared = await conn.fetch("SELECT statement FROM pg_prepared_statements")
    assert not [row for row in prepared if "Secret" in row["statement"] or "4711" in row["statement"]]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_quoting(name: str) -> None:
    """A quoted identifier ends where it ends, whatever it holds."""
    quoted = quote_identifier(name)
    assert quoted[0] == quoted[-1] == '"'
    assert quoted[1:-1].replace('""', "").count('"') == 0
    assert quoted[1:-1].replace('""', '"') == name


async def test_a_contained_text_is_found_whatever_it_holds() -> None:
    """$contains and $startswith find exactly the texts that Python finds."""
    choice = random.Random(3)
    texts = ["".join(choice.choices("a%_\\'\"", k=choice.randint(0, 4))) for _ in range(200)]
    await db.delete("people", all_rows=True)
    await db.insert_many("people", [{"id": number, "name": text} for number, text in enumerate(texts)])
    for part in texts[:60]:
        assert await _ids({"name": {"$contains": part}}) == [n for n, text in enumerate(texts) if part in text]
        assert await _ids({"name": {"$startswith": part}}) == [
            n for n, text in enumerate(texts) if text.startswith(part)
        ]
        assert escape_like(part).replace("\\", "").count("%") == part.count("%")


@pytest.mark.parametrize("collation", ["", 'COLLATE "C"'])
async def test_a_beginning_is_found_in_any_unicode(collation: str) -> None:
    """$startswith finds exactly the texts that Python finds, at the ends of Unicode, too."""
    await database.execute_with_retry(
        f"CREATE TABLE named (id integer PRIMARY KEY, name text {collation}, word varchar {collation})"
    )
    choice = random.Random(5)
    letters = "aé\ud7ff\ue000\uffff\U00010000\U0010fffe\U0010ffff%\\"
    texts = ["".join(choice.choices(letters, k=choice.randint(0, 4))) for _ in range(400)]
    await db.insert_many("named", [{"id": n, "name": text, "word": text} for n, text in enumerate(texts)])
    for beginning in ("", "\U0010ffff", "\U0010ffff" * 2, "\ud7ff", "a\U0010ffff", *texts[:40]):
        for column in ("name", "word"):
            rows = await db.fetch("named", {column: {"$startswith": beginning}}, order_by="id")
            assert [row["id"] for row in rows] == [n for n, text in enumerate(texts) if text.startswith(beginning)]


async def test_an_index_finds_a_beginning() -> None:
    """Also in a plan that does not know what the parameter begins with."""
    await database.init_document_table()
    async with database.get_db_transaction() as conn:
        await conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await conn.execute("SET LOCAL enable_seqscan = off")
        await db.fetch("document", {"code": {"$startswith": "a/"}}, conn=conn)
        [sql] = [
            row["statement"]
            for row in await conn.fetch("SELECT statement FROM pg_prepared_statements")
            if row["statement"].count('FROM "public"."document"')
        ]
        await conn.execute(f"PREPARE found AS {sql}")
        plan = await conn.fetch("EXPLAIN EXECUTE found ('{a/,a0}')")
    assert "Index Cond: ((code >= " in " ".join(row[0] for row in plan)


def test_a_condition_is_read_into_shape_and_values() -> None:
    """The shape holds no value, the values come in order, and an empty condition is none."""
    shape, values = read_where({"a": 1, "$or": [{"b": [2]}, {"c": {"$gt": 3, "$lt": 4}}], "d": None})
    assert values == [1, [2], 3, 4]
    assert hash(shape) == hash(read_where({"a": 9, "$or": [{"b": [8]}, {"c": {"$gt": 7, "$lt": 6}}], "d": None})[0])
    assert read_where(None) == read_where({}) == (None, [])


def test_pages_are_checked_with_the_callers_error() -> None:
    """One check for every module, which raises what its caller's users catch."""
    check_page(0, 2**63 - 1, DocumentError)
    for limit, offset in ((-1, 0), (0, -1), (2**63, 0), ("1", 0), (True, 0)):
        with pytest.raises(DocumentError, match="limit and offset"):
            check_page(limit, offset, DocumentError)


@pytest.mark.parametrize(
    ("sql", "expected", "names"),
    [
        ("SELECT :a, :b, :a", "SELECT $1, $2, $1", "ab"),
        ("SELECT :a::int, x::text", "SELECT $1::int, x::text", "a"),
        ("SELECT ':a', E'\\':a', \":a\", $$:a$$, $x$ :a $$ :a $x$", None, ""),
        ("SELECT 1 -- :a\n, :b /* :a /* :a */ :a */ , :a", "SELECT 1 -- :a\n, $1 /* :a /* :a */ :a */ , $2", "ba"),
        (
            "SELECT d -> 'a' ->> :a, d #> '{a}', d @? '$.a ? (@ > 1)', d ? 'b'",
            "SELECT d -> 'a' ->> $1, d #> '{a}', d @? '$.a ? (@ > 1)', d ? 'b'",
            "a",
        ),
        ("SELECT x[1:2], x[lo:a], f(p := 1), f(p=>:a)", "SELECT x[1:2], x[lo:a], f(p := 1), f(p=>$1)", "a"),
        ("SELECT 'it''s :a' || :b", "SELECT 'it''s :a' || $1", "b"),
        ("SELECT '{\"a\": 1}'::jsonb, (:a)", "SELECT '{\"a\": 1}'::jsonb, ($1)", "a"),
        ("SELECT /* :a", None, ""),
    ],
)
def test_named_parameters(sql: str, expected: str | None, names: str) -> None:
    """Names become numbers; casts, literals, dollar quotes, comments, slices and operators are left alone."""
    query, values = number_names(sql, {"a": "A", "b": "B"})
    assert query == (sql if expected is None else expected)
    assert values == [name.upper() for name in names]


def test_a_missing_named_parameter_is_an_error() -> None:
    """The name that has no value is said."""
    with pytest.raises(InvalidDataError, match="the statement asks for :missing, which is not among the values given"):
        number_names("SELECT :missing", {"given": 1})
