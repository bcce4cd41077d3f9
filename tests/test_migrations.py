"""Versioned SQL files of an application, against a real server."""

from __future__ import annotations

import asyncio
import re
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import database as db
from database import migrations, schema
from database.connect_db import get_connection_pool
from database.settings import Settings

from .program import write_files

USERS = "-- migrate:up\nCREATE TABLE users (id serial PRIMARY KEY, name text);\n\n-- migrate:down\nDROP TABLE users;\n"
EMAIL = "-- migrate:up\nALTER TABLE users ADD email text;\n-- migrate:down\nALTER TABLE users DROP email;\n"
INDEX = """-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY users_name ON users (name);
CREATE INDEX CONCURRENTLY IF NOT EXISTS users_email ON users (email);

-- migrate:down transaction:false
DROP INDEX CONCURRENTLY users_name;
DROP INDEX CONCURRENTLY users_email;
"""
BUILT = "SELECT pid FROM pg_stat_progress_create_index WHERE datname = current_database()"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three files, of which the last one runs outside of a transaction."""
    names = ("0001_users.sql", "20261121093000_email.sql", "20261121093001_index.sql")
    return write_files(tmp_path / "migrations", dict(zip(names, (USERS, EMAIL, INDEX), strict=True)))


async def rows(sql: str) -> list[Any]:
    result = await db.execute_with_retry(sql)
    assert isinstance(result, list)
    return [next(iter(row.values())) if len(row) == 1 else tuple(row.values()) for row in result]


async def names(kind: str = "r") -> list[str]:
    return await rows(f"""
        SELECT relname FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relkind = '{kind}' AND relname LIKE 'users%'
         ORDER BY relname
    """)


async def applied() -> list[tuple[str, str]]:
    return await rows("SELECT source, version FROM database_migration ORDER BY source, version")


async def locks() -> list[int]:
    return await rows("""
        SELECT pid
          FROM pg_locks
          JOIN pg_database AS d ON d.oid = database
         WHERE locktype = 'advisory' AND datname = current_database()
    """)


# --- up, down, status


async def test_files_are_applied_in_order_and_once(empty_database: Settings, files: Path) -> None:
    """Their names come back; the second call finds nothing to do."""
    assert await migrations.migrate(files) == [
        "0001_users.sql",
        "20261121093000_email.sql",
        "20261121093001_index.sql",
    ]
    assert await migrations.migrate(str(files)) == []
    assert await names("i") == ["users_email", "users_name", "users_pkey"]
    assert await locks() == []


async def test_versions_are_numbers(empty_database: Settings, tmp_path: Path) -> None:
    """9 comes before 10; other files are nothing to us; the same number twice is an error."""
    write_files(tmp_path, {"10_b.sql": EMAIL, "9_a.sql": USERS, "README.md": "x", "schema.sql": "nonsense"})
    assert await migrations.migrate(tmp_path) == ["9_a.sql", "10_b.sql"]
    write_files(tmp_path, {"010_c.sql": USERS})
    with pytest.raises(db.SchemaError, match=r"010_c\.sql and 10_b\.sql have the same version"):
        await migrations.migrate(tmp_path)


async def test_a_target_ends_it(empty_database: Settings, files: Path) -> None:
    """Up to the version, or the file, inclusive; never down; a target that no file has is an error."""
    assert await migrations.migrate(files, "0001") == ["0001_users.sql"]
    assert await migrations.migrate(files, "20261121093000_email.sql") == ["20261121093000_email.sql"]
    assert await migrations.migrate(files, "0001") == []
    with pytest.raises(db.SchemaError, match=r"no SQL file with the version '7'; there are: 0001, 2026"):
        await migrations.migrate(files, "7")


async def test_status_and_rollback(empty_database: Settings, files: Path) -> None:
    """The status changes nothing; the last files are undone first, as many as are asked for and there."""
    assert [(each["version"], each["state"]) for each in await migrations.migration_status(files)] == [
        ("0001", "pending"),
        ("20261121093000", "pending"),
        ("20261121093001", "pending"),
    ]
    assert await rows("SELECT to_regclass('database_migration')::text") == [None]
    await migrations.migrate(files)
    (first, *_) = await migrations.migration_status(files)
    assert (first["source"], first["name"], first["file"]) == ("application", "users", "0001_users.sql")
    assert first["state"] == "applied" and first["applied_at"].tzinfo is not None

    assert await migrations.rollback(1, files) == ["20261121093001_index.sql"]
    assert await names("i") == ["users_pkey"]
    assert await migrations.rollback(5, files) == ["20261121093000_email.sql", "0001_users.sql"]
    assert await migrations.rollback(1, files) == []
    assert await names() == []
    assert await migrations.migrate(files) == [path.name for path in sorted(files.iterdir())]


async def test_a_file_that_comes_late_is_applied(empty_database: Settings, files: Path) -> None:
    """That of a colleague, with an earlier version, too, as dbmate does."""
    await migrations.migrate(files)
    write_files(files, {"0002_late.sql": "-- migrate:up\nALTER TABLE users ADD late text;"})
    assert await migrations.migrate(files) == ["0002_late.sql"]


async def test_the_package_and_applications_do_not_collide(empty_database: Settings, files: Path) -> None:
    """The same version in three directories is three files."""
    assert (await migrations.migrate(target="0002"))[:2] == ["0001_document.sql", "0002_chat_history.sql"]
    await migrations.migrate(files, "0001")
    other = write_files(files.parent / "other", {"0001_orders.sql": "-- migrate:up\nCREATE TABLE users_orders ();"})
    with pytest.raises(db.SchemaError, match=r"0001 of 'application' was applied as 0001_users\.sql.* source="):
        await migrations.migrate(other)
    assert await migrations.migrate(other, source="orders") == ["0001_orders.sql"]
    assert [each for each in await applied() if each[1] == "0001"] == [
        ("application", "0001"),
        ("database", "0001"),
        ("orders", "0001"),
    ]
    await db.init_document_table()
    assert await migrations.rollback(9, files) == ["0001_users.sql"]
    assert await names() == ["users_orders"]
    assert [each["state"] for each in await migrations.migration_status()][:2] == ["applied", "applied"]


async def test_the_packages_own_files_can_be_undone(empty_database: Settings) -> None:
    """Down and up again, all of them."""
    there = await migrations.migrate()
    assert await migrations.rollback(len(there)) == there[::-1]
    assert await rows("SELECT to_regclass('document')::text") == [None]
    assert await migrations.migrate() == there


async def test_a_record_of_before_there_were_sources(empty_database: Settings, files: Path) -> None:
    """Is read, and gets its column at the next file that is applied."""
    await db.execute_with_retry("""
        CREATE TABLE database_migration (version text PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
                                         applied_at timestamptz NOT NULL DEFAULT clock_timestamp())
    """)
    known = schema.read_migration("0001")
    async with db.get_db_connection() as conn:
        await conn.execute(known.up.sql)
        await conn.execute("INSERT INTO database_migration VALUES ('0001', 'document', $1)", known.checksum)
    await db.init_document_table()
    assert (await migrations.migration_status())[0]["state"] == "applied"
    assert await migrations.migrate(files, "0001") == ["0001_users.sql"]
    assert (await applied())[:2] == [("application", "0001"), ("database", "0001")]


# --- what is refused


async def test_a_changed_file_is_an_error_that_names_it(empty_database: Settings, files: Path) -> None:
    """Nothing is applied or undone then, not even what comes before it; CRLF is no change."""
    await migrations.migrate(files, "20261121093000")
    (files / "20261121093000_email.sql").write_bytes(EMAIL.replace("\n", "\r\n").encode())
    assert await migrations.migrate(files) == ["20261121093001_index.sql"]
    write_files(files, {"20261121093000_email.sql": EMAIL + "-- changed", "0002_new.sql": "-- migrate:up\nSELECT 1"})
    for call in (migrations.migrate(files), migrations.migrate(files, "0002"), migrations.rollback(2, files)):
        with pytest.raises(db.SchemaError, match=r"20261121093000_email\.sql is not the file that was applied"):
            await call
    assert [each["state"] for each in await migrations.migration_status(files)] == [
        "applied", "pending", "changed", "pending",
    ]  # fmt: skip


async def test_a_file_that_is_gone(empty_database: Settings, files: Path) -> None:
    """Is missing in the status, no trouble on the way up, and an error on the way down."""
    await migrations.migrate(files)
    (files / "20261121093001_index.sql").unlink()
    assert await migrations.migrate(files) == []
    assert [each["state"] for each in await migrations.migration_status(files)] == ["applied", "applied", "missing"]
    with pytest.raises(db.SchemaError, match=r"cannot undo 20261121093001_index\.sql: there is no file"):
        await migrations.rollback(1, files)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("0001_x.sql", "CREATE TABLE x ()", "0001_x.sql needs a line `-- migrate:up`"),
        ("0001_x.sql", "-- migrate:down\n-- migrate:up\n", "0001_x.sql needs a line"),
        ("0001_x.sql", "-- migrate:up\n-- migrate:up\n", "0001_x.sql needs a line"),
        ("0001_x.sql", "SELECT 1;\n-- migrate:up\n", "0001_x.sql has SQL above"),
        ("0001_x.sql", "-- migrate:up transaction:no\n", "0001_x.sql.* not 'transaction:no'"),
        ("0001_x.sql", "-- migrate:up\n\nBEGIN;\nSELECT 1;\nCOMMIT;", "0001_x.sql, line 3: BEGIN has no place here"),
        ("0001_x.sql", "-- migrate:up\nSELECT 1;\n-- migrate:down\nROLLBACK", "0001_x.sql, line 4: ROLLBACK"),
    ],
)
async def test_a_file_that_is_not_as_it_should_be(
    empty_database: Settings, tmp_path: Path, name: str, text: str, message: str
) -> None:
    """The error names it, and nothing is applied."""
    write_files(tmp_path, {name: text})
    with pytest.raises(db.SchemaError, match=message):
        await migrations.migrate(tmp_path)


async def test_what_cannot_be_read(empty_database: Settings, tmp_path: Path) -> None:
    """No directory, no UTF-8, no name for a source, a schema that is not there."""
    write_files(tmp_path, {"0001_x.sql": b"-- migrate:up\n\xff"})
    with pytest.raises(db.SchemaError, match=r"0001_x\.sql: it is not UTF-8 \(byte 14\)"):
        await migrations.migrate(tmp_path)
    write_files(tmp_path, {"0001_x.sql": "-- migrate:up\nSELECT 1"})
    with pytest.raises(db.SchemaError, match="there is no directory"):
        await migrations.migrate(tmp_path / "gone")
    for source in ("", "x" * 64, "a\0b", "database"):
        with pytest.raises(db.SchemaError, match="the source of SQL files"):
            await migrations.migrate(tmp_path, source=source)
    with pytest.raises(db.SchemaError, match="needs a directory"):
        await migrations.migrate(source="mine")
    with pytest.raises(db.SchemaError, match="Schema 'gone' not found") as caught:
        await migrations.migrate(tmp_path, schema="gone")
    assert caught.value.sqlstate == "3F000"
    for steps in (0, -1, True, "1"):
        with pytest.raises(db.SchemaError, match="steps is how many"):
            await migrations.rollback(steps, tmp_path)  # type: ignore[arg-type]


# --- what fails


async def test_a_failing_file_leaves_nothing_behind(empty_database: Settings, files: Path) -> None:
    """Neither its first statements nor a record; the files before it stay, and the error names file and line."""
    text = "-- migrate:up\nCREATE TABLE users_more ();\n\nCREATE INDEX ON users (nmae);\n"
    write_files(files, {"0002_wrong.sql": text})
    with pytest.raises(db.SchemaError, match=r'cannot apply 0002_wrong\.sql, line 4: column "nmae" does not') as caught:
        await migrations.migrate(files)
    assert caught.value.sqlstate == "42703"
    assert await names() == ["users"]
    assert await applied() == [("application", "0001")]
    write_files(files, {"0002_wrong.sql": text.replace("nmae", "name")})
    assert len(await migrations.migrate(files)) == 3


async def test_what_fails_only_at_commit_names_the_file(empty_database: Settings, files: Path) -> None:
    """A deferred constraint."""
    text = """-- migrate:up
        ALTER TABLE users ADD boss integer REFERENCES users DEFERRABLE INITIALLY DEFERRED;
        INSERT INTO users (boss) VALUES (42);
    """
    write_files(files, {"0002_boss.sql": text})
    with pytest.raises(db.SchemaError, match=r"cannot apply 0002_boss\.sql: .*constraint users_boss_fkey") as caught:
        await migrations.migrate(files)
    assert caught.value.sqlstate == "23503"
    assert await applied() == [("application", "0001")]


async def test_no_message_holds_data(empty_database: Settings, files: Path) -> None:
    """What PostgreSQL says of a row is not repeated."""
    text = "-- migrate:up\nINSERT INTO users (name) VALUES ('secret'), ('secret'); ALTER TABLE users ADD UNIQUE (name);"
    write_files(files, {"0002_unique.sql": text})
    with pytest.raises(db.SchemaError, match=r"cannot apply 0002_unique\.sql, line 2: constraint") as caught:
        await migrations.migrate(files)
    assert "secret" not in str(caught.value)


async def test_a_script_may_set_what_it_likes(empty_database: Settings, tmp_path: Path) -> None:
    """As those of pg_dump do, which leave an empty search_path; nobody else sees it afterwards."""
    text = "-- migrate:up\nSELECT pg_catalog.set_config('search_path', '', false);\nCREATE TABLE public.users ();"
    write_files(tmp_path, {"0001_dump.sql": text, "0002_more.sql": "-- migrate:up\nCREATE TABLE users_2 ();"})
    assert len(await migrations.migrate(tmp_path)) == 2
    assert await names() == ["users", "users_2"]


async def test_an_empty_file_is_applied(empty_database: Settings, tmp_path: Path) -> None:
    """There is nothing to run, and it is recorded."""
    write_files(tmp_path, {"0001_nothing.sql": "-- migrate:up\n-- migrate:down\n"})
    assert await migrations.migrate(tmp_path) == await migrations.rollback(1, tmp_path) == ["0001_nothing.sql"]


async def test_copy_from_stdin_is_refused(empty_database: Settings, tmp_path: Path) -> None:
    """Nobody would send the lines that psql takes from the file, and the server would wait for them."""
    text = "-- migrate:up\nCREATE TABLE users (name text);\nCOPY users FROM stdin;\nanna\n\\.\n"
    write_files(tmp_path, {"0001_copy.sql": text})
    with pytest.raises(db.SchemaError, match=r"0001_copy\.sql, line 3: COPY from STDIN .* INSERT"):
        await migrations.migrate(tmp_path)


# --- outside of a transaction


async def test_a_single_statement_needs_no_option(empty_database: Settings, files: Path) -> None:
    """One that refuses a transaction is run without; beside others it is an error that says what to write."""
    one = (
        "-- migrate:up\n-- quick\nCREATE INDEX CONCURRENTLY users_name ON users (name);\n-- migrate:down\nVACUUM users"
    )
    (files / "20261121093001_index.sql").unlink()
    write_files(files, {"0002_one.sql": one})
    await migrations.migrate(files, "0002")
    assert await names("i") == ["users_name", "users_pkey"]
    assert await migrations.rollback(1, files) == ["0002_one.sql"]
    text = "-- migrate:up\nCREATE TABLE users_2 ();\nCREATE INDEX CONCURRENTLY ON users (name);"
    write_files(files, {"0002_one.sql": text})
    with pytest.raises(db.SchemaError, match=r"0002_one\.sql.* write `-- migrate:up transaction:false`"):
        await migrations.migrate(files)
    assert await names() == ["users"]


async def test_a_concurrent_index_that_fails_leaves_nothing_behind(empty_database: Settings, files: Path) -> None:
    """No invalid index, no record; what was done before in the file stays, and the error says so."""
    await migrations.migrate(files)
    await db.execute_with_retry("INSERT INTO users (name) VALUES ('a'), ('a')")
    text = """-- migrate:up transaction:false
        CREATE INDEX CONCURRENTLY users_first ON users (name);

        CREATE UNIQUE INDEX CONCURRENTLY "Users Name" ON public.users (name);
    """
    write_files(files, {"0002_unique.sql": text})
    expected = r"cannot apply 0002_unique\.sql, line 4: constraint .*; 1 of its statements were done before and stay"
    with pytest.raises(db.SchemaError, match=expected):
        await migrations.migrate(files)
    assert await names("i") == ["users_email", "users_first", "users_name", "users_pkey"]
    assert await rows("SELECT count(*)::int FROM pg_index WHERE NOT indisvalid") == [0]
    assert ("application", "0002") not in await applied()
    assert await locks() == []


async def test_an_invalid_index_is_not_taken_for_the_index(empty_database: Settings, files: Path) -> None:
    """What somebody else's failed attempt has left is dropped, also where the file says IF NOT EXISTS."""
    await migrations.migrate(files, "20261121093000")
    await db.execute_with_retry("INSERT INTO users (name, email) VALUES ('a', 'a'), ('a', 'a')")
    with pytest.raises(db.DatabaseError):
        await db.execute_with_retry("CREATE UNIQUE INDEX CONCURRENTLY users_email ON users (email)")
    assert await rows("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid") == ["users_email"]
    await migrations.migrate(files)
    assert await rows("SELECT indisvalid, indisunique FROM pg_index WHERE indexrelid = 'users_email'::regclass") == [
        (True, False)
    ]


