"""
Chat history: questions and their answers, in threads.

Every function speaks through *conn* if given, else for itself. A message (one question with its answer) is a dict with
id, thread_id, user_id, question, answer, metadata and created_at. `user_id=` confines a call to that user's messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar
from uuid import UUID

from .batching import LOCK_GUARD, NOT_YET, Limits, NotYet, SharedStatement, bytes_of
from .codecs import decode_json, encode_metadata
from .connect_db import Connection, Record, perform
from .exceptions import ChatHistoryError
from .ids import as_uuid, uuid7
from .query import check_page
from .schema import apply_migration
from .search import make_snippet, parse_question, text_search_configuration

T = TypeVar("T")
Message = dict[str, Any]

_DELETE_ROWS = 10_000
_SEARCHED = 100_000  # characters; a tsvector holds 1 MB
_COLUMNS = "id::text AS id, thread_id, user_id, question, answer, metadata::text AS metadata, created_at"
_FITTING = _COLUMNS.replace(
    "question, answer, metadata::text",
    "CASE WHEN fits THEN question END AS question, CASE WHEN fits THEN answer END AS answer, "
    "CASE WHEN fits THEN metadata::text END",
)
_SIZE = "octet_length(question) + octet_length(answer) + octet_length(metadata::text)"
_USUAL_SIZE = 1024  # bytes of a message, where a page is only asked for


def _confined(sql: str) -> dict[bool, str]:
    """
    Two texts of a statement, by whether it is confined to one user: `{user}` stands for the condition.

    One text for both, with `$2 IS NULL OR`, would lose its index as soon as the server plans it without the values.
    """
    return {
        True: sql.replace("{user}", "AND user_id = $2"),
        False: sql.replace("{user}", "AND $2::bigint IS NULL"),
    }


async def init_chat_history_table(*, conn: Connection | None = None) -> None:
    """
    Create the table `chat_history` and its indexes unless they are there; any number of processes may call it at once.

    Raises `SchemaError` where another table of that name is there, or the user may not create tables.
    """
    for version in ("0002", "0003"):
        await apply_migration(version, conn=conn)


# The locks make the saves of one thread come one after the other: a position is given only when the one before it is
# committed, so positions grow in the order of the acknowledgements. Saves to other threads do not wait. In the order of
# the locks, so that two statements never wait for each other; 64-bit hash collisions only make two threads take turns.
_SAVE = f"""
    WITH {LOCK_GUARD},
    given AS (
        SELECT *
          FROM unnest($2::uuid[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[])
               WITH ORDINALITY AS given (id, thread_id, user_id, question, answer, metadata, number)
    ),
    turns AS MATERIALIZED (
        SELECT count(pg_advisory_xact_lock(thread))
          FROM (SELECT DISTINCT hashtextextended(thread_id, 0) AS thread
                  FROM given, lock_guard
                 ORDER BY thread) AS threads
    )
    INSERT INTO chat_history (id, thread_id, user_id, question, answer, metadata)
    SELECT given.id, given.thread_id, given.user_id, given.question, given.answer, given.metadata::jsonb
      FROM turns, given
     ORDER BY given.number
"""
# Looking for a conflict takes a sixth of the time of a save, and ids of our own are new the first time.
_SAVE_ONCE = f"{_SAVE} ON CONFLICT (id, thread_id) DO NOTHING"
_SAVE_ALONE = """
    WITH turn AS MATERIALIZED (
        SELECT pg_advisory_xact_lock(hashtextextended($2, 0))
    )
    INSERT INTO chat_history (id, thread_id, user_id, question, answer, metadata)
    SELECT $1, $2, $3, $4, $5, $6::text::jsonb
      FROM turn
    ON CONFLICT (id, thread_id) DO NOTHING
"""


class _Given(NamedTuple):
    """A message that is to be stored, as the statement takes it."""

    id: UUID
    thread_id: str
    user_id: int
    question: str
    answer: str
    metadata: str


async def _save_shared(c: Connection, messages: Sequence[_Given], limits: Limits) -> list[None]:
    sql = _SAVE if limits.is_first else _SAVE_ONCE
    await c.execute(sql, limits.lock_timeout, *zip(*messages, strict=True))
    return [None] * len(messages)


async def _save_alone(c: Connection, message: _Given) -> None:
    await c.execute(_SAVE_ALONE, *message)


_save = SharedStatement(
    _save_shared,
    alone=_save_alone,
    kind=ChatHistoryError,
    doing=lambda message: f"save a message to thread {message.thread_id!r}",
    changes=True,
    key=lambda message: message.thread_id,
    together=True,
    size=lambda message: bytes_of(message.thread_id, message.question, message.answer, message.metadata),
)


async def save_chat_history(
    user_id: int,
    thread_id: str,
    question: str,
    answer: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    conn: Connection | None = None,
) -> str:
    """
    Store a question with its answer and return the id of this message.

    Messages of a thread keep the order in which their saves were acknowledged. Stored once, also when the connection
    is lost on the way. Raises `ChatHistoryError` where PostgreSQL cannot store a text (a NUL character), *metadata* is
    not JSON or *user_id* no 64-bit integer.
    """
    _check_user(user_id)
    _check_thread(thread_id)
    for what, text in (("question", question), ("answer", answer)):
        if not isinstance(text, str):
            raise ChatHistoryError(f"the {what} of a chat message is a str, not {type(text).__name__}")
    if not thread_id:
        raise ChatHistoryError("the thread_id of a chat message must not be empty")
    message_id = uuid7()
    encoded = encode_metadata(metadata, ChatHistoryError, "a chat message")
    await _save.call(_Given(message_id, thread_id, user_id, question, answer, encoded), conn)
    return str(message_id)


class _Page(NamedTuple):
    """Which part of which thread is asked for."""

    thread_id: str
    user_id: int | None
    maximum: int
    skipped: int
    after: UUID | None


_RECENT = f"""
    SELECT {_COLUMNS}
      FROM (SELECT page.*
              FROM (SELECT $1::text AS thread_id, $2::bigint AS user_id, $3::bigint AS maximum, $4::bigint AS skipped,
                           $5::uuid AS after) AS asked
             CROSS JOIN LATERAL ({{page}}) AS page) AS found
     ORDER BY position DESC
"""
# Of what is longer than $6 bytes, the pages that were asked for first, at least one; octet_length knows the length of a
# long text without reading it.
_RECENT_SHARED = f"""
    SELECT {_FITTING}, number
      FROM (SELECT page.*, number, number = 1 OR sum({_SIZE}) OVER (ORDER BY number) <= $6 AS fits
              FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::uuid[]) WITH ORDINALITY
                   AS asked (thread_id, user_id, maximum, skipped, after, number)
             CROSS JOIN LATERAL ({{page}}) AS page) AS found
     ORDER BY number, position DESC
