"""The query log: what is counted, what is told, what is never kept."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import random
import sys
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

import database as db
from database.metrics.histogram import Histogram
from database.metrics.masking import mask, mask_plan
from database.metrics.measuring import Measuring
from database.metrics.query_log import QueryLog
from database.pool import Pool
from database.settings import Settings, configure

from .running import run_program


@pytest.fixture(autouse=True)
def _nothing_measured() -> None:
    db.reset_query_stats()


async def _open(settings: Settings, **changes: Any) -> Pool:
    """The default pool with other settings."""
    await db.close_connection_pool()
    configure(settings.model_copy(update=changes))
    return await db.get_connection_pool()


@pytest.fixture
async def pool(database: Settings) -> AsyncIterator[Pool]:
    """The default pool, measured."""
    yield await _open(database, query_log="on")


def find(part: str) -> dict[str, Any]:
    """What was measured of the one statement that *part* stands in."""
    (found,) = [each for each in db.get_query_stats()["statements"] if part in each["statement"]]
    return dict(found)


# --- counting


async def test_each_way_of_sending_is_counted_with_its_rows(pool: Pool) -> None:
    """Rows returned or changed, by all that a connection can do: also prepared statements, cursors, COPY."""
    async with db.get_db_transaction() as conn:
        await conn.execute("CREATE TEMPORARY TABLE n (n integer) ON COMMIT DROP")
        await conn.execute("INSERT INTO n SELECT generate_series(1, $1)", 7)
        await conn.executemany("INSERT INTO n VALUES ($1)", [(8,), (9,), (10,)])
        await conn.copy_records_to_table("n", records=[(11,), (12,)])
        assert len(await conn.fetch("SELECT n AS fetched FROM n")) == 12
        await conn.fetchrow("SELECT n AS rowed FROM n WHERE n < $1", 5)
        await conn.fetchval("SELECT n AS valued FROM n WHERE n < $1", 0)
        statement = await conn.prepare("UPDATE n SET n = n WHERE n <= $1")
        await statement.fetch(4)
        await statement.executemany([(1,), (2,)])
        reading = await conn.prepare("SELECT n AS prepared FROM n")
        await reading.fetch()
        assert await reading.fetchval() is not None
        async for _ in conn.cursor("SELECT n AS iterated FROM n", prefetch=5):
            pass
        cursor = await conn.cursor("SELECT n AS fetched_by_cursor FROM n")
        assert len(await cursor.fetch(4)) == 4
        await conn.copy_from_query("SELECT n AS copied FROM n", output=io.BytesIO())
    for part, count, rows in (
        ("SELECT generate_series", 1, 7),
        ("INSERT INTO n VALUES", 1, 3),
        ('COPY "n"', 1, 2),
        ("fetched FROM", 1, 12),
        ("rowed", 1, 1),
        ("valued", 1, 0),
        ("UPDATE n", 2, 4 + 2),
        ("prepared", 2, 13),
        ("iterated", 3, 12),
        ("fetched_by_cursor", 1, 4),
        ("copied", 1, 12),
        ("COMMIT;", 1, 0),
    ):
        found = find(part)
        assert (found["count"], found["rows"], found["errors"]) == (count, rows, 0), found
        assert 0 < found["min_ms"] <= found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"] <= found["max_ms"]
        assert found["total_ms"] >= found["max_ms"] and found["mean_ms"] * found["count"] == pytest.approx(
            found["total_ms"], abs=0.01
        )


async def test_a_failure_is_an_error_and_takes_time(pool: Pool) -> None:
    """Refused by the server, cancelled, cut off by a deadline: errors all three."""
    async with db.get_db_connection() as conn:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await conn.fetchval("SELECT 1 / $1::integer", 0)
        with pytest.raises(TimeoutError):
            await conn.execute("SELECT pg_sleep(9)", timeout=0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await conn.fetch("SELECT pg_sleep($1)", 9)
    assert (find("$1::integer")["errors"], find("pg_sleep(?)")["errors"], find("pg_sleep($1)")["errors"]) == (1, 1, 1)
    assert find("pg_sleep($1)")["max_ms"] >= 45
    assert db.get_query_stats()["total"]["errors"] == 3


async def test_shared_statements_count_their_calls(pool: Pool) -> None:
    """A hundred reads at once are a few statements that carried a hundred calls."""
    await asyncio.gather(*(db.insert_document(f"d{n}", f"d{n}", "x") for n in range(100)))
    db.reset_query_stats()
    before = pool.get_stats()["requests"]
    assert all(await asyncio.gather(*(db.get_document_by_code(f"d{n}") for n in range(100))))
    total = db.get_query_stats()["total"]
    assert total["calls"] == 100 and total["rows"] == 100
    assert total["count"] == pool.get_stats()["requests"] - before < 20

    await db.get_document_by_code("d1")
    assert db.get_query_stats()["total"]["calls"] == 101


async def test_a_shared_statement_that_fails_leaves_no_calls_behind(pool: Pool) -> None:
    """What comes next on the same connection carries one call again."""
    results = await asyncio.gather(
        *(db.upsert_document("x", f"d{n}", "bad \0" if n == 50 else "x") for n in range(100)), return_exceptions=True
    )
    assert sum(isinstance(result, db.DocumentError) for result in results) == 1
    db.reset_query_stats()
    for _ in range(20):
        await db.get_document_count()
    total = db.get_query_stats()["total"]
    assert total["calls"] == total["count"] == 20


async def test_what_the_pool_does_for_itself_is_not_counted(pool: Pool) -> None:
    """Neither the reset of a connection, nor what a new one is set up with."""
    async with db.get_db_connection() as conn:
        await conn.execute("SELECT 1 AS mine")
    async with db.get_db_connection() as conn:
        await conn.execute("SELECT 1 AS mine")
    (only,) = db.get_query_stats()["statements"]
    assert (only["statement"], only["count"]) == ("SELECT ? AS mine", 2)


async def test_waits_for_a_connection_are_measured(database: Settings) -> None:
    """How many waited, and how long."""
    await _open(database, query_log="on", max_connections=1)
    await db.get_db_connection().__aenter__()  # held to the end of the pool
    waiting = asyncio.create_task(db.execute_with_retry("SELECT 1"))
    while not (await db.get_pool_stats())["waiting"]:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    waits = db.get_query_stats()["waits"]
    assert waits["count"] >= 1 and waits["max_ms"] > 0
    await db.close_connection_pool(timeout=0.1)


async def test_off_means_that_connections_measure_nothing(database: Settings) -> None:
    """By default no connection is of the kind that measures, and the statistics say that they are off."""
    await _open(database)
    async with db.get_db_connection() as conn:
        assert Measuring not in type(conn._con).__mro__  # type: ignore[union-attr]
        await conn.fetch("SELECT 1")
    stats = db.get_query_stats()
    assert (stats["enabled"], stats["total"]["count"], stats["statements"]) == (False, 0, [])


async def test_statistics_outlive_the_pool_and_end_with_a_reset(pool: Pool) -> None:
    """They can be printed at the end of a program."""
    await db.execute_with_retry("SELECT 1 AS kept")
    await db.close_connection_pool()
    assert find("kept")["count"] == 1
    db.reset_query_stats("reporting")
    assert find("kept")["count"] == 1
    db.reset_query_stats("default")
    assert db.get_query_stats()["statements"] == []


async def test_behind_a_model_of_a_pooler_statements_are_counted_too(database: Settings) -> None:
    """With DB_POOLER=transaction."""
    await _open(database, query_log="on", pooler="transaction")
    assert await db.execute_with_retry("SELECT $1::integer AS pooled", 5) == [{"pooled": 5}]
    assert find("pooled")["rows"] == 1


# --- slow ones


async def test_a_slow_statement_is_kept_with_its_plan_and_without_values(
    database: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning at once, the plan as soon as it is known; neither parameters nor literals are in either."""
    await _open(database, slow_query_ms=0.0)
    with caplog.at_level(logging.INFO, logger="database"):
        async with db.get_db_connection() as conn:
            major = conn.get_server_version().major
            await conn.fetch("SELECT * FROM document WHERE code = $1 AND name <> 'literal secret' LIMIT 7", "my secret")
        async with asyncio.timeout(10):
            while major >= 16 and not db.get_query_stats()["slow"][0]["plan"]:
                await asyncio.sleep(0.01)
    (slow,) = db.get_query_stats()["slow"]
    assert slow["statement"] == "SELECT * FROM document WHERE code = $1 AND name <> ? LIMIT ?"
    assert (slow["rows"], slow["calls"], slow["error"]) == (0, 1, None) and slow["ms"] > 0 and slow["at"].tzinfo
    if major >= 16:
        assert "document" in slow["plan"] and "(cost=" in slow["plan"] and "code = $1" in slow["plan"]
    assert "slow query: [" in caplog.text
    assert "secret" not in caplog.text + repr(db.get_query_stats())
    assert db.get_query_stats()["total"]["count"] == 1, "asking for the plan is no statement of anybody's"


