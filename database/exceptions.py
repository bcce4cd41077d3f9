"""
The exception tree, and the one place where driver errors become ours.

    DatabaseError
    ├── ConnectionPoolError
    │   ├── DatabaseNotAvailableError   no connection can be had: no server, wrong password, embedded server failed
    │   └── PoolTimeoutError            every connection was in use until the deadline, or too many callers wait
    ├── OutcomeUnknownError             sent, and the answer was lost: it may have happened
    ├── DocumentError
    ├── ChatHistoryError
    ├── IngestionError
    ├── RepositoryError
    │   ├── RecordNotFoundError         there is no row under this key
    │   ├── InvalidDataError            a value that its column cannot take, a row that its model cannot take
    │   └── ColumnMatchError            a name that is no column's, or of several
    ├── SchemaError                     a table or schema is missing, or is not what the package expects
    └── BackupError                     a dump could not be made, or is not restored

Messages name the thing and the way out. They hold no parameter, no row's content and no password, and neither does what
a traceback prints below them: the driver's words are kept for `server_message()` alone.
"""

from __future__ import annotations

import enum
import ssl
import sys
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import asyncpg
from asyncpg.exceptions import InternalClientError

from .tracebacks import cut_driver, raised_in_driver, went_through_driver

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


class DatabaseError(Exception):
    """
    Base of all errors of this package.

    `sqlstate` is PostgreSQL's five-character code where the server gave one, `original_error` the driver's exception
    without the words that may hold data, `retryable` True where the statement certainly had no effect and the same call
    may well succeed a moment later.
    """

    def __init__(
        self,
        message: str,
        *,
        original_error: BaseException | None = None,
        sqlstate: str | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.original_error = original_error
        self.sqlstate = sqlstate
        self.retryable = retryable

    def server_message(self) -> str | None:
        """All that the server or the driver said, which may hold a row's content: not for logs. None: nothing."""
        original = self.original_error
        if isinstance(original, DatabaseError):
            return original.server_message()
        return None if original is None else getattr(original, "_said", str(original))


class ConnectionPoolError(DatabaseError):
    """The connection pool cannot do what was asked: wrong settings, closed, used from a foreign loop."""


class DatabaseNotAvailableError(ConnectionPoolError):
    """No connection to the server can be had."""


class PoolTimeoutError(ConnectionPoolError):
    """No connection became free in time, or too many callers wait for one already."""


class OutcomeUnknownError(DatabaseError):
    """
    The statement was sent and its answer was lost: whether it took effect is not known.

    Never retried blindly. Look whether the effect is there before you repeat the call.
    """


class DocumentError(DatabaseError):
    """A document operation was refused."""


class ChatHistoryError(DatabaseError):
    """A chat history operation was refused."""


class IngestionError(DatabaseError):
    """
    Files could not be ingested.

    `failures` lists the files that were refused until then: dicts with path, code and reason.
    """

    failures: list[dict[str, str | None]] = []  # noqa: RUF012 (never changed in place, only replaced)


class RepositoryError(DatabaseError):
    """An operation on a table was refused."""


class RecordNotFoundError(RepositoryError):
    """There is no row under the key that was asked for."""


class InvalidDataError(RepositoryError):
    """A value does not fit its column, a row does not fit its model, or a condition makes no sense."""


class ColumnMatchError(RepositoryError):
    """No column of the table has such a name, or several nearly have it."""


class SchemaError(DatabaseError):
    """A table or schema is missing, could not be created, or is not what the package expects."""


class BackupError(DatabaseError):
    """
    A dump could not be made, is not whole, or is not restored; the database is as it was.

    `server_message()` is all that pg_dump or pg_restore said.
    """


class Failure(enum.Enum):
    """What a failed attempt left behind. Decides whether it may be repeated."""

    NEVER_SENT = "never sent"
    UNDONE = "sent and certainly undone"
    UNKNOWN = "sent, outcome unknown"
    PERMANENT = "would fail again"


# https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNDONE = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "55P03",  # lock_not_available
        "53200",  # out_of_memory
        "55006",  # object_in_use
    }
)
_NEVER_SENT_WHILE_CONNECTING = frozenset(
    {
        "08P01",  # PgBouncer: cannot reach the server at the moment
        "55000",  # object_not_in_prerequisite_state: the database takes no connections at the moment
    }
)
_NEVER_SENT = frozenset(
    {
        "53300",  # too_many_connections
        "57P03",  # cannot_connect_now: starting up, shutting down
    }
)
# The backend went away. With 57P01 the transaction can have been committed: "terminating connection" is also what a
# session says that was waiting for its synchronous standby after its own commit.
_UNKNOWN = frozenset({
    "08000", "08003", "08006", "08007", "40003",
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P05",  # idle_session_timeout
})  # fmt: skip
_CONNECTION_LOST = (InternalClientError, OSError, EOFError)


