"""
Chat history: questions and their answers, in threads.

Every function speaks through *conn* if given, else for itself. A message (one question with its answer) is a dict with
id, thread_id, user_id, question, answer, metadata and created_at. `user_id=` confines a call to that user's messages.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, Literal, TypeVar

from .codecs import encode_metadata
from .connect_db import Connection, Record, perform
from .exceptions import ChatHistoryError
from .ids import as_uuid, uuid7
from .schema import apply_migration
from .search import parse_search, text_search_configuration

T = TypeVar("T")
Message = dict[str, Any]

_DELETE_ROWS = 10_000
_SEARCHED = 100_000  # characters; a tsvector holds 1 MB
_HEADLINE = "StartSel=<mark>, StopSel=</mark>, MaxWords=25, MinWords=10"
_COLUMNS = "id::text AS id, thread_id, user_id, question, answer, metadata::text AS metadata, created_at"


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
    await apply_migration("0002", conn=conn)


# The lock makes the saves of one thread come one after the other: a position is given only when the one before it is
# committed, so positions grow in the order of the acknowledgements. Saves to other threads do not wait.
_SAVE = """
    WITH turn AS MATERIALIZED (
        SELECT pg_advisory_xact_lock(hashtextextended($2, 0))
    )
    INSERT INTO chat_history (id, thread_id, user_id, question, answer, metadata)
    SELECT $1, $2, $3, $4, $5, $6::text::jsonb
      FROM turn
    ON CONFLICT (id, thread_id) DO NOTHING
"""


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
    for what, text in (("thread_id", thread_id), ("question", question), ("answer", answer)):
        if not isinstance(text, str):
            raise ChatHistoryError(f"the {what} of a chat message is a str, not {type(text).__name__}")
    if not thread_id:
        raise ChatHistoryError("the thread_id of a chat message must not be empty")
    message_id = uuid7()
    encoded = encode_metadata(metadata, ChatHistoryError, "a chat message")
    arguments = (message_id, thread_id, user_id, question, answer, encoded)
    # 64-bit hash collisions only make two threads take turns
    await _write(conn, f"save a message to thread {thread_id!r}", lambda c: c.execute(_SAVE, *arguments))
    return str(message_id)


_RECENT = _confined(f"""
    SELECT {_COLUMNS}
      FROM chat_history
     WHERE thread_id = $1 {{user}}
     ORDER BY position DESC
     LIMIT $3 OFFSET $4
""")
_RECENT_AFTER = _confined(f"""
    SELECT {_COLUMNS}
      FROM chat_history
     WHERE thread_id = $1 {{user}}
       AND position < (SELECT position FROM chat_history WHERE id = $5 AND thread_id = $1)
     ORDER BY position DESC
     LIMIT $3 OFFSET $4
""")


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
    _check_page(limit, offset)
    arguments: list[Any] = [thread_id, user_id, limit, offset]
    sql = _RECENT[user_id is not None]
    if after is not None:
        last = as_uuid(after)
        if last is None:
            return []
        arguments.append(last)
        sql = _RECENT_AFTER[user_id is not None]
    rows = await _read(conn, f"read thread {thread_id!r}", lambda c: c.fetch(sql, *arguments))
    return [_message(row) for row in rows]


_GET = _confined(f"""
    SELECT {_COLUMNS}
      FROM chat_history
     WHERE id = $1 {{user}}
""")


async def get_chat_message_by_id(
    message_id: str, *, user_id: int | None = None, conn: Connection | None = None
) -> Message | None:
    """The message with this id; None if there is none, also where *message_id* is no UUID."""
    _check_user(user_id)
    key = as_uuid(message_id)
    if key is None:
        return None
    row = await _read(conn, "read a chat message", lambda c: c.fetchrow(_GET[user_id is not None], key, user_id))
    return None if row is None else _message(row)


_DELETE = _confined("""
    DELETE FROM chat_history
     WHERE id = $1 {user}
""")


async def delete_chat_message(message_id: str, *, user_id: int | None = None, conn: Connection | None = None) -> bool:
    """Delete the message with this id; True if there was one."""
    _check_user(user_id)
    key = as_uuid(message_id)
    if key is None:
        return False
    sql = _DELETE[user_id is not None]
    return await _write(conn, "delete a chat message", lambda c: c.execute(sql, key, user_id), False) == "DELETE 1"


_DELETE_THREAD = _confined("""
    DELETE FROM chat_history
     WHERE thread_id = $1 {user}
""")


async def delete_thread_history(thread_id: str, *, user_id: int | None = None, conn: Connection | None = None) -> int:
    """Delete all messages of a thread; how many there were."""
    _check_user(user_id)
    sql = _DELETE_THREAD[user_id is not None]
    status = await _write(conn, f"delete thread {thread_id!r}", lambda c: c.execute(sql, thread_id, user_id), False)
    return _count(status)


# In the order of the key: two clean-ups at once would deadlock.
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
    _check_page(limit, 0)
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
    words = f"to_tsvector('{configuration}', {text})"
    return f"""
    WITH asked AS (
        SELECT CASE WHEN numnode(required) > 0 THEN required ELSE words END && excluded AS query,
               words || required AS wanted
          FROM (SELECT websearch_to_tsquery('{configuration}', $1) AS words,
                       websearch_to_tsquery('{configuration}', $2) AS required,
                       websearch_to_tsquery('{configuration}', $3) AS excluded) AS parts
         WHERE numnode(words) + numnode(required) > 0
    ),
    best AS (
        SELECT chat_history.*, wanted, ts_rank({words}, wanted, 1)::float8 AS rank
          FROM asked
          JOIN chat_history ON {words} @@ query
         WHERE {"user_id = $4" if by_user else "$4::bigint IS NULL"}
           AND {"thread_id = $5" if by_thread else "$5::text IS NULL"}
         ORDER BY rank DESC, position DESC
         LIMIT $6
    )
    SELECT {_COLUMNS}, rank,
           ts_headline('{configuration}', {text}, wanted, '{_HEADLINE}') AS snippet
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
    _check_page(limit, 0)
    query = parse_search(search_term)
    configuration = text_search_configuration(language)
    if configuration is None:
        raise ChatHistoryError("language= is a name such as 'german' or an ISO 639-1 code such as 'de'")
    if not (query.words or query.required):
        return []
    sql = _search(configuration, user_id is not None, thread_id is not None)
    arguments = (*query, user_id, thread_id, limit)
    rows = await _read(conn, "search the chat history", lambda c: c.fetch(sql, *arguments))
    return [_message(row) for row in rows]


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
    return dict(row) | {"metadata": json.loads(row["metadata"])}


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])


def _check_user(user_id: object) -> None:
    if user_id is None:
        return
    if isinstance(user_id, bool) or not isinstance(user_id, int) or not -(2**63) <= user_id < 2**63:
        raise ChatHistoryError("user_id is an integer of at most 64 bits")


def _check_page(limit: object, offset: object) -> None:
    if not isinstance(limit, int) or not isinstance(offset, int):
        raise ChatHistoryError("limit and offset are of type int")
    if not 0 <= limit < 2**63 or not 0 <= offset < 2**63:
        raise ChatHistoryError("limit and offset are not negative")
