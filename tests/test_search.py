"""Searching documents, against a real server; and what a typed query means."""

from __future__ import annotations

import pytest

import database as db
from database import Settings


async def codes(search_term: str, **options: object) -> list[str]:
    return [document["code"] for document in await db.search_documents(search_term, **options)]  # type: ignore[arg-type]


@pytest.fixture
async def library(database: Settings) -> None:
    for code, name, content in (
        ("pool", "Connection pools", "A pool keeps connections open. Callers wait for a free connection."),
        ("async", "Async programming", "An event loop runs many tasks; awaiting gives the loop back."),
        ("bread", "Baking bread", "Flour, water, salt and patience. Knead, wait, bake."),
        ("mixed", "Notes", "Somebody wrote about async baking. " + "Nothing else matters here. " * 40),
    ):
        await db.insert_document(name, code, content)


@pytest.mark.usefixtures("library")
async def test_words_are_alternatives_and_stemmed() -> None:
    """One word is enough to be found, in any of its forms; more and better fits come first."""
    assert await codes("connected pooling") == ["pool"]
    *better, worst = await codes("async bread")
    assert (set(better), worst) == ({"async", "bread"}, "mixed")
    assert set(await codes("how does one wait for connections?")) == {"pool", "bread"}


@pytest.mark.usefixtures("library")
async def test_quotes_demand_and_minus_forbids() -> None:
    """A quoted phrase must occur, in its order; a word or phrase behind a minus must not."""
    assert await codes('"event loop"') == ["async"]
    assert await codes('"loop event"') == []
    assert await codes('"event loop" bread') == ["async"]
    assert await codes("async -baking") == ["async"]
    assert await codes('wait -"free connection"') == ["bread"]
    assert await codes('"event loop" "gives the loop"') == ["async"]


@pytest.mark.usefixtures("library")
async def test_rows_have_rank_and_a_marked_snippet() -> None:
    """rank falls from row to row; the snippet shows the words in <mark>; the title counts more than the text."""
    rows = await db.search_documents("async")
    assert [row["code"] for row in rows] == ["async", "mixed"]
    assert rows[0]["rank"] > rows[1]["rank"] > 0
    assert "<mark>async</mark>" in rows[1]["snippet"]
    assert len(rows[1]["snippet"]) < len(rows[1]["content"])
    assert "content" not in (await db.search_documents("async", content=False))[0]
    assert len(await db.search_documents("async", limit=1)) == 1
    assert await db.search_documents("async", limit=0) == []


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "search_term",
    ["", " ", '"', '""', "-", "--", '-"', "the", "or", "OR or", "& | ! ( ) : * <->", "a:b & c", "'; DROP TABLE x",
     "\0", "\ud800", "💥", "%", "\\", "$1", "{columns}", "x" * 100_000, "wait " * 5_000, '"' * 999, "-a -b", "<mark>"],
)  # fmt: skip
async def test_any_text_is_a_query(search_term: str) -> None:
    """Whatever is typed is answered, with rows or with none."""
    assert isinstance(await db.search_documents(search_term), list)
    assert isinstance(await db.search_chat_history(search_term), list)
    assert await db.get_document_count() == 4


async def test_documents_of_several_languages_are_found_in_their_own(database: Settings) -> None:
    """Each document is stemmed in its language; language= confines the search; unknown languages are not stemmed."""
    await db.insert_document("Häuser", "de", "Viele Häuser stehen am Fluss.", language="de")
    await db.insert_document("Houses", "en", "Many houses stand at the river.")
    await db.insert_document("家", "ja", "家 川", language="ja")
    assert await codes("Haus") == ["de"]
    assert await codes("house") == ["en"]
    assert await codes("家") == ["ja"]
    assert await codes("Haus house", language="german") == ["de"]
    row = (await db.search_documents("Haus"))[0]
    assert row["language"] == "german"
    assert "<mark>Häuser</mark>" in row["snippet"]


async def test_a_long_quotation_is_found(database: Settings) -> None:
    """A whole paragraph in quotation marks is a phrase like any other."""
    words = "the quick brown fox jumps over a lazy dog while many other animals of the forest watch from behind trees"
    paragraph = f"{words} and wonder, {words} and wonder, {words} and wonder"
    await db.insert_document("n", "c", f"Once {paragraph}, they say.")
    assert await codes(f'"{paragraph}"') == ["c"]
    assert await codes(f'"{paragraph} zebra"') == []
