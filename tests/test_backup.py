"""Dumps: whole or not at all, restored beside and swapped, fetched over ssh, committed to git."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import stat
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from pydantic import SecretStr

import database as db
from database import BackupError, repository
from database.backup.places import find_place
from database.backup.programs import find_clients, run_program
from database.backup.restoring import mark_of
from database.settings import Settings, configure

from .conftest import database_url
from .roles import connected_as, login_role
from .sshd import sshd

DUMPS = Path("dumps")

# a column of every type that the package knows about
_EVERYTHING = """
    CREATE TYPE mood AS ENUM ('sad', 'über');
    CREATE TYPE pair AS (a integer, b text);
    CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
    CREATE SCHEMA project;
    CREATE TABLE project.everything (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        a_jsonb jsonb, a_json json, a_bool boolean, a_small smallint, a_big bigint, a_real real,
        a_double double precision,
        a_numeric numeric(40, 10), a_text text, a_varchar varchar(5), a_char char(3), a_name name,
        a_bytea bytea, a_uuid uuid,
        a_date date, a_time time, a_timetz timetz, a_timestamp timestamp, a_timestamptz timestamptz,
        a_interval interval,
        an_inet inet, a_cidr cidr, a_mac macaddr, a_mood mood, a_pair pair, a_range int4range, a_tsrange tstzrange,
        a_multirange int4multirange, a_point point, a_box box, a_bit bit(3), a_vector tsvector, a_query tsquery,
        a_positive positive, a_xid xid8, a_generated text GENERATED ALWAYS AS (upper(a_text)) STORED,
        texts text[], ints integer[][], moods mood[], pairs pair[], jsons jsonb[]
    );
    INSERT INTO project.everything OVERRIDING SYSTEM VALUE VALUES (
        7, '{"a": [1, null, "\\u00e9"]}', '{"b":  1}', true, -32768, 9223372036854775807, 'NaN', '-Infinity',
        12345678901234567890.0123456789, E'tab\\tnewline\\n\\\\ "quote" \\'s 漢字 🐘', 'abcde', 'x', 'n', '\\x00ff10',
        '0195f000-0000-7000-8000-000000000000', 'infinity', '24:00', '12:00+05:30', '-infinity',
        '1999-12-31 23:59:59.999999+01',
        '1 year -2 days 03:04:05.678', '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', 'über', ROW(1, 'a,"b'), '[1,5)',
        '[2020-01-01,)', '{[1,3),[7,9)}', '(1,-2.5)', '(3,4),(1,2)', B'101', to_tsvector('english', 'green tea'),
        'green & tea', 5, '99999999999', DEFAULT, ARRAY['a', NULL, ''], '[0:1][2:3]={{1,2},{3,4}}', '{sad,über}',
        ARRAY[ROW(1, NULL)::pair], ARRAY['{}'::jsonb, 'null']
    );
    INSERT INTO project.everything DEFAULT VALUES;
    CREATE FUNCTION project.twice(n integer) RETURNS integer LANGUAGE sql IMMUTABLE RETURN 2 * n;
    CREATE VIEW project.seen AS SELECT id, a_text FROM project.everything WHERE id > project.twice(1);
    CREATE MATERIALIZED VIEW project.counted AS SELECT count(*) FROM project.everything;
    CREATE INDEX ON project.everything USING gin (a_vector);
    CREATE TABLE part (day date, n integer) PARTITION BY RANGE (day);
    CREATE TABLE part_2024 PARTITION OF part FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    INSERT INTO part VALUES ('2024-02-29', 1);
    CREATE SEQUENCE counting; SELECT nextval('counting'), nextval('counting');
    SELECT lo_from_bytea(0, 'a large object');
    ALTER TABLE part ENABLE ROW LEVEL SECURITY;
    CREATE POLICY mine ON part USING (n = 1);
    COMMENT ON TABLE part IS 'It''s parted';
