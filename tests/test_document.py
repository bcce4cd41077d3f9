"""Documents, against a real server."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

import database as db
from database import Settings
from database.document_batches import (
    delete_documents,
    upsert_documents,
)

pytestmark = pytest.mark.usefixtures("database")


async def test_a_document_comes_back_as_it_was_stored() -> None:
    """What insert returns and what get returns are the same: plain dicts, ids as str, aware times, metadata as dict."""
    stored = await db.insert_document("Näme", "code/ü", "Zeile 1\r\nline 2\n", metadata={"tags": ["a"], "n": 1.5})
    assert stored == await db.get_document_by_code("code/ü")
    assert list(stored) == [
        "id", "name", "code", "content", "metadata", "language", "source", "created_at", "updated_at"
    ]  # fmt: skip
    assert type(stored) is dict
    assert str(UUID(stored["id"])) == stored["id"]
    assert stored["content"] == "Zeile 1\r\nline 2\n"
    assert stored["metadata"] == {"tags": ["a"], "n": 1.5}
    assert stored["created_at"].tzinfo is not None
    assert abs(datetime.now(UTC) - stored["created_at"]) < timedelta(minutes=5)


async def test_a_code_is_taken_once() -> None:
    """A second insert under a code is refused with its SQLSTATE and leaves the first one alone."""
    await db.insert_document("first", "code", "one")
    with pytest.raises(db.DocumentError, match="there is one under this code already; upsert_document") as caught:
        await db.insert_document("second", "code", "two")
    assert caught.value.sqlstate == "23505"
    assert not caught.value.retryable
    document = await db.get_document_by_code("code")
    assert document is not None
    assert document["name"] == "first"


async def test_a_taken_code_does_not_spoil_the_callers_transaction() -> None:
    """Inside a transaction, a refused insert can be handled and the rest is committed."""
    async with db.get_db_transaction() as conn:
        await db.insert_document("a", "a", "a", conn=conn)
        with pytest.raises(db.DocumentError):
            await db.insert_document("b", "a", "b", conn=conn)
        await db.insert_document("c", "c", "c", conn=conn)
    assert await db.get_document_count() == 2


async def test_upsert_tells_what_it_did() -> None:
    """inserted, updated, unchanged: the last writes nothing, not even a new version of the row."""
    first = await db.upsert_document("n", "c", "one", metadata={"k": 1}, language="de")
    assert first["status"] == "inserted"
    async with db.get_db_connection() as conn:
        version = await conn.fetchval("SELECT xmin::text FROM document")
    again = await db.upsert_document("n", "c", "one")
    assert again["status"] == "unchanged"
    assert again["metadata"] == {"k": 1}
    assert again["language"] == "german"
    async with db.get_db_connection() as conn:
        assert await conn.fetchval("SELECT xmin::text FROM document") == version
    changed = await db.upsert_document("n", "c", "two")
    assert changed["status"] == "updated"
    assert changed["id"] == first["id"]
    assert changed["created_at"] == first["created_at"]
    assert changed["updated_at"] > first["updated_at"]
    assert changed["metadata"] == {"k": 1}
    del changed["status"]
    assert await db.get_document_by_code("c") == changed
    assert (await db.upsert_document("n", "c", "two", metadata={}))["metadata"] == {}


async def test_concurrent_upserts_of_one_code_leave_one_document() -> None:
    """Fifty upserts of one code at once: one document, one of the fifty contents, exactly one was the insert."""
    results = await asyncio.gather(*(db.upsert_document("n", "c", f"text {n}") for n in range(50)))
    assert [result["status"] for result in results].count("inserted") == 1
    assert await db.get_document_count() == 1


async def test_many_documents_at_once_in_any_order_do_not_deadlock() -> None:
    """Batches with the same codes in opposite orders, at once, all succeed."""
    batch = [{"name": "n", "code": f"c{n}", "content": ""} for n in range(50)]

    async def write(round_: int) -> None:
        documents = [document | {"content": str(round_)} for document in batch]
        await upsert_documents(documents if round_ % 2 else documents[::-1])

    await asyncio.gather(*(write(round_) for round_ in range(10)))
    assert await db.get_document_count() == 50


async def test_many_documents_are_stored_all_or_none() -> None:
    """One that PostgreSQL refuses, or the same code twice, and nothing of the call is stored."""
    good = {"name": "n", "code": "good", "content": "text"}
    with pytest.raises(db.DocumentError, match="NUL"):
        await upsert_documents([good, {"name": "n", "code": "bad", "content": "a\0b"}])
    with pytest.raises(db.DocumentError, match="'good' is the code of two of them"):
        await upsert_documents([good, good])
    assert await db.get_document_count() == 0
    assert await upsert_documents([]) == []
    statuses = [each["status"] for each in await upsert_documents([good, good | {"code": "b"}])]
    assert statuses == ["inserted", "inserted"]


async def test_the_longest_code_is_stored() -> None:
    """A code of 2,000 bytes that cannot be compressed fits into the indexes."""
    code = "".join(random.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-_", k=2_000))
    await db.insert_document("n", code, "t")
    assert (await db.get_documents_by_codes([code]))[0]["code"] == code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"code": ""}, "the code of a document must not be empty"),
        ({"code": None}, "the code of a document is a str, not NoneType"),
        ({"content": b"bytes"}, "the content of a document is a str, not bytes"),
        ({"content": "a\0b"}, "cannot store document 'c': a text holds a NUL character"),
        ({"name": "a\0b"}, "cannot store document 'c': a text holds a NUL character"),
        ({"content": "\ud800"}, "cannot store document 'c': a value has a type or a character that its PostgreSQL"),
        ({"code": "é" * 1_001}, "cannot store document 'é{100}…': its code has more than 2,000 bytes"),
        ({"metadata": {"x": float("nan")}}, "the metadata of document 'c' is not JSON"),
        ({"metadata": {"x": object()}}, "the metadata of document 'c' is not JSON"),
        ({"metadata": ["no", "dict"]}, "the metadata of document 'c' is a dict, not list"),
        ({"metadata": {"x": "\0"}}, r"cannot store document 'c': a text holds \\u0000"),
        ({"language": "klingon!"}, "the language of document 'c' is a name such as 'german'"),
        ({"content": "x" * (64 * 2**20 + 1)}, "cannot store document 'c': it has more than 64 MiB; split it"),
    ],
)
async def test_what_cannot_be_stored_is_refused_with_its_reason(arguments: dict[str, Any], message: str) -> None:
    """Insert and upsert both raise `DocumentError` that names the document and the reason, and store nothing."""
    call = {"name": "n", "code": "c", "content": "t"} | arguments
    for function in (db.insert_document, db.upsert_document):
        with pytest.raises(db.DocumentError, match=message) as caught:
            await function(**call)
        assert not caught.value.retryable
    assert await db.get_document_count() == 0


async def test_a_document_of_five_megabytes_is_accepted() -> None:
    """Neither its size nor its 750,000 different words, too many for one tsvector, are a reason to refuse."""
    content = " ".join(f"w{number:x}" for number in range(750_000))
    assert len(content) > 5_000_000
    await db.insert_document("large", "large", content)
    document = await db.get_document_by_code("large")
    assert document is not None
    assert document["content"] == content
    assert [found["code"] for found in await db.search_documents("w1f", content=False)] == ["large"]


async def test_text_of_any_script_comes_back() -> None:
    """Every character that UTF-8 can hold, except NUL, is stored and read as it is."""
    text = "".join(chr(n) for n in [*range(1, 0xD800), *range(0xE000, 0x11000), 0x1F600, 0x10FFFF])
    await db.insert_document("n", "c", text)
    assert (await db.get_documents_by_codes(["c"]))[0]["content"] == text


async def test_nothing_is_found_under_an_unknown_code() -> None:
    """None, False, an empty list: an unknown code is no error."""
    assert await db.get_document_by_code("no") is None
    assert await db.update_document_content("no", "x") is False
    assert await db.delete_document("no") is False
    assert await db.get_documents_by_codes(["no"]) == []
    assert await db.get_list_of_documents() == []
    assert await db.get_document_count() == 0
    assert [document async for document in db.iter_documents()] == []


async def test_documents_by_codes_keep_the_order_asked_for() -> None:
    """The documents come in the order of the codes; unknown codes are left out; a code asked twice comes twice."""
    for code in "abc":
        await db.insert_document(code, code, code)
    found = await db.get_documents_by_codes(["c", "x", "a", "c"])
    assert [document["code"] for document in found] == ["c", "a", "c"]
    assert found[0] is not found[2]


async def test_update_and_delete() -> None:
    """Both say whether there was a document; what they did is there for the next call."""
    before = await db.insert_document("n", "c", "old")
    assert await db.update_document_content("c", "new") is True
    after = await db.get_document_by_code("c")
    assert after is not None
    assert after["content"] == "new"
    assert after["updated_at"] > before["updated_at"]
    assert await db.delete_document("c") is True
    assert await db.get_document_by_code("c") is None
    for n in range(3):
        await db.insert_document("n", str(n), "t")
    assert await delete_documents(["0", "2", "x"]) == 2
    assert await db.get_document_count() == 1


async def test_pages_by_offset_and_by_key_show_every_document_once() -> None:
    """Newest first; following `after=` shows what counting with `offset` shows."""
    for n in range(10):
        await db.insert_document("n", f"c{n}", "t")
    by_offset = [d["code"] for o in range(0, 12, 3) for d in await db.get_list_of_documents(3, o)]
    by_key: list[str] = []
    after = None
    while page := await db.get_list_of_documents(limit=3, after=after):
        by_key += [document["code"] for document in page]
        after = page[-1]["id"]
    assert by_offset == by_key == [f"c{n}" for n in reversed(range(10))]
    assert "content" not in (await db.get_list_of_documents(1, content=False))[0]
    assert await db.get_list_of_documents(limit=0) == []


async def test_a_page_with_its_totals() -> None:
    """items, total, page, page_size and total_pages fit together, also behind the last page and in an empty table."""
    assert await db.list_documents_page() == {
        "items": [], "total": 0, "page": 1, "page_size": 20, "total_pages": 0
    }  # fmt: skip
    for n in range(5):
        await db.insert_document("n", f"c{n}", "t")
    page = await db.list_documents_page(2, page_size=2)
    assert [document["code"] for document in page.pop("items")] == ["c2", "c1"]
    assert page == {"total": 5, "page": 2, "page_size": 2, "total_pages": 3}
    behind = await db.list_documents_page(page=9, page_size=2)
    assert behind["items"] == []
    assert behind["total"] == 5


@pytest.mark.parametrize(
    "call",
    [
        lambda: db.get_list_of_documents(limit=-1),
        lambda: db.get_list_of_documents(offset=-1),
        lambda: db.get_list_of_documents(limit=2**63),
        lambda: db.get_list_of_documents(after="nonsense"),
        lambda: db.list_documents_page(page=0),
        lambda: db.list_documents_page(page_size=0),
        lambda: db.search_documents("x", limit=-1),
        lambda: db.search_documents("x", language="?"),
    ],
)
async def test_a_page_that_cannot_be_is_refused(call: Any) -> None:
    """Negative and absurd page arguments raise `DocumentError` before anything is sent."""
    with pytest.raises(db.DocumentError):
        await call()


async def test_iter_documents_gives_each_once_in_bounded_batches() -> None:
    """Every document, oldest first, whatever their sizes; several batches by count and by bytes."""
    for start in range(0, 600, 200):
        await upsert_documents(
            [{"name": "n", "code": f"{n:04}", "content": "x" * (n % 7)} for n in range(start, start + 200)]
        )
    for n in range(600, 604):
        await db.insert_document("n", f"{n:04}", "y" * 3_000_000)
    assert [document["code"] async for document in db.iter_documents()] == [f"{n:04}" for n in range(604)]


async def test_iter_documents_holds_no_connection_between_batches(database: Settings) -> None:
    """The caller may use the only connection of the pool in the middle of the loop."""
    await db.insert_document("n", "a", "t")
    await db.insert_document("n", "b", "t")
    seen = []
    async for document in db.iter_documents():
        seen.append((await db.get_document_by_code(document["code"]) or {})["code"])
        stats = await db.get_pool_stats()
        assert stats["in_use"] == 0
    assert seen == ["a", "b"]


async def test_the_estimated_count_is_near_the_exact_one() -> None:
    """Before the server has counted, the estimate is exact; after ANALYZE it follows what was counted."""
    await upsert_documents([{"name": "n", "code": str(n), "content": "t"} for n in range(250)])
    assert await db.get_document_count() == await db.get_document_count(estimate=True) == 250
    async with db.get_db_connection() as conn:
        await conn.execute("ANALYZE document")
    assert await db.get_document_count(estimate=True) == 250


async def test_calls_with_conn_belong_to_the_callers_transaction() -> None:
    """With conn=, nothing is stored before the caller commits, and nothing is left when the caller rolls back."""
    with pytest.raises(RuntimeError):
        async with db.get_db_transaction() as conn:
            await db.insert_document("n", "a", "t", conn=conn)
            await db.upsert_document("n", "b", "t", conn=conn)
            assert await db.get_document_count(conn=conn) == 2
            assert await db.get_document_count() == 0
            raise RuntimeError
    assert await db.get_document_count() == 0


async def test_rows_are_the_callers_own() -> None:
    """Changing what one call returned changes nothing for another."""
    await db.insert_document("n", "c", "t", metadata={"list": [1]})
    first, second = await asyncio.gather(db.get_document_by_code("c"), db.get_document_by_code("c"))
    assert first is not None
    assert second is not None
    first["metadata"]["list"].append(2)
    first["content"] = "changed"
    assert second["metadata"] == {"list": [1]}
    json.dumps(second, default=str)


async def test_without_its_table_every_function_says_what_to_call(empty_database: Settings) -> None:
    """The error names the table that is missing and the function that makes it."""
    with pytest.raises(db.DocumentError, match=r"init_document_table\(\)"):
        await db.get_document_by_code("c")


@pytest.mark.parametrize("call", [{}, {"after": str(UUID(int=2**127))}, {"offset": 5}])
async def test_a_page_of_documents_is_read_from_the_index(call: dict[str, Any]) -> None:
    """The first page and any other: the server walks along the primary key and sorts nothing."""
    from database import document

    columns = document._COLUMNS
    after = UUID(call["after"]) if "after" in call else None
    query = (document._LIST_AFTER if after else document._LIST).format(columns=columns)
    async with db.get_db_transaction() as conn:
        await conn.execute("SET LOCAL enable_seqscan = off")
        plan = await conn.fetch(f"EXPLAIN {query}", 20, call.get("offset", 0), *([after] if after else []))
    text = "\n".join(row[0] for row in plan)
    assert "document_pkey" in text
    assert "Sort" not in text


_WAITING = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


async def _committed_while_waiting(database: Settings, change: str, call: Any) -> Any:
    """The result of *call*, made to wait for a transaction that runs *change*, which is committed then."""
    async with db.get_db_transaction() as conn:
        await conn.execute(change)
        waiting = asyncio.create_task(call())
        async with db.get_db_connection() as other:
            for _ in range(1_000):
                if await other.fetchval(_WAITING):
                    break
                await asyncio.sleep(0.01)
            else:
                pytest.fail("the call did not wait for the transaction")
    return await waiting


async def test_a_repeated_insert_that_waits_for_its_first_attempt_finds_it(
    database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the first attempt was lost while it was being committed: its document is the result, no error."""
    key = UUID("01900000-0000-7000-8000-000000000001")
    monkeypatch.setattr("database.document.uuid7", lambda: key)
    first = f"INSERT INTO document (id, code, name, content, language) VALUES ('{key}', 'c', 'n', 't', 'english')"
    document = await _committed_while_waiting(database, first, lambda: db.insert_document("n", "c", "t"))
    assert document["id"] == str(key)