async def test_a_concurrent_index_does_not_wait_for_those_who_wait(empty_database: Settings, files: Path) -> None:
    """A statement that stood in line for the lock would have a snapshot, for which the index waits: for ever."""
    await migrations.migrate(files, "20261121093000")
    async with db.get_db_transaction() as conn:
        await conn.execute("INSERT INTO users (name) VALUES ('holds the index up')")
        calls = [asyncio.create_task(migrations.migrate(files)) for _ in range(20)]
        while not await rows(BUILT):
            await asyncio.sleep(0.02)
    results = await asyncio.wait_for(asyncio.gather(*calls), 60)
    assert sorted(len(result) for result in results) == [0] * 19 + [1]
    assert await names("i") == ["users_email", "users_name", "users_pkey"]


async def test_another_default_isolation_changes_nothing(empty_database: Settings, files: Path) -> None:
    """Snapshots of a whole transaction would be older than the lock, and an index would wait for them."""
    name = (await rows("SELECT current_database()"))[0]
    await db.execute_with_retry(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'")
    await db.close_connection_pool()
    results = await asyncio.wait_for(asyncio.gather(*[migrations.migrate(files) for _ in range(20)]), 60)
    assert sorted(chain(*results)) == sorted(path.name for path in files.iterdir())


async def test_cancelling_a_concurrent_index_stops_it_in_the_server(empty_database: Settings, files: Path) -> None:
    """No statement goes on, no lock is held, and the next call does it all."""
    await migrations.migrate(files, "20261121093000")
    async with db.get_db_transaction() as conn:
        await conn.execute("INSERT INTO users (name) VALUES ('holds the index up')")
        call = asyncio.create_task(migrations.migrate(files))
        while not await rows(BUILT):
            await asyncio.sleep(0.02)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await locks() == []
        while await rows(BUILT):
            await asyncio.sleep(0.02)  # it ends although nobody lets it through
    assert await migrations.migrate(files) == ["20261121093001_index.sql"]
    assert await rows("SELECT count(*)::int FROM pg_index WHERE NOT indisvalid") == [0]


# --- many at once


async def test_cancelling_leaves_nothing_behind(empty_database: Settings, tmp_path: Path) -> None:
    """Neither tables nor the lock."""
    text = "-- migrate:up\nCREATE TABLE users ();\nSELECT pg_sleep(60);"
    write_files(tmp_path, {"0001_slow.sql": text})
    call = asyncio.create_task(migrations.migrate(tmp_path))
    while not await locks():
        await asyncio.sleep(0.02)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await locks(), await names()) == ([], [])