"""


async def execute(script: str) -> None:
    async with db.get_db_connection() as conn:
        await conn.execute(script)


async def name_of_database() -> str:
    async with db.get_db_connection() as conn:
        return str(await conn.fetchval("SELECT current_database()"))


async def contents() -> dict[str, list[str]]:
    """Every row of every table of the default database, as text."""
    async with db.get_db_connection() as conn:
        tables = await conn.fetch(
            "SELECT c.oid::regclass::text AS name, relkind = 'S' AS counts "
            "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace "
            "WHERE relkind IN ('r', 'p', 'm', 'S') AND nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1"
        )
        sources = [
            (name, f"SELECT {'ROW(last_value, is_called)' if counts else 't'}::text AS r FROM {name} AS t ORDER BY 1")
            for name, counts in tables
        ]
        sources.append(("objects", "SELECT encode(lo_get(oid), 'hex') AS r FROM pg_largeobject_metadata ORDER BY 1"))
        rows = {name: await conn.fetch(source) for name, source in sources}
    return {name: [row["r"] for row in found] for name, found in rows.items()}


async def definitions() -> str:
    """What pg_dump says of everything but the data."""
    settings = db.get_settings()
    place, _ = await find_place(settings)
    program = find_clients(place.server_version).directory / "pg_dump"
    with place.surroundings(settings) as surroundings:
        text = await run_program([program, "--schema-only"], surroundings, doing="compare")
    return re.sub(r"^(?:--|\\(?:un)?restrict).*\n", "", text, flags=re.MULTILINE)


async def databases() -> set[str]:
    """What is there for a time while the default database is restored."""
    like = f"pgdatabase\\_re%\\_{mark_of(await name_of_database())}%"
    async with db.get_db_connection() as conn:
        return {row[0] for row in await conn.fetch("SELECT datname FROM pg_database WHERE datname LIKE $1", like)}


def files(directory: Path = DUMPS) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def programs(name: str) -> list[psutil.Process]:
    """Those that this process has started and that still run."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if child.name().startswith(name) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while True:
            result = condition()
            if isinstance(result, Awaitable):
                result = await result
            if result:
                return
            await asyncio.sleep(0.01)


# --- round trips


async def test_a_round_trip_brings_everything_back(database: Settings) -> None:
    """All types, documents, chats, schemas, views, partitions, policies, sequences, large objects: the same again."""
    await execute(_EVERYTHING)
    await db.upsert_document("Tea", "kitchen/tea", "Green tea 漢字", metadata={"a": [1]})
    await db.save_chat_history(1, "t", "What?", "That.")
    rows, schema = await contents(), await definitions()
    assert len(rows["project.everything"]) == 2 and len(rows["objects"]) == 1
    dump = await db.dump_database()

    await execute("DROP SCHEMA project CASCADE; DROP TABLE part; DELETE FROM document; CREATE TABLE newer ()")
    told: list[dict[str, Any]] = []
    name = await name_of_database()
    restored = await db.restore_database(dump["path"], confirm=name, clean=True, progress=told.append)
    assert await contents() == rows
    assert await definitions() == schema
    assert restored["replaced"] and restored["tables"] == told[-1]["done"] == told[-1]["total"]
    assert (await db.search_documents("tea"))[0]["code"] == "kitchen/tea"
    assert await databases() == set()


async def test_vectors_come_back(database: Settings) -> None:
    """With their extension and its index."""
    try:
        await execute("CREATE EXTENSION vector")
    except db.DatabaseError:
        pytest.skip("this server has no pgvector")
    await execute(
        "CREATE TABLE parts (v vector(3), h halfvec(2)); INSERT INTO parts VALUES ('[1,2.5,-0.1]', '[1,0]');"
        "CREATE INDEX ON parts USING hnsw (v vector_l2_ops)"
    )
    rows, schema = await contents(), await definitions()
    dump = await db.dump_database()
    await execute("DROP TABLE parts")
    await db.restore_database(dump["path"], confirm=await name_of_database(), clean=True)
    assert (await contents(), await definitions()) == (rows, schema)


async def test_a_dump_is_told_listed_and_nobody_elses(database: Settings) -> None:
    """The report, the list and sha256sum agree; only the owner can read the files."""
    told: list[dict[str, Any]] = []
    os.umask(0)
    try:
        first = await db.dump_database(progress=told.append)
    finally:
        os.umask(0o022)
    second = await db.dump_database("dumps/named.dump")
    third = await db.dump_database()
    listed, *newer = reversed(db.list_dumps())
    assert [listed["path"], *(each["path"] for each in newer)] == [each["path"] for each in (first, second, third)]
    assert listed["database"] == first["database"] == await name_of_database()
    assert (listed["bytes"], listed["sha256"]) == (first["bytes"], first["sha256"])
    assert listed["server_version"] == first["server_version"]
    assert hashlib.sha256(Path(first["path"]).read_bytes()).hexdigest() == first["sha256"]
    subprocess.run(["sha256sum", "--check", "--strict", Path(first["path"]).name + ".sha256"], cwd=DUMPS, check=True)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in DUMPS.iterdir())
    assert stat.S_IMODE(DUMPS.stat().st_mode) == 0o700
    assert told[-1]["done"] == told[-1]["total"] == first["tables"] and told[-1]["bytes"] > 0
    assert db.list_dumps("nowhere") == []