def sqlstate_of(exc: BaseException | None) -> str | None:
    """The SQLSTATE that the server gave for *exc* or for what caused it, None where it gave none."""
    while exc is not None:
        if isinstance(exc, DatabaseError) and exc.sqlstate is not None:
            return exc.sqlstate
        # asyncpg's PostgresError subclasses carry a class-level sqlstate; the ones made by the client carry it too
        if isinstance(exc, asyncpg.PostgresError) and (state := getattr(exc, "sqlstate", None)):
            return str(state)
        exc = exc.__cause__
    return None


def classify(exc: BaseException, *, connecting: bool = False, closed: bool = True) -> Failure:
    """
    Sort a driver's exception, raised while *connecting* or while a statement ran, into the four kinds.

    Not by SQLSTATE class alone: a NUL in SQL text gives 08P01 and is permanent, and a lost connection surfaces as
    `InterfaceError` without SQLSTATE, `OSError`, `TimeoutError` or asyncpg's internal errors (an `AttributeError` where
    the line is lost between two messages). `InterfaceError` also means wrong use (too few arguments), so *closed* tells
    whether the connection is closed now.
    """
    if isinstance(exc, DatabaseError):
        if exc.retryable:
            return Failure.UNDONE
        return Failure.UNKNOWN if isinstance(exc, OutcomeUnknownError) else Failure.PERMANENT
    if isinstance(exc, asyncpg.InvalidCachedStatementError):
        return Failure.UNDONE  # the schema has changed; nothing was executed, and asyncpg has dropped its statements
    if isinstance(exc, asyncpg.DataError | ValueError | TypeError | ssl.SSLError | PermissionError):
        return Failure.PERMANENT
    if connecting and type(exc) is ConnectionError:  # asyncpg: the server rejected TLS
        return Failure.PERMANENT
    state = sqlstate_of(exc)
    if state in _NEVER_SENT or (connecting and state in _NEVER_SENT_WHILE_CONNECTING):
        return Failure.NEVER_SENT
    if connecting and state == "3D000" and getattr(exc, "detail", None):
        return Failure.NEVER_SENT  # "it seems to have just been dropped or renamed": a restoring swaps databases
    lost = isinstance(exc, _CONNECTION_LOST) or (isinstance(exc, asyncpg.InterfaceError | AttributeError) and closed)
    if state in _UNKNOWN or (state is None and lost):
        return Failure.NEVER_SENT if connecting else Failure.UNKNOWN
    return Failure.UNDONE if state in _UNDONE else Failure.PERMANENT


def raised_by_driver(exc: BaseException) -> bool:
    """
    True where *exc* came out of asyncpg, or out of the pool's own connections, also when its type is a builtin.

    A lost connection is an `OSError` and a command timeout a `TimeoutError`; so are a missing file and the
    application's own `asyncio.timeout`. Only where the exception was raised tells them apart.
    """
    if isinstance(exc, asyncpg.PostgresError | asyncpg.InterfaceError | InternalClientError):
        return True
    # one that was seen before has lost its frames
    return isinstance(exc, OSError | AttributeError) and (hasattr(exc, "_said") or raised_in_driver(exc))