async def test_only_what_takes_long_is_slow(database: Settings) -> None:
    """The threshold is one of time; statements that fail count, too."""
    await _open(database, slow_query_ms=60.0)
    async with db.get_db_connection() as conn:
        await conn.fetch("SELECT 1")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await conn.fetch("SELECT 1 / (0 * extract(epoch FROM now()))::int FROM pg_sleep(0.1)")
    (slow,) = db.get_query_stats()["slow"]
    assert slow["error"] == "DivisionByZeroError 22012" and slow["ms"] >= 100


async def test_what_cannot_be_explained_is_kept_without_a_plan(database: Settings) -> None:
    """A command, and a table that is gone: no error reaches anybody."""
    await _open(database, slow_query_ms=0.0)
    async with db.get_db_transaction() as conn:
        await conn.execute("CREATE TEMPORARY TABLE own () ON COMMIT DROP")
        await conn.fetch("SELECT * FROM own")
    await db.execute_with_retry("SELECT 1 AS last")

    def plans(part: str) -> set[str | None]:
        return {each["plan"] for each in db.get_query_stats()["slow"] if part in each["statement"]}

    async with asyncio.timeout(10):
        while plans("last") == {None}:  # it is asked for after the others
            await asyncio.sleep(0.01)
    assert plans("own") == plans("COMMIT") == {None}


