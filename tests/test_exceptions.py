"""The exception tree and how the driver's errors become ours."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from asyncpg.exceptions import InternalClientError

import database as db
from database import Settings, exceptions
from database.exceptions import Failure, classify, raised_by_driver, translate

from .conftest import direct_dsn


def test_the_tree_is_the_documented_one() -> None:
    """Every class is in the module's docstring, is exported by the package, and hangs where the picture shows it."""
    classes = {
        name: value
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == exceptions.__name__
    }
    for name, value in classes.items():
        assert name in (exceptions.__doc__ or "")
        assert getattr(db, name) is value
        assert issubclass(value, db.DatabaseError)
    assert issubclass(db.PoolTimeoutError, db.ConnectionPoolError)
    assert issubclass(db.DatabaseNotAvailableError, db.ConnectionPoolError)


@pytest.mark.parametrize(
    ("exc", "connecting", "closed", "failure"),
    [
        (asyncpg.SerializationError("x"), False, False, Failure.UNDONE),
        (asyncpg.DeadlockDetectedError("x"), False, False, Failure.UNDONE),
        (asyncpg.LockNotAvailableError("x"), False, False, Failure.UNDONE),
        (asyncpg.AdminShutdownError("x"), False, True, Failure.UNKNOWN),
        (asyncpg.CrashShutdownError("x"), False, True, Failure.UNKNOWN),
        (asyncpg.ConnectionDoesNotExistError("x"), False, True, Failure.UNKNOWN),
        (InternalClientError("cannot switch to state 12"), False, True, Failure.UNKNOWN),
        (ConnectionResetError("x"), False, True, Failure.UNKNOWN),
        (TimeoutError(), False, False, Failure.UNKNOWN),
        (asyncpg.InterfaceError("connection is closed"), False, True, Failure.UNKNOWN),
        (asyncpg.InterfaceError("another operation is in progress"), False, False, Failure.PERMANENT),
        (asyncpg.ProtocolViolationError("NUL in SQL"), False, False, Failure.PERMANENT),
        (asyncpg.UniqueViolationError("x"), False, False, Failure.PERMANENT),
        (asyncpg.QueryCanceledError("x"), False, False, Failure.PERMANENT),
        (asyncpg.DiskFullError("x"), False, False, Failure.PERMANENT),
        (asyncpg.ReadOnlySQLTransactionError("x"), False, False, Failure.PERMANENT),
        (asyncpg.CannotConnectNowError("x"), True, True, Failure.NEVER_SENT),
        (asyncpg.TooManyConnectionsError("x"), True, True, Failure.NEVER_SENT),
        (ConnectionRefusedError("x"), True, True, Failure.NEVER_SENT),
        (FileNotFoundError("no socket"), True, True, Failure.NEVER_SENT),
        (TimeoutError(), True, True, Failure.NEVER_SENT),
        (asyncpg.AdminShutdownError("x"), True, True, Failure.NEVER_SENT),
        (asyncpg.InvalidPasswordError("x"), True, True, Failure.PERMANENT),
        (asyncpg.InvalidCatalogNameError("x"), True, True, Failure.PERMANENT),
        (ConnectionError("rejected SSL upgrade"), True, True, Failure.PERMANENT),
        (ssl.SSLCertVerificationError("x"), True, True, Failure.PERMANENT),
        (PermissionError("x"), True, True, Failure.PERMANENT),
        (ValueError("x"), False, False, Failure.PERMANENT),
    ],
)
def test_failures_are_sorted_into_four(exc: BaseException, connecting: bool, closed: bool, failure: Failure) -> None:
    """Never sent; sent and certainly undone; unknown; permanent."""
    assert classify(exc, connecting=connecting, closed=closed) is failure


def test_a_cause_may_hold_the_only_sqlstate() -> None:
    """asyncpg can raise a bare connection error from the server's 57P01; the state is found in the cause."""
    try:
        raise asyncpg.InterfaceError("connection is closed") from asyncpg.AdminShutdownError("x")
    except asyncpg.InterfaceError as exc:
        error = translate(exc, db.DocumentError, "store document 'x'")
    assert isinstance(error, db.OutcomeUnknownError)
    assert error.sqlstate == "57P01"