async def test_a_dump_overwrites_nothing(database: Settings) -> None:
    """Neither a dump nor anything else of that name."""
    DUMPS.mkdir()
    (DUMPS / "x.dump").write_text("precious")
    with pytest.raises(BackupError, match=r"x\.dump is there already"):
        await db.dump_database("dumps/x.dump")
    assert files() == ["x.dump"] and (DUMPS / "x.dump").read_text() == "precious"


async def test_a_name_that_looks_like_an_option(database: Settings) -> None:
    """Is the name of a file."""
    await db.dump_database("--list.dump")
    assert (await db.restore_database("--list.dump", confirm=await name_of_database(), clean=True))["replaced"]


@pytest.mark.parametrize("path", ["file/x.dump", "/proc/x.dump"])
async def test_a_place_that_cannot_be_written_is_an_error_of_ours(database: Settings, path: str) -> None:
    Path("file").write_text("precious")
    with pytest.raises(BackupError, match=f"cannot write {path}: "):
        await db.dump_database(path)
    assert Path("file").read_text() == "precious"


async def test_into_a_database_that_is_empty_or_not_there(database: Settings, server_url: str) -> None:
    """Neither needs clean=True; another database than the one that was dumped gets its rows."""
    await db.insert_document("Tea", "kitchen/tea", "x")
    dump = await db.dump_database()
    name = f"test_{uuid.uuid4().hex}"
    url = database_url(server_url, name)
    configure(Settings(database_url=url, min_connections=0), "copy")
    try:
        report = await db.restore_database(dump["path"], confirm=name, name="copy")
        assert report["replaced"] is False
        async with db.get_db_connection("copy") as conn:
            assert await conn.fetchval("SELECT count(*) FROM document") == 1
        await execute("SELECT 1")
        await db.close_connection_pool("copy")
        await execute(f'DROP DATABASE "{name}"')
        await execute(f'CREATE DATABASE "{name}"')
        assert (await db.restore_database(dump["path"], confirm=name, name="copy"))["replaced"] is True
    finally:
        await db.close_connection_pool("copy")
        await execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        configure(None, "copy")


async def test_what_was_set_for_the_database_stays(database: Settings) -> None:
    """Settings, grants, comment, limit, owner and locale are not in a dump, and are those of the one replaced."""
    name = await name_of_database()
    async with login_role() as role:
        await execute(
            f"""
            ALTER DATABASE "{name}" SET work_mem TO '5MB';
            ALTER DATABASE "{name}" SET search_path TO "$user", public, "odd ""schema"" here";
            ALTER ROLE {role} IN DATABASE "{name}" SET application_name TO 'it''s';
            REVOKE CONNECT ON DATABASE "{name}" FROM PUBLIC;
            GRANT CREATE, CONNECT ON DATABASE "{name}" TO {role} WITH GRANT OPTION;
            COMMENT ON DATABASE "{name}" IS 'It''s mine';
            ALTER DATABASE "{name}" CONNECTION LIMIT 77;
            """
        )

        async def read() -> list[dict[str, Any]]:
            return await repository.execute_raw(
                """
                SELECT to_jsonb(d) - 'oid' - 'datfrozenxid' - 'datminmxid' - 'datacl' AS facts,
                       (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) AS a) AS acl,
                       shobj_description(oid, 'pg_database') AS comment,
                       (SELECT array_agg(setconfig::text ORDER BY setconfig::text) FROM pg_db_role_setting
                         WHERE setdatabase = d.oid) AS settings
                  FROM pg_database AS d WHERE datname = current_database()
                """
            )

        before = await read()
        assert len(before[0]["settings"]) == 2
        dump = await db.dump_database()
        await db.restore_database(dump["path"], confirm=name, clean=True)
        assert await read() == before
        await execute(f'REVOKE ALL ON DATABASE "{name}" FROM {role}; ALTER ROLE {role} IN DATABASE "{name}" RESET ALL')


# --- nothing half


