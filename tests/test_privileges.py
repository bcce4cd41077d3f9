"""Least privilege: the application's role owns nothing, and can do everything but change tables."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import database as db
from database.search import word_lists
from database.settings import Settings

from .roles import connected_as, login_role

_PAGE = Path(__file__).parent.parent / "docs" / "security.md"


def grants(owner: str, app: str) -> list[str]:
    """The SQL of the page on security, for roles of other names."""
    section = _PAGE.read_text(encoding="utf-8").partition("## Least privilege")[2]
    blocks = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    return [block.replace("shop_owner", owner).replace("shop_app", app) for block in blocks]


@pytest.fixture
async def as_application(empty_database: Settings) -> AsyncIterator[None]:
    """One role has made the tables, as the page says; the package connects as the other."""
    async with login_role() as owner, login_role() as app:
        before, after = grants(owner, app)
        async with db.get_db_connection() as conn:
            await conn.execute(re.sub(r"CREATE ROLE .*?;", "", before))
        async with connected_as(owner, empty_database):
            await db.init_document_table()
            await db.init_chat_history_table()
            await db.execute_with_retry("SELECT 1")
            async with db.get_db_connection() as conn:
                await conn.execute(after)
        async with connected_as(app, empty_database):
            yield


async def test_the_application_can_do_everything_but_migrations(
    as_application: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of call works for a role that owns nothing, with the few rights that the page grants it."""
    await db.init_document_table()
    await db.init_chat_history_table()
    (tmp_path / "a.md").write_text("# A\n\ntext\n")
    assert (await db.ingest_directory(tmp_path))["inserted"] == 1
    await db.insert_document("n", "c", "some tea")
    assert (await db.upsert_document("n", "c", "more tea"))["status"] == "updated"
    assert await db.update_document_content("c", "still more tea")
    assert [each["code"] for each in await db.search_documents("tea")] == ["c"]
    assert [each["code"] for each in await db.search_sections("tea")] == ["c"]
    assert await db.suggest_terms("teaa") is not None
    monkeypatch.setattr(word_lists, "SECTIONS_FROM", 1)
    assert (await db.refresh_search_index())["sections"] == 2
    assert {each["state"] for each in await db.migration_status()} == {"applied"}
    assert all((await db.verify_schema("public", tables=["document", "chat_history"])).values())
    assert len(await db.get_list_of_documents()) == await db.get_document_count() == 2
    assert await db.get_document_count(estimate=True) >= 0
    assert len([each async for each in db.iter_documents()]) == 2
    assert await db.delete_document("c")
    message = await db.save_chat_history(1, "t", "q", "a")
    assert len(await db.get_recent_chat_history("t")) == len(await db.get_user_threads(1)) == 1
    assert len(await db.search_chat_history("q", user_id=1)) == 1
    assert await db.delete_chat_message(message)
    assert await db.delete_thread_history("t") == await db.delete_chat_history_before(datetime.now(UTC)) == 0
    assert await db.repository.insert("document", {"code": "r", "name": "n", "content": "t"})
    assert await db.repository.count("document") == 2
    assert await db.execute_with_retry("UPDATE document SET name = 'x' WHERE code = $1", "r") == "UPDATE 1"
    async with db.get_db_transaction() as conn:
        await db.delete_document("r", conn=conn)
    assert (await db.health_report())["status"] == "healthy"


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE mine (a int)",
        "ALTER TABLE document ADD COLUMN mine int",
        "DROP TABLE document",
        "TRUNCATE chat_history",
        "CREATE INDEX ON document (name)",
        "CREATE RULE mine AS ON INSERT TO document DO INSTEAD NOTHING",
        "ALTER TABLE document DISABLE ROW LEVEL SECURITY",
        "UPDATE database_migration SET checksum = ''",
        "DELETE FROM database_migration",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY document TO PROGRAM 'cat'",
    ],
)
async def test_the_application_cannot_change_tables(as_application: None, sql: str) -> None:
    """What it has no business with is refused by the server."""
    with pytest.raises(db.DatabaseError) as caught:
        await db.execute_with_retry(sql)
    assert caught.value.sqlstate == "42501"


async def test_without_tables_the_application_is_told_who_makes_them(empty_database: Settings) -> None:
    """A migration by the wrong role fails with the way out, and leaves nothing behind."""
    async with login_role() as app, connected_as(app, empty_database):
        with pytest.raises(db.SchemaError, match=r"may not create tables; GRANT CREATE.*or let its owner run this"):
            await db.init_document_table()