# What went wrong, in words that hold nothing of the row. {table}, {column} and {constraint} come from the error's own
# fields.
_REASONS = {
    "08000": "the connection was lost",
    "08003": "the connection was lost",
    "08006": "the connection was lost",
    "0A000": "PostgreSQL does not support it, or a table was changed meanwhile",
    "08P01": "the server could not understand the message (does the SQL hold a NUL character?)",
    "21000": "a subquery returned more than one row",
    "22000": "a value has a type or a character that its PostgreSQL type cannot take (a lone surrogate?)",
    "22001": "a value is too long for its column",
    "22003": "a number is out of its column's range",
    "22007": "a date or time is not valid",
    "22008": "a date or time is out of range",
    "22021": "a text holds a NUL character or bytes that are not UTF-8; PostgreSQL cannot store them",
    "22P02": "a value does not have the form that its type needs",
    "22P05": "a text holds \\u0000 or another character that PostgreSQL cannot store; remove it",
    "23502": "a value is missing: column {column} of table {table} is NOT NULL",
    "23503": "constraint {constraint} of table {table} refuses it: the row it refers to is missing or still in use",
    "23505": "constraint {constraint} of table {table} refuses it: there is such a row already",
    "23514": "constraint {constraint} of table {table} refuses it",
    "25006": "the server is read-only (a standby?); connect to the primary",
    "25P02": "a statement in this transaction failed before, so PostgreSQL rolls it back; "
             "let that error leave the block, or run the statement that may fail in a nested transaction",
    "25P03": "the transaction was idle for too long and the server ended it",
    "28000": "the server does not let this user in from here (pg_hba.conf)",
    "28P01": "wrong password, or no such user",
    "3D000": "there is no such database; create it, or name another",
    "40001": "it collided with a concurrent transaction; run the whole transaction again",
    "40P01": "it was in a deadlock with another transaction; run the whole transaction again",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "the server has no connection left; lower DB_MAX_CONNECTIONS or raise max_connections there",
    "54000": "a value is larger than PostgreSQL can store",
    "55P03": "a lock was not to be had in time",
    "57014": "it was cancelled: DB_STATEMENT_TIMEOUT, or somebody asked the server to",
    "57P01": "the server ended the connection (shutdown or restart)",
    "57P02": "the server crashed and restarts",
    "57P03": "the server is starting up or shutting down",
}  # fmt: skip


# Of class 42 (syntax, unknown names, privileges), the server's text is repeated where it speaks of the SQL (then it has
# a position in it) or of a name; to_tsquery($1) and $1::regclass complain of a parameter with the same codes.
_SPEAKS_OF_NAMES = frozenset({"42501", "42P04", "42P06", "42P07", "42710"})
_MISSING_TABLE = "; the package's tables are made by init_document_table() and init_chat_history_table()"


def reason(exc: BaseException) -> str:
    """Why *exc* happened, in words without data."""
    if isinstance(exc, DatabaseError):
        return str(exc)
    if hasattr(exc, "_reason"):
        return str(exc._reason)
    state = sqlstate_of(exc)
    if state is not None:
        if state.startswith("42") and (getattr(exc, "position", None) or state in _SPEAKS_OF_NAMES):
            words = str(exc).partition("\n")[0]
            return words + _MISSING_TABLE if state == "42P01" else words
        words = _REASONS.get(state, f"PostgreSQL refused it ({type(exc).__name__})")
        fields = {name: getattr(exc, f"{name}_name", None) or "?" for name in ("table", "column", "constraint")}
        return f"{words.format_map(fields)} [{state}]"
    if isinstance(exc, TimeoutError):
        return "no answer in time (DB_COMMAND_TIMEOUT, or the timeout of the call)"
    if isinstance(exc, AttributeError):  # asyncpg, see `classify`
        return "the connection was lost"
    if isinstance(exc, OSError):
        return exc.strerror or str(exc) or type(exc).__name__
    return str(exc).splitlines()[0] if str(exc) else type(exc).__name__


