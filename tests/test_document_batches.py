"""Documents by the batch, against a real server."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest
from pydantic import SecretStr

import database as db
from database import Settings
from database.document_batches import (
    delete_documents,
    get_document_fingerprints,
    insert_documents,
    iter_codes,
    upsert_documents,
)
from database.ids import uuid7
from database.settings import configure
from tests.proxy import proxy_to

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


async def test_a_row_that_a_trigger_leaves_out_is_not_told_as_inserted() -> None:
    """COPY counts what it has stored; where that is less, each row gets the verdict of an upsert."""
    await db.execute_with_retry("""
        CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN IF NEW.code = 'b' THEN RETURN NULL; END IF; RETURN NEW; END $$
    """)
    await db.execute_with_retry("""
        CREATE TRIGGER leave_out BEFORE INSERT ON document FOR EACH ROW EXECUTE FUNCTION leave_out()
    """)
    with pytest.raises(db.DocumentError, match="'b'"):
        await insert_documents([{"name": "n", "code": code, "content": "t"} for code in "abc"])
    assert await insert_documents([{"name": "n", "code": "d", "content": "t"}])


async def test_what_is_unknown_stays_so_where_the_server_cannot_be_asked(database: Settings, server_url: str) -> None:
    """The answer to COMMIT is lost, and then the server cannot be reached: nobody is told that nothing was stored."""
    name = database.dsn.rpartition("/")[2].partition("?")[0]
    async with proxy_to(server_url) as proxy:
        through_proxy = {"database_url": SecretStr(proxy.url(name)), "connection_timeout": 1.0}
        configure(database.model_copy(update=through_proxy))
        await db.get_document_count()

        async def refuse() -> None:
            proxy.refusing = True
            proxy.cut()

        proxy.swallow, proxy.before_the_cut = b"COMMIT", refuse
        with pytest.raises(db.OutcomeUnknownError):
            await insert_documents([{"name": "n", "code": "a", "content": "t"}])
        proxy.refusing = False
        assert await db.get_document_count() == 1


async def test_documents_of_another_source_are_left_alone() -> None:
    """Who deletes what came from a source deletes nothing that somebody else has stored under the code meanwhile."""
    for code, source in (("a", "s"), ("b", "other"), ("c", None)):
        await insert_documents([{"name": "n", "code": code, "content": "t", "source": source}])
    assert await delete_documents(["a", "b", "c"], source="s") == 1
    assert await delete_documents(["a", "b", "c"]) == 2