async def test_an_upsert_shows_what_a_concurrent_one_stored(database: Settings) -> None:
    """Where another transaction stores the same meanwhile, the result is that row, unchanged, not the one before."""
    await db.insert_document("old", "c", "old", metadata={"v": 1})
    change = "UPDATE document SET name = 'new', content = 'new', metadata = '{\"v\": 2}', updated_at = now()"
    call = lambda: db.upsert_document("new", "c", "new", metadata={"v": 2})  # noqa: E731
    document = await _committed_while_waiting(database, change, call)
    assert (document["name"], document["metadata"], document["status"]) == ("new", {"v": 2}, "unchanged")
    del document["status"]
    assert document == await db.get_document_by_code("c")


@pytest.mark.parametrize("event", ["INSERT", "UPDATE"])
async def test_a_trigger_that_swallows_rows_is_an_error(database: Settings, event: str) -> None:
    """An upsert that the application's own trigger makes nothing of ends, and says so."""
    if event == "UPDATE":
        await db.insert_document("n", "c", "before")
    async with db.get_db_connection() as conn:
        await conn.execute(f"""
            CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
            CREATE TRIGGER swallow BEFORE {event} ON document FOR EACH ROW EXECUTE FUNCTION swallow();
        """)
    with pytest.raises(db.DocumentError, match="the server neither stores nor shows it"):
        await db.upsert_document("n", "c", "after")


