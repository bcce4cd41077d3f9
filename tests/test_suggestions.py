"""Did you mean: words that are in the documents, for words that are not."""

from __future__ import annotations

import pytest

import database as db
from database import Settings
from database.search.suggestions import suggest_terms


@pytest.fixture
async def library(database: Settings) -> None:
    await db.insert_document("Pools", "pool", "A pool keeps database connections open. Callers wait for a connection.")
    await db.insert_document("Rosen", "rosen", "Die Rosen werden im Frühling geschnitten.", language="de")
    await db.insert_document("Asynchronous code", "async", "Awaiting gives the event loop back to other tasks.")


@pytest.fixture
async def trigrams(library: None) -> None:
    async with db.get_db_connection() as conn:
        if not await conn.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'"):
            pytest.skip("this server has no pg_trgm")
        await conn.execute('CREATE SCHEMA "Ext ra"; CREATE EXTENSION pg_trgm SCHEMA "Ext ra"')


@pytest.mark.usefixtures("trigrams")
@pytest.mark.parametrize("analyzed", [False, True])
async def test_misspelt_words_are_recognized(analyzed: bool) -> None:
    """As the documents spell them, not as stems; with and without statistics, wherever the extension was put."""
    if analyzed:
        async with db.get_db_connection() as conn:
            await conn.execute("ANALYZE document_section")
    found = await suggest_terms("databse conections asynchrnous Frühlnig pool zzzzzz")
    assert [(row["term"], row["suggestion"]) for row in found] == [
        ("databse", "database"), ("conections", "connections"), ("asynchrnous", "asynchronous"),
        ("Frühlnig", "frühling"),
    ]  # fmt: skip
    assert all(0.6 <= row["similarity"] < 1 for row in found)


@pytest.mark.usefixtures("trigrams")
@pytest.mark.parametrize(
    "query", ["", "pool connections", "the", "日本語", "ab", "'\\", "a" * 3000, "pol*", "-databse"]
)
async def test_nothing_to_suggest(query: str) -> None:
    """Words that are there, that are too short, or that nothing is like, have no suggestion."""
    assert await suggest_terms(query) == []


@pytest.mark.usefixtures("library")
async def test_without_the_extension_there_is_no_suggestion() -> None:
    """Nothing has to be installed to ask."""
    assert await suggest_terms("databse") == []
    with pytest.raises(db.DocumentError, match="language="):
        await suggest_terms("databse", language="klingon")


@pytest.mark.usefixtures("trigrams")
async def test_suggestions_in_one_language() -> None:
    """language= compares with the stems of one language."""
    (row,) = await suggest_terms("Frühlnig", language="de")
    assert row["suggestion"] == "frühling"