async def test_a_plan_that_hangs_keeps_nothing_from_ending(
    database: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody holds a lock on the table: the plan is given up, and closing the pool does not wait for one."""
    await _open(database, slow_query_ms=0.0)
    with caplog.at_level(logging.DEBUG, logger="database"):
        async with db.get_db_transaction() as conn:
            await conn.execute("LOCK TABLE document IN ACCESS EXCLUSIVE MODE")
            await conn.fetch("SELECT count(*) FROM document")
            async with asyncio.timeout(10):
                while "no plan of a slow query" not in caplog.text:
                    await asyncio.sleep(0.01)
            await conn.fetch("SELECT code FROM document")
    async with asyncio.timeout(5):
        await db.close_connection_pool()


# --- echo


async def test_echo_shows_each_statement_and_no_value(database: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """One line with time and rows; values are shown where DB_QUERY_PARAMETERS=on, and hidden under telling names."""
    await _open(database, echo="on")
    with caplog.at_level(logging.INFO, logger="database.echo"):
        async with db.get_db_connection() as conn:
            await conn.fetch("SELECT $1::text,\n  'literal'", "parameter")
        assert caplog.messages[-1].endswith(" ms, 1 row] SELECT $1::text, ?")
        await _open(database, echo="on", query_parameters="on")
        async with db.get_db_connection() as conn:
            await conn.fetch("SELECT $1::text,\n  'literal', $2::jsonb", "parameter", {"password": "hunter2"})
    assert caplog.messages[-1].endswith(
        """ ms, 1 row] SELECT $1::text, 'literal', $2::jsonb $1 = "parameter", $2 = {"password": "***"}"""
    )
    assert "hunter2" not in caplog.text


def test_echo_is_seen_where_no_logging_is_set_up(database_in_sync_test: Settings, tmp_path: Any) -> None:
    """On stderr, for somebody who sets DB_ECHO and nothing else; a program's own handlers get it in its place."""
    program = (
        "import asyncio, sys, logging, database as db\n"
        "if sys.argv[1:]: logging.basicConfig(format='own %(message)s', level=logging.INFO)\n"
        "async def main():\n"
        "    await db.execute_with_retry('SELECT 1')\n"
        "    await db.close_connection_pool()\n"
        "asyncio.run(main())\n"
    )
    variables = {"DATABASE_URL": database_in_sync_test.dsn, "DB_POOLER": database_in_sync_test.pooler, "DB_ECHO": "on"}
    done = run_program(program, tmp_path, **variables)
    assert "database.echo: [" in done.stderr and done.stderr.rstrip().endswith("] COMMIT;")
    own = run_program(program.replace("sys.argv[1:]", "True"), tmp_path, **variables)
    assert "own [" in own.stderr and "database.echo: [" not in own.stderr


# --- functions, and what people read


async def test_functions_are_timed(database: Settings) -> None:
    """Async or not, failures as well; what they return and raise passes through."""

    @db.time_query
    async def read(code: str) -> int:
        """Read it."""
        return len(code)

    @db.time_query
    def fail() -> None:
        raise ValueError("no")

    assert await read("abc") == 3 and await read("ab") == 2
    assert read.__name__ == "read" and read.__doc__ == "Read it."
    with pytest.raises(ValueError, match="no"):
        fail()
    timed = {each["function"].rpartition(".")[2]: each for each in db.get_query_stats()["functions"]}
    assert (timed["read"]["count"], timed["read"]["errors"]) == (2, 0)
    assert (timed["fail"]["count"], timed["fail"]["errors"]) == (1, 1)