async def test_a_str_is_no_list_of_codes() -> None:
    """Asked for "xyz", nobody deletes the documents x, y and z."""
    await db.insert_document("n", "x", "t")
    for function in (delete_documents, db.get_documents_by_codes):
        with pytest.raises(db.DocumentError, match="codes is a list of codes, not a str"):
            await function("xyz")
    assert await db.get_document_count() == 1


async def test_a_batch_of_iter_documents_is_bounded(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """No statement returns more rows or bytes than the bounds say, but for a document that is larger by itself."""
    from database import document

    monkeypatch.setattr(document, "_ITER_ROWS", 4)
    monkeypatch.setattr(document, "_ITER_BYTES", 1_000)
    sizes = [10, 10, 10, 10, 10, 600, 600, 5_000, 10]
    for n, size in enumerate(sizes):
        await db.insert_document("n", f"{n:02}", "x" * size)
    seen = []
    async for each in db.iter_documents():
        stats = await db.get_pool_stats()
        seen.append((stats["requests"], len(each["content"])))
    assert [size for _, size in seen] == sizes
    batches = [[size for request, size in seen if request == number] for number in sorted({r for r, _ in seen})]
    assert all(len(batch) <= 4 and sum(batch[:-1]) < 1_000 for batch in batches)
    assert len(batches) > 3