"""


@cache
def _recent(confined: bool, continued: bool) -> SharedStatement[_Page, list[Message]]:
    """A text for each: conditions such as `$2 IS NULL OR` would lose their index, see `_confined`."""
    user = "AND user_id = asked.user_id" if confined else ""
    position = "(SELECT position FROM chat_history WHERE id = asked.after AND thread_id = asked.thread_id)"
    page = f"""
        SELECT *
          FROM chat_history
         WHERE thread_id = asked.thread_id {user} {f"AND position < {position}" if continued else ""}
         ORDER BY position DESC
         LIMIT asked.maximum OFFSET asked.skipped
    """

    async def alone(c: Connection, asked: _Page) -> list[Message]:
        return [_message(row) for row in await c.fetch(_RECENT.format(page=page), *asked)]

    async def shared(c: Connection, asked: Sequence[_Page], limits: Limits) -> list[list[Message] | NotYet]:
        columns = zip(*asked, strict=True)
        pages: list[list[Message] | NotYet] = [[] for _ in asked]
        for row in await c.fetch(_RECENT_SHARED.format(page=page), *columns, limits.answer_bytes):
            number = row["number"] - 1
            messages = pages[number]
            if row["question"] is None:
                pages[number] = NOT_YET
            elif messages is not NOT_YET:
                message = _message(row)
                del message["number"]
                messages.append(message)
        return pages

    return SharedStatement(
        shared,
        alone=alone,
        kind=ChatHistoryError,
        doing=lambda page: f"read thread {page.thread_id!r}",
        changes=False,
        size=lambda page: page.maximum * _USUAL_SIZE + bytes_of(page.thread_id),
    )


async def get_recent_chat_history(
    thread_id: str,
    limit: int = 10,
    offset: int = 0,
    *,
    after: str | None = None,
    user_id: int | None = None,
    conn: Connection | None = None,
) -> list[Message]:
    """
    A page of the messages of a thread, newest first; an empty list where there are none.

    *after* is the id of the last message of the page before: any page then costs what the first one costs, and new
    messages do not shift it. An id that is not in the thread (any more) has nothing after it. Raises
    `ChatHistoryError` where *limit* or *offset* is negative.
    """
    _check_user(user_id)
    _check_thread(thread_id)
    check_page(limit, offset, ChatHistoryError)
    last = None if after is None else as_uuid(after)
    if after is not None and last is None:
        return []
    asked = _Page(thread_id, user_id, limit, offset, last)
    return await _recent(user_id is not None, after is not None).call(asked, conn)


_GET = f"""
    SELECT {_COLUMNS}
      FROM chat_history
     WHERE id = $1