async def test_a_dump_that_is_cancelled_leaves_nothing(database: Settings) -> None:
    """Neither a file nor a program."""
    async with db.get_db_transaction() as conn:
        await conn.execute("LOCK TABLE document IN ACCESS EXCLUSIVE MODE")
        task = asyncio.create_task(db.dump_database())
        await until(lambda: programs("pg_dump") and files())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert files() == [] and programs("pg_dump") == []


async def test_a_dump_whose_program_is_killed_leaves_nothing(database: Settings) -> None:
    """And says so."""
    async with db.get_db_transaction() as conn:
        await conn.execute("LOCK TABLE document IN ACCESS EXCLUSIVE MODE")
        task = asyncio.create_task(db.dump_database())
        await until(lambda: programs("pg_dump"))
        for process in programs("pg_dump"):
            process.kill()
        with pytest.raises(BackupError, match="pg_dump was killed by signal 9"):
            await task
    assert files() == []


async def test_a_full_disk_leaves_nothing(database: Settings, tmp_path: Path) -> None:
    """A file system of 60 kB: the error says it, and no part of a dump stays."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        for number in range(50):
            await db.insert_document("x", f"d{number}", " ".join(uuid.uuid4().hex for _ in range(200)))
        with pytest.raises((BackupError, OSError), match="No space left on device"):
            await db.dump_database(directory=small)
        assert files(small) == []
    finally:
        subprocess.run(["umount", small], check=True)


async def test_a_lost_server_leaves_nothing(database: Settings) -> None:
    """The connection of pg_dump is cut off."""
    async with db.get_db_transaction() as conn:
        await conn.execute("LOCK TABLE document IN ACCESS EXCLUSIVE MODE")
        task = asyncio.create_task(db.dump_database())
        cut = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        async with db.get_db_connection() as other:  # in a transaction, the activity stays what it was
            await until(lambda: other.fetchval(cut))
        with pytest.raises(BackupError, match="pg_dump: "):
            await task
    assert files() == []


SLOW = """
    CREATE FUNCTION slow(n integer) RETURNS boolean
        LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_sleep(CASE WHEN current_database() ~ '^pgdatabase_' THEN n END); RETURN true;
        END $$;
    CREATE TABLE slowly (n integer);
    INSERT INTO slowly VALUES (20);
    ALTER TABLE slowly ADD CHECK (slow(n));