def test_a_lost_answer_is_unknown_only_where_something_may_have_changed() -> None:
    """For a read it is no server; inside a transaction the server undoes it; only a write of its own is unknown."""
    lost = ConnectionResetError("gone")
    assert isinstance(translate(lost, db.DocumentError, "store"), db.OutcomeUnknownError)
    read = translate(lost, db.DocumentError, "read", changes=False)
    assert isinstance(read, db.DatabaseNotAvailableError)
    assert read.retryable
    inside = translate(lost, db.DocumentError, "store", inside=True)
    assert isinstance(inside, db.DatabaseNotAvailableError)
    assert inside.retryable
    assert "nothing was stored" in str(inside)


@pytest.mark.parametrize("cast", ["to_tsquery($1)", "$1::text::regclass", "$1::text::regtype"])
async def test_messages_hold_no_parameters(database: Settings, cast: str) -> None:
    """Some values are parsed like SQL and are complained of with the codes of SQL; they are not repeated."""
    with pytest.raises(db.DatabaseError) as caught:
        async with db.get_db_connection() as conn:
            await conn.fetchval(f"SELECT {cast}", "canary & & canary")
    assert (caught.value.sqlstate or "").startswith("42")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("INSERT INTO t VALUES (1, 'canary')", "23505"),
        ("INSERT INTO t VALUES (2, NULL)", "23502"),
        ("INSERT INTO t VALUES (-1, 'canary')", "23514"),
        ("INSERT INTO t VALUES (NULL, repeat('canary', 10))", "22001"),
        ("SELECT 'canary'::uuid", "22P02"),
        ("SELECT 'canary'::date", "22007"),
        ("SELECT (2147483647 + 1)::int", "22003"),
        ("SELECT canary_column FROM t", "42703"),
    ],
)
async def test_messages_hold_no_rows(database: Settings, statement: str, sqlstate: str) -> None:
    """The text names constraint, table and column where the server does, and never what is in a row."""
    async with db.get_db_connection() as conn:
        await conn.execute("CREATE TABLE t (n int UNIQUE CHECK (n > 0), text varchar(8) NOT NULL)")
        await conn.execute("INSERT INTO t VALUES (1, 'canary')")
    with pytest.raises(db.DatabaseError) as caught:
        async with db.get_db_connection() as conn:
            await conn.execute(statement)
    assert caught.value.sqlstate == sqlstate
    assert f"[{sqlstate}]" in str(caught.value) or sqlstate.startswith("42")
    assert "'canary'" not in str(caught.value)
    assert "canary " not in str(caught.value)
    assert caught.value.__cause__ is caught.value.original_error is not None


async def test_the_drivers_builtin_errors_are_told_from_the_applications(database: Settings) -> None:
    """A command timeout is a TimeoutError of asyncpg; `asyncio.timeout` and a missing file are the application's."""

    async def of_asyncpg() -> None:
        async with (await db.get_connection_pool()).acquire() as conn:
            await conn.execute("SELECT pg_sleep(10)", timeout=0.05)

    async def of_the_application() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(10)

    for function, drivers in ((of_asyncpg, True), (of_the_application, False)):
        with pytest.raises(TimeoutError) as caught:
            await function()
        assert raised_by_driver(caught.value) is drivers
    with pytest.raises(FileNotFoundError) as missing:
        Path("/no/such/file").read_text()
    assert not raised_by_driver(missing.value)


@pytest.mark.parametrize(
    "retryable", [lambda: db.DatabaseError("x", retryable=True), lambda: asyncpg.SerializationError("x")]
)
def test_retryable_errors_stay_retryable(retryable: Callable[[], Exception]) -> None:
    """An error of ours that was raised in a closure decides like the driver's own."""
    assert classify(retryable()) is Failure.UNDONE
    assert translate(retryable(), db.DatabaseError, "x").retryable


async def test_a_line_lost_between_two_messages_is_a_lost_connection(database: Settings) -> None:
    """Where asyncpg stumbles over its own closed connection, that is no bug of the caller's code."""
    connection = await asyncpg.connect(direct_dsn(database))
    connection.terminate()
    with pytest.raises(AttributeError) as caught:
        # what follows a new statement, before it is executed
        await connection._introspect_types({16}, 1)  # type: ignore[attr-defined]
    assert raised_by_driver(caught.value)
    assert classify(caught.value, closed=connection.is_closed()) is Failure.UNKNOWN
    assert (
        str(translate(caught.value, db.DocumentError, "read", changes=False)) == "cannot read: the connection was lost"
    )
    with pytest.raises(AttributeError) as own:
        _ = connection.no_such_attribute  # type: ignore[attr-defined]
    assert not raised_by_driver(own.value)