"""
_GET_SHARED = f"""
    SELECT {_FITTING}
      FROM (SELECT message.*, sum(size) OVER (ORDER BY number ROWS UNBOUNDED PRECEDING) - size < $2 AS fits
              FROM unnest($1::uuid[]) WITH ORDINALITY AS asked (id, number)
              JOIN chat_history AS message USING (id)
             CROSS JOIN LATERAL (SELECT {_SIZE} AS size) AS measured) AS found
"""


async def _get_shared(c: Connection, ids: Sequence[UUID], limits: Limits) -> list[Record | NotYet | None]:
    rows = await c.fetch(_GET_SHARED, list(dict.fromkeys(ids)), limits.answer_bytes)
    found = {row["id"]: row if row["question"] is not None else NOT_YET for row in rows}
    return [found.get(str(message_id)) for message_id in ids]


_get = SharedStatement(
    _get_shared,
    alone=lambda connection, message_id: connection.fetchrow(_GET, message_id),
    kind=ChatHistoryError,
    doing=lambda message_id: "read a chat message",
    changes=False,
)


async def get_chat_message_by_id(
    message_id: str, *, user_id: int | None = None, conn: Connection | None = None
) -> Message | None:
    """The message with this id; None if there is none, also where *message_id* is no UUID."""
    _check_user(user_id)
    key = as_uuid(message_id)
    if key is None:
        return None
    row = await _get.call(key, conn)
    if row is None or (user_id is not None and row["user_id"] != user_id):
        return None
    return _message(row)


class _Owned(NamedTuple):
    """A message or a thread, and the user to whom the call is confined, if it is."""

    key: Any
    user_id: int | None


# In the order of the keys, here and below: two deletions in different orders would deadlock.
_DELETE = """
    DELETE FROM chat_history
     WHERE id = $1 AND user_id = coalesce($2, user_id)
    RETURNING true
"""
_DELETE_SHARED = f"""
    WITH {LOCK_GUARD},
    locked AS MATERIALIZED (
        SELECT message.id, message.thread_id
          FROM lock_guard, unnest($2::uuid[], $3::bigint[]) AS given (id, user_id)
          JOIN chat_history AS message
            ON message.id = given.id AND message.user_id = coalesce(given.user_id, message.user_id)
         ORDER BY message.id, message.thread_id
           FOR UPDATE OF message
    )
    DELETE FROM chat_history
     USING locked
     WHERE chat_history.id = locked.id AND chat_history.thread_id = locked.thread_id
    RETURNING chat_history.id
"""


async def _delete_shared(c: Connection, messages: Sequence[_Owned], limits: Limits) -> list[bool]:
    rows = await c.fetch(_DELETE_SHARED, limits.lock_timeout, *zip(*messages, strict=True))
    deleted = {row["id"] for row in rows}
    return [message.key in deleted for message in messages]


async def _delete_alone(c: Connection, message: _Owned) -> bool:
    return await c.fetchval(_DELETE, *message) is True


_delete = SharedStatement(
    _delete_shared,
    alone=_delete_alone,
    kind=ChatHistoryError,
    doing=lambda message: "delete a chat message",
    changes=True,
    repeatable=False,
    key=lambda message: message.key,
)


async def delete_chat_message(message_id: str, *, user_id: int | None = None, conn: Connection | None = None) -> bool:
    """Delete the message with this id; True if there was one."""
    _check_user(user_id)
    key = as_uuid(message_id)
    return key is not None and await _delete.call(_Owned(key, user_id), conn)


_DELETE_THREAD = _confined("""
    DELETE FROM chat_history
     WHERE thread_id = $1 {user}
""")
_DELETE_THREADS_SHARED = f"""
    WITH {LOCK_GUARD},
    locked AS MATERIALIZED (
        SELECT message.id, message.thread_id
          FROM lock_guard, unnest($2::text[], $3::bigint[]) AS given (thread_id, user_id)
          JOIN chat_history AS message
            ON message.thread_id = given.thread_id AND message.user_id = coalesce(given.user_id, message.user_id)
         ORDER BY message.id, message.thread_id
           FOR UPDATE OF message
    ),
    deleted AS (
        DELETE FROM chat_history
         USING locked
         WHERE chat_history.id = locked.id AND chat_history.thread_id = locked.thread_id
        RETURNING chat_history.thread_id
    )
    SELECT thread_id, count(*) AS count
      FROM deleted
     GROUP BY thread_id
