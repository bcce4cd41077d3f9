"""Chat history, against a real server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

import database as db

pytestmark = pytest.mark.usefixtures("database")


async def test_a_message_comes_back_as_it_was_saved() -> None:
    """Save returns an id under which the message is found: a plain dict with an aware time."""
    message_id = await db.save_chat_history(1, "t", "What is async?", "Ein Wort: ä 🙂", metadata={"model": "m"})
    message = await db.get_chat_message_by_id(message_id)
    assert message is not None
    assert message.pop("created_at").tzinfo is not None
    assert message == {
        "id": message_id, "thread_id": "t", "user_id": 1, "question": "What is async?", "answer": "Ein Wort: ä 🙂",
        "metadata": {"model": "m"},
    }  # fmt: skip


async def test_history_is_newest_first_and_formats_to_a_conversation() -> None:
    """The page is newest first; formatted, it reads from the oldest on, in either style."""
    for n in range(3):
        await db.save_chat_history(1, "t", f"q{n}", f"a{n}")
    history = await db.get_recent_chat_history("t", limit=2)
    assert [message["question"] for message in history] == ["q2", "q1"]
    assert db.format_chat_history(history) == [
        {"role": "human", "content": "q1"}, {"role": "ai", "content": "a1"},
        {"role": "human", "content": "q2"}, {"role": "ai", "content": "a2"},
    ]  # fmt: skip
    assert db.format_chat_history(history[:1], style="openai") == [
        {"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"}
    ]  # fmt: skip
    assert db.format_chat_history([]) == []
    with pytest.raises(db.ChatHistoryError, match="unknown style 'x'; it is one of human_ai, openai"):
        db.format_chat_history(history, style="x")  # type: ignore[arg-type]


async def test_pages_by_offset_and_by_key_show_every_message_once() -> None:
    """Following `after=` shows what counting with `offset` shows, also when new messages come meanwhile."""
    for n in range(7):
        await db.save_chat_history(1, "t", str(n), "")
    by_offset = [m["question"] for o in range(0, 9, 3) for m in await db.get_recent_chat_history("t", 3, o)]
    by_key: list[str] = []
    after = None
    while page := await db.get_recent_chat_history("t", 3, after=after):
        by_key += [message["question"] for message in page]
        after = page[-1]["id"]
        await db.save_chat_history(1, "t", "new", "")
    assert by_offset == by_key == ["6", "5", "4", "3", "2", "1", "0"]
    assert await db.get_recent_chat_history("t", after=str(uuid4())) == []
    assert await db.get_recent_chat_history("t", after="nonsense") == []


async def test_a_thread_keeps_the_order_of_acknowledgements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves of two clients whose clocks differ are read in the order in which they were acknowledged."""
    from database import ids

    acknowledged: list[str] = []
    for n in range(20):
        # this client's clock is minutes ahead every other time
        monkeypatch.setattr(ids, "_last", ids._last + (1 << 30) if n % 2 else 0)
        acknowledged.append(await db.save_chat_history(1, "t", str(n), ""))
    history = await db.get_recent_chat_history("t", limit=100)
    assert [message["id"] for message in reversed(history)] == acknowledged


async def test_concurrent_saves_to_a_thread_become_visible_in_their_order() -> None:
    """A message that is read is never followed by a new one behind it: positions are committed in their order."""
    seen: list[str] = []

    async def watch() -> None:
        while len(seen) < 60:
            history = await db.get_recent_chat_history("t", limit=100)
            now = [message["id"] for message in reversed(history)]
            assert now[: len(seen)] == seen
            seen[:] = now

    async def save(n: int) -> None:
        await db.save_chat_history(1, "t", str(n), "")

    await asyncio.gather(watch(), *(save(n) for n in range(60)))


async def test_user_id_confines_reads_and_deletes() -> None:
    """Another user's message is neither read nor deleted, not even with its id or its thread."""
    mine = await db.save_chat_history(1, "shared", "mine about cats", "")
    other = await db.save_chat_history(2, "shared", "other about cats", "")
    assert await db.get_chat_message_by_id(other, user_id=1) is None
    assert [m["id"] for m in await db.get_recent_chat_history("shared", user_id=1)] == [mine]
    assert [m["id"] for m in await db.get_recent_chat_history("shared", user_id=1, after=other)] == [mine]
    assert [m["id"] for m in await db.search_chat_history("cats", user_id=1)] == [mine]
    assert await db.delete_chat_message(other, user_id=1) is False
    assert await db.delete_thread_history("shared", user_id=1) == 1
    assert await db.delete_chat_history_before(datetime(2999, 1, 1, tzinfo=UTC), user_id=1) == 0
    assert [m["id"] for m in await db.get_recent_chat_history("shared")] == [other]


async def test_the_threads_of_a_user() -> None:
    """The thread with the latest message first, each with its first question, last time and count; in pages."""
    for thread in ("a", "b", "a", "c"):
        await db.save_chat_history(1, thread, f"question in {thread}", "")
    await db.save_chat_history(2, "d", "not mine", "")
    threads = await db.get_user_threads(1)
    assert [(t["thread_id"], t["first_question"], t["count"]) for t in threads] == [
        ("c", "question in c", 1), ("a", "question in a", 2), ("b", "question in b", 1)
    ]  # fmt: skip
    assert threads[0]["last_at"] >= threads[1]["last_at"]
    assert [t["thread_id"] for t in await db.get_user_threads(1, limit=1, after=threads[0]["last_id"])] == ["a"]
    assert await db.get_user_threads(1, after=threads[-1]["last_id"]) == []
    assert await db.get_user_threads(1, after="nonsense") == []
    await db.save_chat_history(1, "c", "again", "")
    shown = [t["thread_id"] for t in await db.get_user_threads(1, after=threads[0]["last_id"])]
    assert shown == ["a", "b"], "a message that came meanwhile repeated a thread of the page before"
    assert await db.get_user_threads(3) == []