async def test_a_timeout_ends_it(empty_database: Settings, files: Path, tmp_path: Path) -> None:
    """A slow file is undone; whoever waits for the lock is told who has it."""
    slow = write_files(
        tmp_path / "slow", {"0001_slow.sql": "-- migrate:up\nCREATE TABLE users ();\nSELECT pg_sleep(60);"}
    )
    with pytest.raises(db.DatabaseError, match=r"apply 0001_slow\.sql, line 3: nothing was stored: no answer in time"):
        await migrations.migrate(slow, timeout=0.2)
    assert await names() == []
    async with db.get_db_transaction() as conn:
        await migrations.migrate(files, "0001", conn=conn)
        with pytest.raises(db.SchemaError, match=r"cannot apply 0001_users\.sql: somebody else .* pg_locks"):
            await migrations.migrate(files, "0001", timeout=0.2)
    assert await applied() == [("application", "0001")]


async def test_a_limit_for_statements_is_none_for_files(empty_database: Settings, files: Path) -> None:
    """DB_STATEMENT_TIMEOUT and DB_COMMAND_TIMEOUT are for the application's statements."""
    db.configure(empty_database.model_copy(update={"statement_timeout": 0.3, "command_timeout": 0.3}))
    text = "-- migrate:up{}\nSELECT pg_sleep(0.7)"
    write_files(files, {"0002_a.sql": text.format(""), "0003_b.sql": text.format(" transaction:false")})
    assert len(await migrations.migrate(files)) == 5