async def test_the_summary_is_a_table(database: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Totals, statements, slow ones with plans; where nothing was measured it says why."""
    db.print_query_summary()
    assert "the query log is off, and DB_QUERY_LOG=on turns it on" in capsys.readouterr().out
    await _open(database, query_log="on", slow_query_ms=0.0)
    for number in range(3):
        await db.execute_with_retry(f"SELECT {number} AS a, {'b' * 200}.* FROM (SELECT 1) AS {'b' * 200}")
    out = io.StringIO()
    db.print_query_summary(limit=2, file=out)
    text = out.getvalue()
    assert "statements for" in text and "p99" in text and "slow statement" in text and "and 2 more" in text
    assert max(map(len, text.splitlines())) < 200


# --- bounds


def test_percentiles_are_within_three_percent() -> None:
    """Of a million times between a microsecond and a minute, and of many that are all the same."""
    histogram, times = Histogram(), []
    dice = random.Random(7)
    for _ in range(100_000):
        times.append(10 ** dice.uniform(-6, 1.8))
        histogram.add(times[-1])
    times.sort()
    for percent in (1, 50, 95, 99, 99.9):
        exact = times[int(len(times) * percent / 100) - 1]
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.032)
    assert len(histogram.buckets) < 500
    same = Histogram()
    for _ in range(10):
        same.add(0.125)
    assert {same.percentile(1), same.percentile(50), same.percentile(100)} == {0.125}
    assert Histogram().as_ms()["p99_ms"] == 0.0


def test_memory_is_bounded_and_nothing_is_lost_from_the_totals() -> None:
    """Of twenty thousand statements a thousand are kept, the frequent ones among them, and all are counted."""
    query_log = QueryLog(Settings(query_log="on"), "bounded")
    tracemalloc.start()
    for number in range(20_000):
        query_log.record(f"SELECT * FROM t{number} WHERE id = $1", (), 0.001, 1, 2)
        if number % 10 == 0:
            query_log.record("SELECT the_frequent_one", (), 0.002, 1, 1)
    query_log.record("SELECT '" + "x" * 5_000_000 + "'", (), 0.001, 1, 1)
    snapshot = query_log.statistics.snapshot()
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(snapshot["statements"]) <= 1_000
    assert snapshot["statements"][0]["statement"] == "SELECT the_frequent_one"
    assert snapshot["statements"][0]["count"] == 2_000
    assert snapshot["total"]["count"] == 22_001 and snapshot["total"]["calls"] == 42_001
    assert snapshot["others"]["statements"] + len(snapshot["statements"]) == 20_002
    assert memory < 10_000_000


@pytest.mark.parametrize(
    ("sql", "masked"),
    [
        (
            "SELECT  a -- 'x'\n FROM b /* 5 /* 6 */ */ WHERE c = 'it''s' AND d=$1",
            "SELECT a FROM b WHERE c = ? AND d=$1",
        ),
        ("SELECT t1.c2, -1.5e3, 0x1F, .5 FROM t1", "SELECT t1.c2, -?, … FROM t1"),
        ("SELECT a FROM b WHERE c IN (1,2, 3)", "SELECT a FROM b WHERE c IN (?, …)"),
        ("""SELECT "no 5 literal", E'a\\'b', $$x$$, $t$ y $z$ $t$ || a""", 'SELECT "no 5 literal", ?, … || a'),
        ("SELECT 'never ended", "SELECT ?"),
        ("SELECT $$never ended", "SELECT ?"),
        ("SELECT U&'d\\0061t' , B'101'", "SELECT U&? , B?"),
        ("ALTER ROLE x PASSWORD 'secret'", "ALTER ROLE x PASSWORD ?"),
    ],
)
def test_literals_are_masked(sql: str, masked: str) -> None:
    """What stands in SQL as a value is not kept, whatever its form; names and parameters are."""
    assert mask(sql) == masked


def test_a_text_that_is_cut_shows_no_value() -> None:
    """Four thousand characters are kept, and no part of a literal at their end."""
    masked = mask("SELECT $1, '" + "secret" * 1_000 + "', 2")
    assert masked == "SELECT $1, ?…"
    assert len(mask("SELECT " + "a," * 5_000)) <= 4_001


def test_plans_are_masked() -> None:
    """Conditions lose their values, estimates stay."""
    plan = "Seq Scan on x  (cost=0.00..1.00 rows=5 width=4)\n  Filter: (name = 'Ada'::text AND age > 5)"
    assert mask_plan(plan) == (
        "Seq Scan on x  (cost=0.00..1.00 rows=5 width=4)\n  Filter: (name = ?::text AND age > ?)"
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
def test_a_forked_child_begins_anew() -> None:
    """What the parent has measured is not the child's."""
    program = (
        "import os, sys, database as db\n"
        "@db.time_query\n"
        "def f(): pass\n"
        "f()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(len(db.get_query_stats()['functions']))\n"
        "sys.exit(os.waitpid(pid, 0)[1] or len(db.get_query_stats()['functions']) - 1)\n"
    )
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", program) == 0