"""


@pytest.mark.parametrize("way", ["cancelled", "killed", "cut off"])
async def test_a_restoring_that_ends_in_the_middle_changes_nothing(database: Settings, way: str) -> None:
    """The database is as it was, no other is left, and no program runs on."""
    await execute(SLOW)
    dump = await db.dump_database()
    await db.insert_document("Newer", "newer", "than the dump")
    before = await contents()
    name = await name_of_database()
    task = asyncio.create_task(db.restore_database(dump["path"], confirm=name, clean=True))
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity "
        f"WHERE wait_event = 'PgSleep' AND datname ~ '^pgdatabase_restoring_{mark_of(name)}'"
    )
    async with db.get_db_connection() as conn:
        await until(lambda: conn.fetchval(sleeping))
        if way == "cut off":
            await conn.fetch(sleeping.replace("count(*)", "pg_terminate_backend(pid)"))
    if way == "killed":
        for process in programs("pg_restore"):
            process.kill()
    if way == "cancelled":
        task.cancel()
    with pytest.raises(asyncio.CancelledError if way == "cancelled" else BackupError):
        await task
    assert await contents() == before
    assert await databases() == set() and programs("pg_restore") == []


async def test_the_old_one_or_the_new_one_is_always_there(database: Settings) -> None:
    """Who comes finds one of the two, whole; calls of the package do so without an error; who is in it is cut off."""
    name = await name_of_database()
    await execute("CREATE TABLE version AS SELECT 1 AS n")
    dump = await db.dump_database()
    await execute("UPDATE version SET n = 2")
    seen: list[int] = []
    called: list[int] = []
    done = False

    async def come_and_go() -> None:
        while not done:
            try:
                connection = await asyncpg.connect(database.dsn)
                try:
                    seen.append(await connection.fetchval("SELECT n FROM version"))
                finally:
                    connection.terminate()
            except asyncpg.InvalidCatalogNameError as exc:
                assert exc.detail, "only in the moment of the renaming"
            except (asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError, ConnectionError):
                pass
            except asyncpg.InternalClientError as exc:
                assert "operation" in str(exc), "what asyncpg says where a connection ends between two steps"

    async def call() -> None:
        while not done:
            rows = await db.execute_with_retry("SELECT n FROM version", name="other", retry_delay=0.05)
            assert isinstance(rows, list)
            called.append(rows[0]["n"])

    configure(database, "other")
    clients = [asyncio.create_task(work()) for work in (come_and_go, come_and_go, call, call)]
    resident = await asyncpg.connect(database.dsn)
    try:
        await until(lambda: len(seen) > 5 and len(called) > 5)
        await db.restore_database(dump["path"], confirm=name, clean=True)
        counts = len(seen), len(called)
        await until(
            lambda: (len(seen) > counts[0] + 5 and len(called) > counts[1] + 5) or any(c.done() for c in clients)
        )
    finally:
        done = True
        await asyncio.wait(clients)
        await db.close_connection_pool("other")
        configure(None, "other")
    await asyncio.gather(*clients)
    for each in (seen, called):
        assert set(each) == {1, 2} and each[-1] == 1
    await until(resident.is_closed)


async def test_what_a_killed_restoring_left_is_dropped_by_the_next(database: Settings) -> None:
    """Unless one is on its way."""
    dump = await db.dump_database()
    name = await name_of_database()
    other = await asyncpg.connect(database_url(database.dsn, "postgres").get_secret_value())
    await other.execute("SELECT pg_advisory_lock_shared($1)", int(mark_of(name), 16))
    left = f"pgdatabase_restoring_{mark_of(name)}{uuid.uuid4().hex[:16]}"
    await execute(f"CREATE DATABASE {left}")
    await db.restore_database(dump["path"], confirm=name, clean=True)
    assert await databases() == {left}
    await other.close()
    await db.restore_database(dump["path"], confirm=name, clean=True)
    assert await databases() == set()


# --- refusals


async def test_what_is_not_meant_is_refused(database: Settings) -> None:
    """Another name, a database with something in it, another server, a pooler."""
    dump = await db.dump_database()
    name = await name_of_database()
    path = dump["path"]
    with pytest.raises(BackupError, match="confirm says 'production'"):
        await db.restore_database(path, confirm="production", clean=True)
    with pytest.raises(BackupError, match=r"is not empty: clean=True \(--clean\) replaces it"):
        await db.restore_database(path, confirm=name)
    with pytest.raises(BackupError, match=r"and not to db\.example\.com: nothing was done"):
        await db.restore_database(path, confirm=name, clean=True, server="db.example.com")
    configure(database.model_copy(update={"pooler": "transaction"}))
    for call in (db.dump_database(), db.restore_database(path, confirm=name, clean=True)):
        with pytest.raises(BackupError, match="through a pooler"):
            await call
    configure(database)
    assert files() == [Path(path).name, Path(path).name + ".sha256"]


@pytest.mark.parametrize(
    "content",
    [
        "CREATE VIEW v AS SELECT 1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1",
        "CREATE TYPE t AS ENUM ('a')",
        "CREATE SCHEMA s",
        "SELECT lo_create(0)",
        "CREATE DOMAIN d AS text",
        "CREATE SEQUENCE s",
    ],
)
async def test_anything_makes_a_database_not_empty(empty_database: Settings, content: str) -> None:
    """An extension alone does not: it is often there from the start."""
    name = await name_of_database()
    await execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    dump = await db.dump_database()
    await db.restore_database(dump["path"], confirm=name)
    await execute(content)
    with pytest.raises(BackupError, match="is not empty"):
        await db.restore_database(dump["path"], confirm=name)


async def test_a_dump_that_is_not_what_was_dumped_is_refused(database: Settings) -> None:
    """A changed byte, a part, no checksum, another file; what to do about it is said."""
    dump = await db.dump_database()
    name, path = await name_of_database(), Path(dump["path"])
    whole = path.read_bytes()
    await db.insert_document("x", "newer", "x")

    async def refused(match: str) -> None:
        with pytest.raises(BackupError, match=match):
            await db.restore_database(path, confirm=name, clean=True)

    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    await refused("is not what was dumped")
    path.write_bytes(whole[: len(whole) // 2])
    await refused("is not what was dumped")
    path.write_bytes(whole)
    Path(f"{path}.sha256").unlink()
    await refused("there is no checksum .* `sha256sum .*`")
    path.write_text("CREATE TABLE x ();")
    Path(f"{path}.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    await refused("is no dump")
    path.write_bytes(whole[: len(whole) // 2])
    Path(f"{path}.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    await refused("cannot restore|cannot read|is no dump")
    with pytest.raises(BackupError, match="there is no dump nothing"):
        await db.restore_database("nothing.dump", confirm=name)
    assert await db.get_document_by_code("newer") and await databases() == set()


async def test_a_role_that_is_missing_is_named_with_the_way_out(database: Settings) -> None:
    """Nothing is restored with half of its grants, unless without all of them."""
    name = await name_of_database()
    async with login_role() as role:
        await execute(f"CREATE TABLE theirs (); ALTER TABLE theirs OWNER TO {role}; GRANT SELECT ON document TO {role}")
        dump = await db.dump_database()
    before = await contents()
    with pytest.raises(BackupError, match=rf'role "{role}" does not exist; owners=False \(--no-owners\)'):
        await db.restore_database(dump["path"], confirm=name, clean=True)
    assert await contents() == before and "theirs" not in before
    await db.restore_database(dump["path"], confirm=name, clean=True, owners=False)
    assert "theirs" in await contents()


async def test_an_error_of_the_server_quotes_no_row(database: Settings) -> None:
    """Neither the message nor a traceback; server_message() has all of it."""
    name = await name_of_database()
    await execute(
        "CREATE FUNCTION fine(t text) RETURNS boolean LANGUAGE sql AS 'SELECT current_database() !~ ''^pgdatabase_''';"
        "CREATE TABLE picky (t text CHECK (fine(t))); INSERT INTO picky VALUES ('a secret')"
    )
    dump = await db.dump_database()
    with pytest.raises(BackupError) as caught:
        await db.restore_database(dump["path"], confirm=name, clean=True)
    assert "secret" not in str(caught.value) and 'COPY failed for table "picky"' in str(caught.value)
    assert "secret" in (caught.value.server_message() or "")


async def test_a_role_of_its_own_is_enough(empty_database: Settings) -> None:
    """It owns the database and may make others: no superuser is needed."""
    name = await name_of_database()
    async with login_role() as role:
        await execute(f'ALTER ROLE {role} CREATEDB; ALTER DATABASE "{name}" OWNER TO {role}')
        await execute(f"ALTER SCHEMA public OWNER TO {role}")
        async with connected_as(role, empty_database):
            await db.init_document_table()
            await db.insert_document("Tea", "tea", "x")
            dump = await db.dump_database()
            await db.delete_document("tea")
            await db.restore_database(dump["path"], confirm=name, clean=True)
            assert await db.get_document_by_code("tea")
        await execute(f'ALTER DATABASE "{name}" OWNER TO CURRENT_USER; ALTER SCHEMA public OWNER TO CURRENT_USER')


async def test_clients_that_may_not_be_cut_off_keep_the_old_database(empty_database: Settings) -> None:
    """Nothing is changed or left behind, and what can be done is said."""
    name = await name_of_database()
    async with login_role() as role:
        await execute(f'ALTER ROLE {role} CREATEDB; ALTER DATABASE "{name}" OWNER TO {role}')
        async with connected_as(role, empty_database):
            await execute("CREATE SCHEMA mine")
            dump = await db.dump_database()
            client = await asyncpg.connect(empty_database.dsn)
            with pytest.raises(
                BackupError, match=r"clients of another role are connected .*, or restore as a superuser"
            ):
                await db.restore_database(dump["path"], confirm=name, clean=True, owners=False)
            assert await databases() == set() and not client.is_closed()
            await client.close()
            await db.restore_database(dump["path"], confirm=name, clean=True, owners=False)
        await execute(f'ALTER DATABASE "{name}" OWNER TO CURRENT_USER; ALTER SCHEMA mine OWNER TO CURRENT_USER')


def test_programs_that_are_too_old_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was found, and what to install, stand in the error; so where there are none."""
    with pytest.raises(BackupError, match=r"no pg_restore can bring into PostgreSQL 15: .* pg_dump 15"):
        find_clients(15, at_least=18, restoring=True)
    with pytest.raises(BackupError, match=r"of PostgreSQL 99 or newer was not found \(there is: .*\d+\.\d+ in /"):
        find_clients(99)
    monkeypatch.setenv("DB_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(BackupError, match=r"there is: none\): install the package postgresql-client-18"):
        find_clients(18)