async def test_a_hundred_workers_apply_each_once(empty_database: Settings, files: Path, tmp_path: Path) -> None:
    """Tasks of several processes, which start at the same moment; all return when all of it is there."""
    write_files(
        files, {f"1{number:03}_n.sql": "-- migrate:up\nINSERT INTO users (name) VALUES ('n')" for number in range(5)}
    )
    program = tmp_path / "worker.py"
    program.write_text(f"""
import asyncio, database as db
from database.migrations import migrate

async def main():
    done = await asyncio.gather(*[migrate({str(files)!r}) for _ in range(25)])
    print(sum(map(len, done)), await db.execute_with_retry("SELECT count(*) FROM users"))
    await db.close_connection_pool()

asyncio.run(main())
""")
    environment = {
        "DATABASE_URL": empty_database.dsn,
        "DB_POOLER": empty_database.pooler,
        "DB_MIN_CONNECTIONS": "0",
        "DB_MAX_CONNECTIONS": "5",
    }
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(program),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(4)
    ]
    told = [await asyncio.wait_for(worker.communicate(), 100) for worker in workers]
    assert [error for _, error in told] == [b""] * 4
    found = [re.fullmatch(r"(\d+) \[\{'count': 5\}\]\n", out.decode()) for out, _ in told]
    assert sum(int(match[1]) for match in found if match) == 8
    assert len(await applied()) == 8 and await locks() == []


