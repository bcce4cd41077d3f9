"""
No secret and no row content where nobody expects them: all that failing calls leave is searched for a canary.

Messages, reprs, chains of causes, tracebacks with local variables, log lines at every level, health reports. What the
caller's own frames hold is the caller's; those of this file are left out.
"""

from __future__ import annotations

import asyncio
import io
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import database as db
from database import repository
from database.settings import Settings, configure, get_settings

from .conftest import direct_dsn
from .proxy import proxy_to
from .tls_front import front_of

PASSWORD = "canary/pass@word"
ROW = "canary in a row"
SIGHT = ("canary", "pass@word", "pass%40word")


def clean(text: str) -> None:
    text = text.replace(__name__, "")
    for sight in SIGHT:
        assert sight not in text, text


def told(exc: BaseException) -> str:
    """All that may be printed of *exc* and its causes, with the local variables of frames outside of this file."""
    printed = []
    chain: list[BaseException] = [exc]
    for each in chain:
        printed += [str(each), repr(each)]
        frames = traceback.StackSummary.extract(
            ((frame, line) for frame, line in traceback.walk_tb(each.__traceback__)), capture_locals=True
        )
        for frame in frames:
            if frame.filename != __file__:
                printed += [str(frame.line), repr(frame.locals)]
        original = getattr(each, "original_error", None)
        chain += [other for other in (each.__cause__, each.__context__, original) if other and other not in chain]
    return "\n".join(printed)


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Every log line of a test is searched, at every level, of the package, asyncio and the driver."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(message)s %(args)s %(exc_text)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield
    root.setLevel(level)
    root.removeHandler(handler)
    clean(written.getvalue())


async def fails(call: Awaitable[Any]) -> db.DatabaseError:
    """The error of *call*, without a sight of the canary."""
    with pytest.raises(db.DatabaseError) as caught:
        await call
    clean(told(caught.value))
    return caught.value


@pytest.fixture
async def table(database: Settings) -> AsyncIterator[None]:
    async with db.get_db_connection() as conn:
        await conn.execute("""
            CREATE TABLE note (
                id     int   PRIMARY KEY,
                text   text  NOT NULL UNIQUE CHECK (length(text) < 100),
                amount int,
                day    date,
                parent int   REFERENCES note,
                data   jsonb
            );
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'no: %', NEW.text USING DETAIL = NEW.text, HINT = NEW.text; END $$;
        """)
        await conn.execute("INSERT INTO note VALUES (1, $1)", ROW)
    yield


async def execute(sql: str, *args: Any) -> Any:
    async with db.get_db_connection() as conn:
        return await conn.fetch(sql, *args)


async def in_transaction(sql: str, *args: Any) -> Any:
    async with db.get_db_transaction() as conn:
        return await conn.execute(sql, *args)


async def through_pool(sql: str, *args: Any) -> Any:
    async def run(conn: db.Connection) -> Any:
        return await conn.fetchval(sql, *args)

    return await db.run_in_transaction(run)


FAILING = [
    ("INSERT INTO note VALUES (2, $1)", ROW),
    ("INSERT INTO note (id, text, amount) VALUES (2, $1, $1::text::int)", ROW),
    ("INSERT INTO note (id, text, day) VALUES (2, 'x', $1::text::date)", ROW),
    ("INSERT INTO note (id, text, data) VALUES (2, 'x', $1::text::jsonb)", ROW),
    ("INSERT INTO note (id, text) VALUES (2, repeat($1, 100))", ROW),
    ("INSERT INTO note (id, text, parent) VALUES (2, $1, 77)", ROW + "2"),
    ("INSERT INTO note (text) VALUES ($1)", ROW + "2"),
    ("INSERT INTO note (id, text) VALUES (2, $1)", ROW + "\0"),
    ("INSERT INTO note (id, text, amount) VALUES (2, 'x', $1)", ROW),
    ("INSERT INTO note (id, text, day) VALUES (2, 'x', $1)", ROW),
    ("SELECT to_tsquery($1)", ROW + " & & ("),
    ("SELECT $1::text::regclass", ROW),
    ("SELECT nothing FROM note WHERE text = $1", ROW),
    ("SELECT text::int FROM note",),
    ("SELECT ('{' || text)::jsonb FROM note",),
    ("SELECT $1", ROW, ROW),
]


