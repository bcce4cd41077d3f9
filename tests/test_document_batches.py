"""Documents by the batch, against a real server."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest

import database as db
from database.document_batches import get_document_fingerprints, insert_documents, iter_codes, upsert_documents
from database.ids import uuid7

pytestmark = pytest.mark.usefixtures("database")


async def test_new_documents_are_inserted_by_copy() -> None:
    """What comes back is what was given, of whatever length and with or without metadata and source."""
    long = "日本語 🎉\r\n" * 100_000
    documents: list[dict[str, Any]] = [
        {"name": "é", "code": "b", "content": long, "metadata": {"ä": [1, None, "x"]}, "language": "de", "source": "s"},
        {"name": "", "code": "a", "content": ""},
    ]
    inserted = await insert_documents(documents)
    assert [(row["code"], row["status"]) for row in inserted] == [("b", "inserted"), ("a", "inserted")]
    stored = await db.get_documents_by_codes(["b", "a"])
    assert [row["id"] for row in stored] == [row["id"] for row in inserted]
    columns = ("name", "content", "metadata", "language", "source")
    assert [[row[column] for column in columns] for row in stored] == [
        ["é", long, {"ä": [1, None, "x"]}, "german", "s"], ["", "", {}, "english", None],
    ]  # fmt: skip
    assert await insert_documents([]) == []


async def test_an_insert_finds_what_is_there_already() -> None:
    """Codes that were taken meanwhile are updated or left alone, and those that were not are inserted, each once."""
    kept = await db.insert_document("n", "kept", "same")
    await db.insert_document("n", "taken", "old")
    given = [{"id": uuid7(), "name": "n", "code": code, "content": "same"} for code in ("new", "kept", "taken")]
    rows = await insert_documents(given)
    assert [row["status"] for row in rows] == ["inserted", "unchanged", "updated"]
    assert (rows[0]["id"], rows[1]["id"]) == (str(given[0]["id"]), kept["id"])
    assert [row["status"] for row in await insert_documents(given)] == ["inserted", "unchanged", "unchanged"]
    assert await db.get_document_count() == 3


@pytest.mark.parametrize(
    "bad",
    [{"content": "a\0"}, {"content": "\ud800"}, {"name": "\ud800"}, {"metadata": {"a": "\0"}}, {"language": "klingon"},
     {"code": "x" * 2_001}, {"source": "\0"}],
)  # fmt: skip
@pytest.mark.parametrize("inside", [False, True])
async def test_one_bad_document_keeps_all_from_being_inserted(bad: dict[str, Any], inside: bool) -> None:
    """The error is a `DocumentError`, and with conn= it does not abort the transaction of the caller."""
    given = [{"name": "n", "code": "good", "content": "t"}, {"name": "n", "code": "bad", "content": "t"} | bad]
    async with db.get_db_transaction() as conn:
        with pytest.raises(db.DocumentError):
            async with db.get_db_transaction(conn=conn):
                await insert_documents(given, conn=conn if inside else None)
        assert await db.get_document_count(conn=conn) == 0


async def test_where_a_row_policy_forbids_copy_documents_are_inserted_all_the_same() -> None:
    """PostgreSQL refuses COPY into a table with row-level security; an INSERT that the policy allows goes through."""
    role = f"writer_{uuid.uuid4().hex}"
    with pytest.raises(db.DocumentError) as caught:  # which takes the role away again
        async with db.get_db_transaction() as conn:
            await conn.execute(f"""
                CREATE ROLE {role};
                GRANT SELECT, INSERT, UPDATE ON document TO {role};
                GRANT SELECT, INSERT, DELETE ON document_section TO {role};
                ALTER TABLE document ENABLE ROW LEVEL SECURITY;
                CREATE POLICY own ON document USING (code LIKE 'mine%');
                SET LOCAL ROLE {role};
            """)
            (row,) = await insert_documents([{"name": "n", "code": "mine", "content": "t"}], conn=conn)
            assert row["status"] == "inserted"
            await insert_documents([{"name": "n", "code": "yours", "content": "t"}], conn=conn)
    assert caught.value.sqlstate == "42501"


async def test_fingerprints_and_codes_of_a_source() -> None:
    """The stored hash is the SHA-256 of the UTF-8 text, also after an UPDATE in plain SQL."""
    await upsert_documents([{"name": "n", "code": c, "content": "ä", "source": "s/**.md"} for c in ("b", "a")])
    await db.insert_document("n", "other", "ä")
    (fingerprint,) = (await get_document_fingerprints(["a", "x"])).values()
    assert fingerprint["content_hash"] == hashlib.sha256("ä".encode()).digest()
    async with db.get_db_connection() as conn:
        await conn.execute("UPDATE document SET content = 'ö' WHERE code = 'a'")
    assert (await get_document_fingerprints(["a"]))["a"]["content_hash"] == hashlib.sha256("ö".encode()).digest()
    assert [batch async for batch in iter_codes("s/**.md")] == [["a", "b"]]
    assert [batch async for batch in iter_codes("none")] == []