async def test_two_may_roll_back_at_once(empty_database: Settings, files: Path) -> None:
    """Each undoes one; none is undone twice."""
    await migrations.migrate(files)
    undone = await asyncio.gather(*[migrations.rollback(1, files) for _ in range(5)])
    assert sorted(chain(*undone)) == sorted(path.name for path in files.iterdir())


async def test_up_and_down_at_once(empty_database: Settings, files: Path) -> None:
    """Whatever the order, the record says what is there."""
    (files / "20261121093001_index.sql").unlink()
    calls = [migrations.migrate(files) if number % 2 else migrations.rollback(1, files) for number in range(20)]
    for result in await asyncio.gather(*calls, return_exceptions=True):
        # email needs users: who was to apply it while users went is told so
        assert isinstance(result, list) or "0001" in str(result) or "email" in str(result), result
    recorded = [version for _, version in await applied()]
    assert (await names() == ["users"]) == ("0001" in recorded)


# --- conn=, schema=


async def test_in_the_callers_transaction(empty_database: Settings, files: Path) -> None:
    """All of it is undone with it; what runs outside of transactions is refused."""
    with pytest.raises(RuntimeError):
        async with db.get_db_transaction() as conn:
            assert len(await migrations.migrate(files, "20261121093000", conn=conn)) == 2
            states = [each["state"] for each in await migrations.migration_status(files, conn=conn)]
            assert states == ["applied", "applied", "pending"]
            with pytest.raises(db.SchemaError, match=r"index\.sql: .* outside of a transaction; call it without conn="):
                await migrations.migrate(files, conn=conn)
            assert await migrations.rollback(1, files, conn=conn) == ["20261121093000_email.sql"]
            raise RuntimeError
    assert await rows("SELECT to_regclass('database_migration')::text") == [None]