@pytest.mark.parametrize("send", [execute, in_transaction, through_pool, db.execute_with_retry])
async def test_statements_of_the_user(table: None, send: Callable[..., Awaitable[Any]]) -> None:
    """Whatever a statement fails for: the server's words are told by `server_message()` alone."""
    for sql, *args in FAILING:
        error = await fails(send(sql, *args))
        assert error.server_message()
    assert ROW in str((await fails(send(*FAILING[0]))).server_message())


async def test_what_triggers_say(table: None) -> None:
    """Texts that the database's own code makes of rows."""
    await execute("CREATE TRIGGER refuse BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION refuse()")
    await fails(execute("INSERT INTO note VALUES (2, $1)", ROW + "2"))
    await fails(repository.insert("note", {"id": 2, "text": ROW + "2"}))


async def test_any_table(table: None) -> None:
    """Rows and conditions that are refused, one by one, many at once, and side by side."""
    await fails(repository.insert("note", {"id": 2, "text": ROW}))
    await fails(repository.insert("note", {"id": 2, "text": "x", "amount": ROW}))
    await fails(repository.insert("note", {"id": 2, "text": "x", "data": object()}))
    await fails(repository.insert_many("note", [{"id": n, "text": ROW} for n in range(2, 9)]))
    await fails(repository.upsert("note", {"id": 2, "text": ROW}))
    await fails(repository.update_by_id("note", 1, {"text": ROW * 100}))
    for error in await asyncio.gather(
        *(repository.insert("note", {"id": n, "text": ROW}) for n in range(20)), return_exceptions=True
    ):
        assert isinstance(error, db.DatabaseError)
        clean(told(error))


class Other(BaseModel):
    id: int
    text: int


class Many(BaseModel):
    data: dict[str, int]


async def test_rows_that_do_not_fit_a_model(table: None) -> None:
    """pydantic quotes what does not fit; the error names the field, and no frame below has the row."""
    await execute("UPDATE note SET data = jsonb_build_object('k', text)")
    for call in (
        lambda: repository.get_by_id("note", 1, model=Other),
        lambda: repository.get_by_uuid("note", ROW, model=Other),
        lambda: repository.get_by_column("note", "text", ROW, model=Other),
        lambda: repository.get_many_by_id("note", [1], model=Other),
        lambda: repository.fetch("note", {"text": ROW}, model=Many),
        lambda: repository.fetch_one("note", {"text": ROW}, model=Other),
        lambda: repository.fetch_page("note", {"text": ROW}, model=Other),
        lambda: repository.execute_raw("SELECT * FROM note", model=Many),
        lambda: repository.insert("note", {"id": 7, "text": ROW + "7"}, model=Other),
        lambda: repository.upsert("note", {"id": 8, "text": ROW + "8"}, model=Other),
        lambda: repository.insert_many("note", [{"id": 9, "text": ROW + "9"}], returning=True, model=Other),
        lambda: repository.update("note", {"day": None}, {"id": 1}, model=Other),
        lambda: repository.update_by_id("note", 1, {"day": None}, model=Other),
        lambda: repository.delete("note", {"id": 7}, model=Other),
        lambda: repository.delete_by_id("note", 1, model=Other),
    ):
        await fails(call())


async def test_conditions_that_are_refused(table: None) -> None:
    """What a column cannot be compared with is not said, in no condition."""
    for condition in ({"day": ROW}, {"amount": ROW}, {"amount": {"$in": [ROW]}}, {"id": {"$gt": ROW}}, {ROW: 1}):
        for ask in (repository.fetch, repository.fetch_one, repository.fetch_page, repository.count, repository.exists):
            with pytest.raises(db.DatabaseError) as caught:
                await ask("note", condition)
            if ROW not in condition:  # names are names
                clean(told(caught.value))
        await asyncio.gather(repository.delete("note", condition), return_exceptions=True)