def translate(
    exc: BaseException,
    kind: type[DatabaseError],
    doing: str,
    *,
    changes: bool = True,
    closed: bool = True,
    inside: bool = False,
) -> DatabaseError:
    """
    The error to raise for the driver's *exc* when *doing* ("store document 'x'") failed.

    *changes* False says that the statement only read, so that a lost answer leaves nothing unknown; *inside* that it
    was in a transaction, which the server undoes when the connection is lost; *closed* as in `classify`.
    """
    if isinstance(exc, DatabaseError):
        return exc
    failure = classify(exc, closed=closed)
    about = {"original_error": exc, "sqlstate": sqlstate_of(exc)}
    forget_data(exc)
    if failure is not Failure.UNKNOWN:
        message = f"cannot {doing}: {reason(exc)}"
        return kind(message, **about, retryable=failure is not Failure.PERMANENT)  # type: ignore[arg-type]
    if changes and not inside:
        message = f"cannot tell whether it was done: {doing}: {reason(exc)}; look before you repeat it"
        return OutcomeUnknownError(message, **about)  # type: ignore[arg-type]
    what = "nothing was stored" if changes else f"cannot {doing}"
    # a timeout would only strike again; a connection that was lost is worth another try
    retryable = not isinstance(exc, TimeoutError)
    return DatabaseNotAvailableError(f"{what}: {reason(exc)}", **about, retryable=retryable)  # type: ignore[arg-type]


def forget_data(exc: BaseException) -> None:
    """
    Take from the driver's *exc*, and from what led to it, all that may hold data: words, and the driver's frames.

    The server's words may quote a row. They are kept for `DatabaseError.server_message` alone.
    """
    each: BaseException | None = exc
    while each is not None:
        if not hasattr(each, "_said"):
            each._said, each._reason = str(each), reason(each)  # type: ignore[attr-defined]
        if isinstance(each, asyncpg.PostgresError):
            each.args = (reason(each),)
            for field in ("message", "detail", "hint", "context", "internal_query", "query"):
                setattr(each, field, None)
        below = each.__cause__ or each.__context__
        while below is not None and went_through_driver(below) and not raised_by_driver(below):
            below = below.__cause__ or below.__context__  # a ValueError, say, which quotes the value
        cut_driver(each)
        _chain(each, below)
        each = below if below is not None and raised_by_driver(below) else None


def confidential(function: F) -> F:
    """
    For a function that has rows in its hands: in tracebacks, its errors begin here, where there is none.

    What led to them is left out, but for errors that are known to hold no data. So is what the caller is told of a
    cancellation. Costs half a microsecond.
    """

    @wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        except (DatabaseError, CancelledError) as exc:
            error = exc
        del args, kwargs
        _hide_frames(error, sys.exception())
        try:
            raise error
        finally:
            del error  # not to be kept by its own traceback

    return cast("F", call)


def _hide_frames(exc: BaseException, callers: BaseException | None) -> None:
    """Leave in the chain below *exc* our errors, those of the driver, and the one that the caller was handling."""
    each: BaseException | None = exc
    while each is not None and each is not callers:
        each.__traceback__ = None
        below = each.__cause__ or each.__context__
        while below is not None and below is not callers and not _holds_no_data(below):
            below = below.__cause__ or below.__context__
        _chain(each, below)
        each = below


def _chain(exc: BaseException, below: BaseException | None) -> None:
    exc.__cause__ = below if below is exc.__cause__ else None
    exc.__suppress_context__ = exc.__cause__ is not None
    exc.__context__ = below


def _holds_no_data(exc: BaseException) -> bool:
    return isinstance(exc, DatabaseError) or hasattr(exc, "_said")


def copy_error(exc: DatabaseError) -> DatabaseError:
    """Another exception that says the same: one that several callers raise would collect all their tracebacks."""
    error = type(exc)(str(exc), original_error=exc.original_error, sqlstate=exc.sqlstate, retryable=exc.retryable)
    error.__cause__ = exc.__cause__
    return error


@contextmanager
def translated(
    is_closed: Callable[[], bool],
    kind: type[DatabaseError],
    doing: str,
    *,
    changes: bool = True,
    inside: Callable[[], bool] = lambda: False,
    reconsider: Callable[[Exception], Exception] = lambda exc: exc,
) -> Iterator[None]:
    """
    Raise what the driver raises in the block as *kind*; what is not the driver's passes untouched.

    *inside* and *is_closed* are asked when the error arrives; what *reconsider* makes of it is translated.
    """
    try:
        yield
    except Exception as exc:
        if isinstance(exc, DatabaseError) or not raised_by_driver(exc):
            raise
        is_inside = inside()
        error = reconsider(exc)
        raise translate(error, kind, doing, changes=changes, closed=is_closed(), inside=is_inside) from exc