"""


async def _delete_threads_shared(c: Connection, threads: Sequence[_Owned], limits: Limits) -> list[int]:
    rows = await c.fetch(_DELETE_THREADS_SHARED, limits.lock_timeout, *zip(*threads, strict=True))
    counts = {row["thread_id"]: row["count"] for row in rows}
    return [counts.get(thread.key, 0) for thread in threads]


async def _delete_thread_alone(c: Connection, thread: _Owned) -> int:
    return _count(await c.execute(_DELETE_THREAD[thread.user_id is not None], *thread))


_delete_threads = SharedStatement(
    _delete_threads_shared,
    alone=_delete_thread_alone,
    kind=ChatHistoryError,
    doing=lambda thread: f"delete thread {thread.key!r}",
    changes=True,
    repeatable=False,
    key=lambda thread: thread.key,
)


async def delete_thread_history(thread_id: str, *, user_id: int | None = None, conn: Connection | None = None) -> int:
    """Delete all messages of a thread; how many there were."""
    _check_user(user_id)
    _check_thread(thread_id)
    return await _delete_threads.call(_Owned(thread_id, user_id), conn)


_DELETE_BEFORE = _confined("""
    DELETE FROM chat_history
     WHERE (id, thread_id) IN (
               SELECT id, thread_id
                 FROM chat_history
                WHERE created_at < $1 {user}
                ORDER BY id, thread_id
                LIMIT $3
                  FOR UPDATE)
""")
_ANY_BEFORE = _confined("""
    SELECT EXISTS (SELECT FROM chat_history WHERE created_at < $1 {user})
""")


async def delete_chat_history_before(
    time: datetime, *, user_id: int | None = None, conn: Connection | None = None
) -> int:
    """
    Delete all messages that were stored before *time*; how many there were.

    *time* must know its time zone. Without *conn*, 10,000 at a time are deleted and committed, so that a large clean-up
    holds no locks for long; one that was interrupted goes on when it is called again.
    """
    _check_user(user_id)
    if getattr(time, "tzinfo", None) is None:
        raise ChatHistoryError("time must know its time zone, as datetime.now(UTC) does")
    confined = user_id is not None
    deleted = 0
    while True:
        status = await _write(
            conn,
            "delete old chat messages",
            lambda c: c.execute(_DELETE_BEFORE[confined], time, user_id, _DELETE_ROWS),
            False,
        )
        deleted += _count(status)
        # fewer than asked for may mean that somebody else deleted the others
        if _count(status) < _DELETE_ROWS and not await _read(
            conn, "look for old chat messages", lambda c: c.fetchval(_ANY_BEFORE[confined], time, user_id)
        ):
            return deleted


_THREADS = """
    SELECT thread_id,
           (SELECT question FROM chat_history AS m WHERE m.thread_id = threads.thread_id AND m.position = first)
               AS first_question,
           last_message.created_at AS last_at,
           last_message.id::text AS last_id,
           count
      FROM (SELECT thread_id, min(position) AS first, max(position) AS last, count(*) AS count
              FROM chat_history
             WHERE user_id = $1
             GROUP BY thread_id
            HAVING $2::uuid IS NULL
                OR max(position) < (SELECT position FROM chat_history WHERE id = $2 AND user_id = $1)
             ORDER BY max(position) DESC
             LIMIT $3) AS threads
     CROSS JOIN LATERAL (
               SELECT id, created_at
                 FROM chat_history AS m
                WHERE m.thread_id = threads.thread_id AND m.position = last) AS last_message
     ORDER BY last DESC