# --- secrets


@pytest.fixture
async def watched(database: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that note what they were given, and then are what they are called; the notes are in this directory."""
    place, _ = await find_place(database)
    real = find_clients(place.server_version, restoring=True).directory
    directory = tmp_path / "bin"
    directory.mkdir()
    notes = tmp_path / "notes"
    notes.mkdir()
    for program in ("pg_dump", "pg_restore"):
        script = directory / program
        script.write_text(
            f"""#!/bin/sh
            tr '\\0' ' ' < /proc/$$/cmdline > {notes}/{program}.argv
            env > {notes}/{program}.env
            if [ -n "$PGPASSFILE" ]; then
                cp "$PGPASSFILE" {notes}/{program}.pass
                stat -L -c '%a %h' "$PGPASSFILE" > {notes}/{program}.mode
            fi
            exec {real}/{program} "$@"
            """
        )
        script.chmod(0o755)
    monkeypatch.setenv("DB_POSTGRES_BIN", str(directory))
    return notes


async def test_the_password_is_in_a_file_for_the_time(
    database: Settings, watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not among the arguments, not in the environment of pg_dump; the file is 0600, and has no name."""
    url = database.dsn.replace("postgres@", "postgres:ge%3Ahe%5Cim@", 1)
    assert url != database.dsn
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("PGPASSWORD", "ge:he\\im")
    configure(Settings(database_url=SecretStr(url), min_connections=0))
    dump = await db.dump_database()
    await db.restore_database(dump["path"], confirm=await name_of_database(), clean=True)
    for program in ("pg_dump", "pg_restore"):
        given = (watched / f"{program}.argv").read_text() + (watched / f"{program}.env").read_text()
        assert "ge%3A" not in given and "ge:he" not in given
        assert (watched / f"{program}.pass").read_text() == "*:*:*:*:ge\\:he\\\\im\n"
        assert (watched / f"{program}.mode").read_text().split() == ["600", "0"]
    configure(database)


async def test_a_server_without_its_password_is_told_without_it(database: Settings) -> None:
    """Where nobody answers, the message names the address alone."""
    configure(Settings(database_url=SecretStr("postgresql://a:geheim@127.0.0.1:1/x"), connection_timeout=1))
    with pytest.raises(db.DatabaseNotAvailableError, match=r"connect to postgresql://a@127\.0\.0\.1:1/x") as caught:
        await db.dump_database()
    assert "geheim" not in str(caught.value) and files() == []
    configure(database)


# --- other machines, and git


@asynccontextmanager
async def another_machine(directory: Path, dsn: str) -> AsyncIterator[tuple[str, list[str]]]:
    """This one, reached through an sshd, with a project in *directory* whose .env says *dsn*."""
    with sshd(directory / "ssh") as there:
        (directory / "project").mkdir()
        (directory / "project" / ".env").write_text(f"DATABASE_URL={dsn}\nDB_MIN_CONNECTIONS=0\n")
        yield there.remote, there.options


async def test_the_database_of_another_machine(database: Settings, server_url: str, tmp_path: Path) -> None:
    """Dumped there, fetched over a real ssh with its checksum, restored here; nothing is left there."""
    await db.insert_document("Tea", "kitchen/tea", "from there")
    here = f"test_{uuid.uuid4().hex}"
    configure(Settings(database_url=database_url(server_url, here), min_connections=0), "here")
    command = f"{sys.executable} -m database dump -"
    try:
        async with another_machine(tmp_path, database.dsn) as (remote, options):
            report = await db.sync_from(
                remote, confirm=here, name="here", ssh_options=options, remote_command=command,
                remote_directory=str(tmp_path / "project"),
            )  # fmt: skip
            assert report["database"] == here
            async with db.get_db_connection("here") as conn:
                assert await conn.fetchval("SELECT content FROM document") == "from there"
            (listed,) = db.list_dumps()
            assert listed["path"] == report["path"] and listed["sha256"]
            assert files(tmp_path / "project") == [".env"]

            with pytest.raises(BackupError, match="is not empty"):
                await db.sync_from(
                    remote, confirm=here, name="here", ssh_options=options, remote_command=command,
                    remote_directory=str(tmp_path / "project"),
                )  # fmt: skip
    finally:
        await db.close_connection_pool("here")
        configure(None, "here")
        await execute(f'DROP DATABASE IF EXISTS "{here}" WITH (FORCE)')


async def test_a_dump_that_does_not_arrive_whole_is_not_there(database: Settings, tmp_path: Path) -> None:
    """The remote command fails, sends a part, sends something else; nobody is there: no file, nothing restored."""
    dump = await db.dump_database("whole/x.dump")
    name = await name_of_database()
    whole = Path("whole/x.dump").resolve()
    before = await contents()
    async with another_machine(tmp_path, database.dsn) as (remote, options):
        with pytest.raises(BackupError, match="confirm says 'other'"):
            await db.sync_from(
                remote, confirm="other", ssh_options=options, remote_command=f"touch {tmp_path}/asked; cat {whole}"
            )
        assert not (tmp_path / "asked").exists(), "what is not meant is refused before anything is fetched"

        async def refused(command: str, match: str, options: list[str] = options) -> None:
            with pytest.raises(BackupError, match=match):
                await db.sync_from(remote, confirm=name, clean=True, ssh_options=options, remote_command=command)
            assert files() == []

        await refused("echo 'error: no database there' >&2; exit 1", "no database there")
        announced = f"echo sha256 {dump['sha256']} >&2; "
        await refused(f"{announced} head -c 5000 {whole}", "did not arrive whole")
        await refused("echo hello", "is no dump")
        await refused(f"cat {whole}; exit 3", "exit code 3")
        await refused("true", "Connection refused", ["-p", "1"])
    assert await contents() == before
    for remote in ("-oProxyCommand=touch x", "a b", "user@host;reboot", ""):
        with pytest.raises(BackupError, match="is no user@host"):
            await db.sync_from(remote, confirm=name)


def git(*arguments: str, directory: Path = DUMPS) -> str:
    return subprocess.run(["git", *arguments], cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


async def test_dumps_are_committed_alone(database: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With their checksums, also where they are ignored; not what else is staged; gone ones, too; pushed if asked."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    git("config", "--global", "user.email", "me@example.com", directory=tmp_path)
    git("config", "--global", "user.name", "Me", directory=tmp_path)
    with pytest.raises(BackupError, match="there is no directory dumps"):
        await db.commit_dumps_to_git()
    DUMPS.mkdir()
    with pytest.raises(BackupError, match="not a git repository"):
        await db.commit_dumps_to_git()
    git("init", "-q", "-b", "main", directory=tmp_path)
    git("init", "-q", "--bare", "origin.git", directory=tmp_path)
    with pytest.raises(BackupError, match="cannot push the dumps in dumps: git: No configured push destination"):
        await db.commit_dumps_to_git(push=True)
    git("remote", "add", "origin", str(tmp_path / "origin.git"))
    git("config", "push.autoSetupRemote", "true")
    assert await db.commit_dumps_to_git() is None

    first = Path((await db.dump_database())["path"])
    (tmp_path / ".gitignore").write_text("*.dump\n")
    (tmp_path / "staged.txt").write_text("x")
    (DUMPS / "notes.txt").write_text("x")
    git("add", "../staged.txt")
    commit = await db.commit_dumps_to_git("-m is no option", push=True)
    assert commit == git("rev-parse", "HEAD") == git("rev-parse", "origin/main")
    assert git("show", "--name-only", "--format=%s").split("\n") == [
        "-m is no option", "", f"dumps/{first.name}", f"dumps/{first.name}.sha256",
    ]  # fmt: skip
    assert git("diff", "--cached", "--name-only") == "staged.txt"
    assert await db.commit_dumps_to_git() is None
    first.unlink()
    Path(f"{first}.sha256").unlink()
    (tmp_path / "origin.git").rename(tmp_path / "away.git")
    with pytest.raises(BackupError, match="cannot push the dumps"):
        await db.commit_dumps_to_git("gone", push=True)
    (tmp_path / "away.git").rename(tmp_path / "origin.git")
    assert await db.commit_dumps_to_git("gone", push=True) is None
    assert git("rev-parse", "HEAD") == git("rev-parse", "origin/main"), "a push that has failed is made up for"
    assert [line[:2] for line in git("show", "--name-status", "--format=").split("\n")] == ["D\t", "D\t"]


async def test_who_commits_may_stand_in_the_environment(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in CI; but a repository that the environment names, as in a hook, is not meant."""
    monkeypatch.setenv("HOME", str(Path.cwd()))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for variable in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"):
        monkeypatch.setenv(variable, "Ada")
    for variable in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(variable, "ada@example.com")
    await db.dump_database()
    git("init", "-q")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert await db.commit_dumps_to_git()
    monkeypatch.delenv("GIT_DIR")
    assert git("show", "--format=%an <%ae>", "--name-only").startswith("Ada <ada@example.com>")