async def test_a_connection_of_the_drivers(empty_database: Settings, files: Path) -> None:
    """One that the package has not made will do."""
    conn = await asyncpg.connect(empty_database.dsn)
    try:
        assert await migrations.migrate(files, "0001", conn=conn) == ["0001_users.sql"]
    finally:
        await conn.close()
    assert await names() == ["users"]


async def test_in_a_schema(empty_database: Settings, files: Path) -> None:
    """Tables and record are there, whatever its name, also of files outside of a transaction; public has neither."""
    name = 'a "b".c; --'
    await db.repository.create_schema(name)
    assert len(await migrations.migrate(files, schema=name)) == 3
    assert await db.repository.list_tables(schema=name) == ["database_migration", "users"]
    assert await names() == []
    assert await migrations.migrate(files) == (await migrations.rollback(3, files, schema=name))[::-1]
    assert await db.repository.list_tables(schema=name) == ["database_migration"]
    async with db.get_db_transaction() as conn:
        before = await conn.fetchval("SELECT current_setting('search_path')")
        await migrations.migrate(files, "0001", schema=name, conn=conn)
        assert await conn.fetchval("SELECT current_setting('search_path')") == before


async def test_no_pool_connection_is_lost(empty_database: Settings, files: Path) -> None:
    """Whatever happened, all of them are idle afterwards."""
    await migrations.migrate(files)
    write_files(files, {"0002_wrong.sql": "-- migrate:up transaction:false\nSELECT 1/0"})
    for _ in range(12):
        with pytest.raises(db.SchemaError, match="line 2"):
            await migrations.migrate(files)
    pool = await get_connection_pool()
    while pool.get_idle_size() < pool.get_size():  # they are reset in the background
        await asyncio.sleep(0.01)