"""


async def get_user_threads(
    user_id: int, limit: int = 50, *, after: str | None = None, conn: Connection | None = None
) -> list[dict[str, Any]]:
    """
    The threads that a user has written in, the one with the latest message first; an empty list where there are none.

    Each has `thread_id`, `first_question`, `last_at` and `last_id` (time and id of the latest message) and `count`
    (messages), all of that user's messages alone. *after* is the `last_id` of the last thread of the page before;
    nothing is after one that is not there (any more).
    """
    _check_user(user_id)
    check_page(limit, 0, ChatHistoryError)
    last = None if after is None else as_uuid(after)
    if after is not None and last is None:
        return []
    rows = await _read(conn, "list threads", lambda c: c.fetch(_THREADS, user_id, last, limit))
    return [dict(row) for row in rows]


@cache
def _search(configuration: str, by_user: bool, by_thread: bool) -> str:
    """
    The search in the language of *configuration*, which stands in the SQL so that an index on the expression fits.

    No such index is made by default: it would slow every save down for a search that mostly looks through one user's
    messages. docs/chat_history.md says how to make it.
    """
    text = f"left(question || ' ' || answer, {_SEARCHED})"
    words = f"section_tsvector('{configuration}', '', '', {text})"
    return f"""
    WITH asked AS (
        SELECT section_query('{configuration}', $1, $2, $3) AS query,
               section_query('{configuration}', $4, '{{}}', '{{}}') AS wanted
    ),
    best AS (
        SELECT chat_history.*, ts_rank({words}, wanted, 1)::float8 AS rank
          FROM asked
          JOIN chat_history ON {words} @@ query
         WHERE {"user_id = $5" if by_user else "$5::bigint IS NULL"}
           AND {"thread_id = $6" if by_thread else "$6::text IS NULL"}
         ORDER BY rank DESC, position DESC
         LIMIT $7
    )
    SELECT {_COLUMNS}, rank, section_marks('{configuration}', {text}, $4) AS marks
      FROM best
     ORDER BY rank DESC, position DESC
    """


async def search_chat_history(
    search_term: str,
    limit: int = 50,
    *,
    user_id: int | None = None,
    thread_id: str | None = None,
    language: str = "english",
    conn: Connection | None = None,
) -> list[Message]:
    """
    The messages whose question or answer fits *search_term* best, best first; an empty list where none does.

    Words are alternatives, "quoted words" must occur side by side, -words must not occur; no text is a wrong query.
    Each message comes with `rank` and `snippet`. Looks through the messages of *user_id* or *thread_id*; with neither,
    through all of them, which takes its time where there are many.
    """
    _check_user(user_id)
    check_page(limit, 0, ChatHistoryError)
    asked = parse_question(search_term)
    configuration = text_search_configuration(language)
    if configuration is None:
        raise ChatHistoryError("language= is a name such as 'german' or an ISO 639-1 code such as 'de'")
    if not asked:
        return []
    sql = _search(configuration, user_id is not None, thread_id is not None)
    arguments = (asked.alternatives, asked.demanded, asked.excluded, asked.sought, user_id, thread_id, limit)
    rows = await _read(conn, "search the chat history", lambda c: c.fetch(sql, *arguments))
    return [_found(row, asked.sought) for row in rows]


def _found(row: Record, sought: tuple[str, ...]) -> Message:
    message = _message(row)
    text = f"{message['question']} {message['answer']}"[:_SEARCHED]
    message["snippet"] = make_snippet(text, message.pop("marks"), sought)
    return message


_ROLES = {"human_ai": ("human", "ai"), "openai": ("user", "assistant")}


def format_chat_history(
    chat_history: Iterable[Mapping[str, Any]], style: Literal["human_ai", "openai"] = "human_ai"
) -> list[dict[str, str]]:
    """
    Messages, newest first as `get_recent_chat_history` gives them, as a conversation from the oldest on.

    `[{"role": "human", "content": question}, {"role": "ai", "content": answer}, …]`; with *style* "openai" the roles
    are "user" and "assistant". Raises `ChatHistoryError` for another style.
    """
    if style not in _ROLES:
        raise ChatHistoryError(f"unknown style {style!r}; it is one of {', '.join(_ROLES)}")
    asker, answerer = _ROLES[style]
    return [
        {"role": role, "content": message[part]}
        for message in reversed(list(chat_history))
        for role, part in ((asker, "question"), (answerer, "answer"))
    ]


async def _read(conn: Connection | None, doing: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    return await perform(work, conn=conn, kind=ChatHistoryError, doing=doing, changes=False, repeatable=True)


async def _write(
    conn: Connection | None, doing: str, work: Callable[[Connection], Awaitable[T]], repeatable: bool = True
) -> T:
    return await perform(work, conn=conn, kind=ChatHistoryError, doing=doing, changes=True, repeatable=repeatable)


def _message(row: Record) -> Message:
    message = dict(row)
    message["metadata"] = decode_json(message["metadata"])
    return message


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])


def _check_thread(thread_id: object) -> None:
    if not isinstance(thread_id, str):
        raise ChatHistoryError(f"the thread_id of a chat message is a str, not {type(thread_id).__name__}")


def _check_user(user_id: object) -> None:
    if user_id is None:
        return
    if isinstance(user_id, bool) or not isinstance(user_id, int) or not -(2**63) <= user_id < 2**63:
        raise ChatHistoryError("user_id is an integer of at most 64 bits")