async def test_calls_that_are_cancelled(table: None) -> None:
    """Frames of a call that was cancelled, or ran out of time, are in the traceback of what the caller is told."""

    async def block() -> None:
        async with db.get_db_transaction() as conn:
            await conn.execute("LOCK TABLE document, chat_history, note IN ACCESS EXCLUSIVE MODE")
            locked.set()
            await done.wait()

    for call in (
        lambda: db.save_chat_history(1, "t", ROW, ROW),
        lambda: db.insert_document("n", "c", ROW),
        lambda: db.upsert_document("n", "c", ROW),
        lambda: repository.insert("note", {"id": 2, "text": ROW}),
        lambda: repository.fetch("note", {"text": ROW}),
    ):
        locked, done = asyncio.Event(), asyncio.Event()
        blocker = asyncio.create_task(block())
        await locked.wait()
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05):
                await call()
        clean(told(caught.value))
        done.set()
        await blocker


async def test_what_the_caller_was_handling_is_still_told(table: None) -> None:
    """An error on the way of another one leaves that one as it was, with its frames."""

    def fail() -> None:
        raise KeyError("the caller's own")

    for call in (
        lambda: db.insert_document("n", "c", ROW + "\0"),
        lambda: repository.insert("note", {"id": 2, "text": ROW}),
        lambda: repository.insert("note", {"id": 2, "text": "x", "day": ROW}),
        lambda: repository.get_by_id("note", 1, model=Other),
        lambda: db.execute_with_retry(*FAILING[1]),
    ):
        try:
            fail()
        except KeyError as own:
            frames = traceback.format_tb(own.__traceback__)
            error = await fails(call())
            assert traceback.format_tb(own.__traceback__) == frames
            assert error.__cause__ is not None or error.__context__ is own


async def test_documents_and_chats(database: Settings) -> None:
    """Texts that cannot be stored, alone and in shared statements."""
    await db.insert_document("n", "code", ROW)
    bad: list[Callable[[], Awaitable[Any]]] = [
        lambda: db.insert_document("n", "c", ROW + "\0"),
        lambda: db.insert_document("n", "c", ROW + "\ud800"),
        lambda: db.insert_document("n", "c", ROW, metadata={"a": float("nan"), "b": ROW}),
        lambda: db.insert_document("n", "c", ROW, metadata={"b": ROW + "\0"}),
        lambda: db.insert_document(ROW, "code", ROW),
        lambda: db.upsert_document("n", "c", ROW + "\0"),
        lambda: db.update_document_content("code", ROW + "\0"),
        lambda: db.save_chat_history(1, "t", ROW + "\0", ROW),
        lambda: db.save_chat_history(1, "t", ROW, ROW, metadata={"a": ROW + "\0"}),
    ]
    for call in bad:
        await fails(call())
    for error in await asyncio.gather(*(call() for call in bad * 5), return_exceptions=True):
        assert isinstance(error, db.DatabaseError)
        clean(told(error))
    await fails(in_one_transaction())


async def in_one_transaction() -> None:
    async with db.get_db_transaction() as conn:
        await fails(db.insert_document("n", "c", ROW + "\0", conn=conn))
        await fails(db.get_document_count(conn=conn))


async def test_files(database: Settings, tmp_path: Path) -> None:
    """Files whose content cannot be stored: reasons and reports name the file and the place, and quote nothing."""
    (tmp_path / "nul.md").write_text(f"# {ROW}\0")
    (tmp_path / "matter.md").write_text(f"---\ntitle: [{ROW}\n---\n{ROW}")
    (tmp_path / "latin.md").write_bytes(ROW.encode() + b"\xe9")
    clean(str(await db.ingest_directory(tmp_path)))
    await fails(db.ingest_directory(tmp_path, atomic=True))
    for name in ("nul.md", "latin.md"):
        await fails(db.read_and_insert_md_file(str(tmp_path / name), "c"))
        await fails(db.read_and_insert_md_file(str(tmp_path / name), "c", "ascii"))