async def test_deleting() -> None:
    """A message, a thread, all before a time; each says how much there was."""
    first = await db.save_chat_history(1, "t", "q", "a")
    message = await db.get_chat_message_by_id(first)
    assert message is not None
    assert await db.delete_chat_history_before(message["created_at"]) == 0
    await db.save_chat_history(1, "t", "q", "a")
    await db.save_chat_history(1, "u", "q", "a")
    assert await db.delete_chat_message(first) is True
    assert await db.delete_chat_message(first) is False
    assert await db.delete_thread_history("t") == 1
    assert await db.delete_chat_history_before(datetime.now(UTC)) == 1
    with pytest.raises(db.ChatHistoryError, match="time zone"):
        await db.delete_chat_history_before(datetime(2020, 1, 1))


@pytest.mark.parametrize("nonsense", ["", "no-uuid", "1", "x" * 1000, "\0", "019a-"])
async def test_an_id_that_is_no_uuid_is_not_found(nonsense: str) -> None:
    """It is no error: nothing is stored under it."""
    assert await db.get_chat_message_by_id(nonsense) is None
    assert await db.delete_chat_message(nonsense) is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"user_id": 2**63}, "user_id is an integer of at most 64 bits"),
        ({"user_id": "1"}, "user_id is an integer"),
        ({"user_id": True}, "user_id is an integer"),
        ({"thread_id": ""}, "the thread_id of a chat message must not be empty"),
        ({"question": None}, "the question of a chat message is a str, not NoneType"),
        ({"answer": "a\0"}, "cannot save a message to thread 't': a text holds a NUL"),
        ({"metadata": {"a": float("inf")}}, "the metadata of a chat message is not JSON"),
    ],
)
async def test_what_cannot_be_saved_is_refused_with_its_reason(arguments: dict[str, Any], message: str) -> None:
    """`ChatHistoryError` names the reason, and nothing is stored."""
    call: dict[str, Any] = {"user_id": 1, "thread_id": "t", "question": "q", "answer": "a"} | arguments
    with pytest.raises(db.ChatHistoryError, match=message):
        await db.save_chat_history(**call)
    assert await db.get_recent_chat_history("t") == []


async def test_searching_the_history() -> None:
    """Questions and answers are searched, best first with the words marked; nothing and nonsense find nothing."""
    await db.save_chat_history(1, "t", "How do I bake bread?", "With flour, water and patience.")
    await db.save_chat_history(1, "u", "What is asyncio?", "An event loop, not bread.")
    best, second = await db.search_chat_history("baking bread")
    assert best["thread_id"] == "t"
    assert best["rank"] > second["rank"]
    assert "<mark>bread</mark>" in second["snippet"]
    assert [m["thread_id"] for m in await db.search_chat_history("bread -asyncio")] == ["t"]
    assert [m["thread_id"] for m in await db.search_chat_history('"event loop"', thread_id="u")] == ["u"]
    assert await db.search_chat_history("'; DROP TABLE chat_history; -- & | ! ( \0") == []
    assert await db.search_chat_history("") == []
    with pytest.raises(db.ChatHistoryError, match="language="):
        await db.search_chat_history("x", language="'; --")


async def test_calls_with_conn_belong_to_the_callers_transaction() -> None:
    """With conn=, nothing is saved when the caller rolls back."""
    with pytest.raises(RuntimeError):
        async with db.get_db_transaction() as conn:
            await db.save_chat_history(1, "t", "q", "a", conn=conn)
            assert len(await db.get_recent_chat_history("t", conn=conn)) == 1
            raise RuntimeError
    assert await db.get_recent_chat_history("t") == []


async def test_a_huge_message_does_not_break_the_search() -> None:
    """A message with more different words than a tsvector holds is stored and searched like any other."""
    huge = " ".join(f"word{n}" for n in range(300_000))
    await db.save_chat_history(1, "t", "first question", huge)
    await db.save_chat_history(1, "t", "second question", "short")
    assert len(await db.search_chat_history("question", user_id=1)) == 2
    assert len(await db.search_chat_history("word7")) == 1


async def test_a_clean_up_ends_only_when_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when somebody else deletes some of the same messages: a batch that comes short is not the last one."""
    from database import chat_history

    monkeypatch.setattr(chat_history, "_DELETE_ROWS", 10)
    for n in range(35):
        await db.save_chat_history(1, "t", str(n), "")
    async with db.get_db_transaction() as conn:
        await conn.execute("DELETE FROM chat_history WHERE question = '3'")
        deleting = asyncio.create_task(db.delete_chat_history_before(datetime.now(UTC)))
        async with db.get_db_connection() as other:
            while not await other.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ):
                await asyncio.sleep(0.01)
    assert await deleting == 34
    assert await db.get_recent_chat_history("t") == []


async def test_old_messages_that_cannot_be_deleted_end_the_clean_up() -> None:
    """A trigger of the application keeps them: an error says so, and nobody asks again and again."""
    await db.save_chat_history(1, "t", "q", "a")
    await db.execute_with_retry(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
    )
    await db.execute_with_retry(
        "CREATE TRIGGER keep BEFORE DELETE ON chat_history FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    async with asyncio.timeout(30):
        with pytest.raises(db.ChatHistoryError, match="1 stay"):
            await db.delete_chat_history_before(datetime.now(UTC) + timedelta(days=1))