async def test_lost_connections(server_url: str, database: Settings) -> None:
    """The line is cut, stalls, swallows answers, while rows are on their way."""
    async with proxy_to(direct_dsn(database)) as proxy:
        url = proxy.url(database.dsn.partition("?")[0].rpartition("/")[2])
        configure(
            Settings(
                database_url=url, password=PASSWORD, min_connections=0, connection_timeout=0.5, command_timeout=0.5
            )
        )
        await db.insert_document("n", "code", ROW)
        proxy.swallow = b"DELETE"
        await fails(execute("DELETE FROM document WHERE content = $1", ROW))
        proxy.stall()
        await fails(db.insert_document("n", "c", ROW))
        await fails(execute("SELECT $1::text", ROW))
        await fails(in_transaction("SELECT $1::text", ROW))
        clean(str(await db.health_report(timeout=0.5)))
        proxy.resume()


async def test_connections_that_cannot_be_made(database: Settings, unused_tcp_port: int) -> None:
    """No server, wrong password, wrong database, no TLS, a server that talks nonsense: no password in what is told."""
    dsn = direct_dsn(database)

    async def refuse(settings: Settings) -> None:
        configure(settings)
        await fails(db.get_connection_pool())
        await fails(db.insert_document("n", "c", ROW))
        clean(str(await db.health_report(timeout=1)) + repr(settings) + str(settings) + settings.redacted_url)
        assert await db.ping_postgres(timeout=1) is False
        await db.close_connection_pool()

    async def talk_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read(1000)
        writer.write(b"N" if len(said) == 8 else b"R\0\0\0\x0c\0\0\0\x63" + said[:4])
        await writer.drain()
        writer.write(b"E\0\0\0\x20SFATAL\0C28P01\0M" + PASSWORD.encode()[:6] + b"\0\0")
        writer.close()

    common: dict[str, Any] = {"min_connections": 0, "connection_timeout": 1, "password": PASSWORD}
    await refuse(Settings(host="127.0.0.1", port=unused_tcp_port, user="u", **common))
    await refuse(Settings(database_url=dsn.replace("?", "_nowhere?", 1), **common))
    nonsense = await asyncio.start_server(talk_nonsense, "127.0.0.1", 0)
    async with nonsense:
        await refuse(Settings(host="127.0.0.1", port=nonsense.sockets[0].getsockname()[1], user="u", **common))
    async with front_of(dsn, "strips") as front:
        await refuse(Settings(host="127.0.0.1", port=front.port, user="u", sslmode="require", **common))


async def test_wrong_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """URLs that cannot be read, values that do not fit beside a password, in code and in the environment."""
    for url in (
        f"postgresql://u:{PASSWORD}@h:port/d", f"mysql://u:{PASSWORD}@h/d", f"{PASSWORD}",
        f"postgresql://u:12#{PASSWORD}@h/d", f"postgresql://u:x@h/d?sslmode={PASSWORD}",
    ):  # fmt: skip
        with pytest.raises(ValidationError) as caught:
            Settings(database_url=url)
        clean(told(caught.value))
        monkeypatch.setenv("DATABASE_URL", url)
        await fails(db.get_connection_pool())
        monkeypatch.delenv("DATABASE_URL")
        monkeypatch.setenv("OTHER_DATABASE_URL", url)
        await fails(db.get_connection_pool("other"))
    with pytest.raises(ValidationError) as caught:
        Settings(password=PASSWORD, port="x")  # type: ignore[arg-type]
    clean(told(caught.value))
    with pytest.raises(TypeError) as mistaken:
        Settings(password=PASSWORD, passwort=PASSWORD)  # type: ignore[call-arg]
    clean(str(mistaken.value))
    monkeypatch.setenv("POSTGRES_PASSWORD", PASSWORD)
    clean(repr(get_settings()) + str(get_settings()) + get_settings().redacted_url)


async def test_objects_of_a_pool_in_use(database: Settings) -> None:
    """The reprs of the pool, its connections and its settings."""
    configure(database.model_copy(update={"password": Settings(password=PASSWORD).password}))
    pool = await db.get_connection_pool()
    async with pool.acquire() as conn:
        clean(repr(pool) + repr(conn) + repr(pool.settings) + str(pool.get_stats()) + pool.redacted_url)
    clean(str(await db.health_report()))
